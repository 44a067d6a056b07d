"""Kernel to init on KVM, the whole command, against QEMU's quick machine and its ordinary one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.boot import timed
from benchmarks.harness import Case, Plan, Sample
from benchmarks.kvm_exits import counted
from benchmarks.kvm_guest import MEMORY_MIB, guest_files, ours, qemu, qemu_version, require_kvm, unpacked
from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

SUMMARY = "Debian cloud kernel to init, on KVM"


def count_exits(command: list[str]) -> Sample:
    """Exits to user space of one run; what they were is printed."""
    with counted() as counts:
        result = timed(command).result
    print(f"exits of {command[0].rpartition('/')[2]}: {counts.describe()}", flush=True)
    return Sample(counts.to_user_space.total(), result)


def plan() -> Plan:
    """A quiet boot against microvm (qboot), then with the kernel unpacked for both, against pc, and the exits."""
    require_kvm()
    kernel, initrd = guest_files(lambda *_: None)
    elf = unpacked(kernel)
    quiet = "console=ttyS0 quiet panic=-1 rdinit=/boot-done"

    def case(name: str, machine: str, file: Path) -> Case:
        return Case(
            name,
            lambda: timed(ours(file, initrd, quiet)),
            lambda: timed(qemu(machine, file, initrd, quiet)),
        )

    def exits(machine: str) -> Case:
        return Case(
            f"exits to user space, against {machine}",
            lambda: count_exits(ours(kernel, initrd, quiet)),
            lambda: count_exits(qemu(machine, kernel, initrd, quiet)),
            warm_up=0,
            share=0.2,
        )

    cases = [
        case("against microvm, qboot", "microvm", kernel),
        case("against microvm, both with the unpacked kernel", "microvm", elf),
        case("against pc, SeaBIOS", "pc", kernel),
    ]
    try:
        with counted():
            pass
    except UserError as error:
        print(f"boot: {error}", flush=True)
    else:
        cases += [exits("microvm"), exits("pc")]
    return Plan(
        work=f"Debian's cloud kernel to init and off again on KVM, whole command, {MEMORY_MIB} MiB, one CPU",
        unit="s (a number for exits)",
        peer_name="qemu-system-x86_64 (KVM)",
        cases=cases,
        versions={"QEMU": qemu_version()},
    )
