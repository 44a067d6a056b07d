"""Kernel to init on KVM, the whole command, against QEMU's quick machine and its ordinary one."""

from __future__ import annotations

from benchmarks.boot import timed
from benchmarks.harness import Case, Plan
from benchmarks.kvm_guest import MEMORY_MIB, guest_files, ours, qemu, qemu_version, require_kvm

SUMMARY = "Debian cloud kernel to init, on KVM"


def plan() -> Plan:
    """A quiet boot against microvm (qboot), then against pc (SeaBIOS)."""
    require_kvm()
    kernel, initrd = guest_files(lambda *_: None)
    quiet = "console=ttyS0 quiet panic=-1 rdinit=/boot-done"

    def case(machine: str, name: str, share: float) -> Case:
        return Case(
            name,
            lambda: timed(ours(kernel, initrd, quiet)),
            lambda: timed(qemu(machine, kernel, initrd, quiet)),
            share=share,
        )

    return Plan(
        work=f"Debian's cloud kernel to init and off again on KVM, whole command, {MEMORY_MIB} MiB, one CPU",
        unit="s",
        peer_name="qemu-system-x86_64 (KVM)",
        cases=[case("microvm", "against microvm, qboot", 1.0), case("pc", "against pc, SeaBIOS", 1.0)],
        versions={"QEMU": qemu_version()},
    )
