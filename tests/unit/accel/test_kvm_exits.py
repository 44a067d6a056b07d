"""Exits of tiny real-mode guests on KVM, without the in-kernel interrupt chip unless a test asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pyhyve.accel.api import ExitKind
from pyhyve.kvm.abi import Cap
from pyhyve.kvm.system import KvmSystem
from tests.unit.boot.images import pvh_elf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.unit.accel.conftest import TinyMachine

    Tiny = Callable[..., TinyMachine]


def test_out_gives_port_size_and_value(tiny: Tiny) -> None:
    # mov dx, 0x1234 / mov eax, 0xcafebabe / out dx, al / out dx, ax / out dx, eax / hlt
    machine = tiny("ba3412 66b8bebafeca ee ef 66ef f4", kernel_irqchip=False)
    machine.enter()
    assert machine.outputs_until_halt() == [
        (0x1234, 1, 0xBE),
        (0x1234, 2, 0xBABE),
        (0x1234, 4, 0xCAFEBABE),
    ]


def test_in_takes_the_value_set_before_the_next_run(tiny: Tiny) -> None:
    # in al, 0x60 / mov bl, al / in ax, 0x61 / mov cx, ax / hlt
    machine = tiny("e460 88c3 e561 89c1 f4", kernel_irqchip=False)
    machine.enter()
    answers = iter((0x15A, 0xBEEF))
    machine.run_to(ExitKind.HALT, on_io=lambda: setattr(machine.vcpu.exit, "value", next(answers)))
    registers = machine.vcpu.read_registers()
    assert (registers["rbx"] & 0xFF, registers["rcx"] & 0xFFFF) == (0x5A, 0xBEEF)


def test_string_out_is_one_exit_per_element(tiny: Tiny) -> None:
    # mov si, 0x2000 / mov cx, 5 / mov dx, 0x42 / cld / rep outsb / hlt
    machine = tiny("be0020 b90500 ba4200 fc f36e f4", kernel_irqchip=False)
    machine.memory.write(0x2000, b"hello")
    machine.enter()
    assert bytes(value for _, _, value in machine.outputs_until_halt()) == b"hello"


def test_string_in_fills_memory(tiny: Tiny) -> None:
    # mov di, 0x2000 / mov cx, 4 / mov dx, 0x42 / cld / rep insw / hlt
    machine = tiny("bf0020 b90400 ba4200 fc f36d f4", kernel_irqchip=False)
    machine.enter()
    answers = iter((0x1111, 0x2222, 0x3333, 0x4444))
    machine.run_to(ExitKind.HALT, on_io=lambda: setattr(machine.vcpu.exit, "value", next(answers)))
    assert machine.memory.read(0x2000, 8) == bytes.fromhex("1111222233334444")


def test_mmio_read_and_write(tiny: Tiny) -> None:
    # mov ax, 0x9000 / mov ds, ax / mov dword [0x10], 0x11223344 / mov bx, [0x20] / hlt
    machine = tiny("b80090 8ed8 66c706100044332211 8b1e2000 f4", kernel_irqchip=False)
    machine.enter()
    seen: list[tuple[int, int, bool, int]] = []

    def handle() -> None:
        found = machine.vcpu.exit
        seen.append((found.address, found.size, found.is_write, found.value if found.is_write else 0))
        if not found.is_write:
            found.value = 0xFFFF_A55A

    machine.run_to(ExitKind.HALT, on_io=handle)
    assert seen == [(0x90010, 4, True, 0x11223344), (0x90020, 2, False, 0)]
    assert machine.vcpu.read_registers()["rbx"] & 0xFFFF == 0xA55A


def test_mmio_across_a_page_comes_in_aligned_pieces(tiny: Tiny) -> None:
    # mov ax, 0x9000 / mov ds, ax / mov dword [0xffd], 0x44332211 / hlt
    machine = tiny("b80090 8ed8 66c706fd0f11223344 f4", kernel_irqchip=False)
    machine.enter()
    written: dict[int, int] = {}

    def handle() -> None:
        found = machine.vcpu.exit
        assert found.is_write
        assert found.size in {1, 2, 4, 8}
        for number in range(found.size):
            written[found.address + number] = found.value >> 8 * number & 0xFF

    machine.run_to(ExitKind.HALT, on_io=handle)
    assert written == {0x90FFD: 0x11, 0x90FFE: 0x22, 0x90FFF: 0x33, 0x91000: 0x44}


def test_write_to_read_only_memory_is_mmio(tiny: Tiny) -> None:
    # mov ax, 0xf000 / mov ds, ax / mov al, [0] / mov byte [0], 0x77 / hlt
    machine = tiny("b800f0 8ed8 a00000 c606000077 f4", kernel_irqchip=False)
    rom = machine.memory.add(0xF0000, 0x1000, readonly=True, name="rom")
    machine.memory.write(0xF0000, b"\x5a")
    machine.vm.map_region(rom)
    machine.enter()
    seen: list[tuple[int, int]] = []
    machine.run_to(ExitKind.HALT, on_io=lambda: seen.append((machine.vcpu.exit.address, machine.vcpu.exit.value)))
    assert seen == [(0xF0000, 0x77)]
    assert machine.vcpu.read_registers()["rax"] & 0xFF == 0x5A
    assert machine.memory.read(0xF0000, 1) == b"\x5a"


def test_memory_can_be_added_and_removed_while_the_guest_lives(tiny: Tiny) -> None:
    # mov ax, 0x8000 / mov ds, ax / again: mov byte [0], 1 / out 0x10, al / jmp again
    machine = tiny("b80080 8ed8 c606000001 e610 ebf7", kernel_irqchip=False)
    machine.enter()
    machine.run_to(ExitKind.MMIO)
    machine.run_to(ExitKind.IO)
    region = machine.memory.add(0x80000, 0x1000, name="hot")
    machine.vm.map_region(region)
    machine.run_to(ExitKind.IO)
    assert machine.memory.read(0x80000, 1) == b"\x01"
    machine.vm.unmap_region(region)
    machine.run_to(ExitKind.MMIO)


def test_triple_fault_is_a_shutdown(tiny: Tiny) -> None:
    machine = tiny("0f0b", kernel_irqchip=False)  # ud2 in protected mode, with an empty interrupt table
    segments = {f"{name}.attributes": 0xC093 for name in ("ds", "es", "ss")}
    limits = {f"{name}.limit": 0xFFFFFFFF for name in ("cs", "ds", "es", "ss")}
    selectors = {"cs.selector": 8, "ds.selector": 16, "es.selector": 16, "ss.selector": 16}
    tables = {"idtr.base": 0, "idtr.limit": 0}
    machine.enter(cr0=0x11, **segments, **limits, **selectors, **tables, **{"cs.attributes": 0xC09B})
    machine.run_to(ExitKind.SHUTDOWN)


def test_kick_ends_an_endless_loop(tiny: Tiny) -> None:
    machine = tiny("ebfe", kernel_irqchip=False)
    machine.enter()
    for _ in range(5):
        timer = threading.Timer(0.02, machine.vcpu.kick)
        timer.start()
        started = time.monotonic()
        assert machine.vcpu.run().kind == ExitKind.KICKED
        assert time.monotonic() - started < 60
        timer.join()


def test_kick_before_a_run_ends_that_run_once(tiny: Tiny) -> None:
    machine = tiny("e610 f4", kernel_irqchip=False)
    machine.enter()
    machine.vcpu.kick()
    assert machine.vcpu.run().kind == ExitKind.KICKED
    assert machine.vcpu.run().kind == ExitKind.IO


def test_kick_of_a_closed_vcpu_does_nothing(tiny: Tiny) -> None:
    machine = tiny("e610 f4", kernel_irqchip=False)
    machine.enter()
    machine.run_to(ExitKind.IO)
    vcpu = machine.vcpu
    machine.close()
    vcpu.kick()


def test_kick_survives_reading_registers(tiny: Tiny) -> None:
    machine = tiny("e610 f4", kernel_irqchip=False)
    machine.enter()
    machine.run_to(ExitKind.IO)
    machine.vcpu.kick()
    assert machine.vcpu.read_registers()["rip"] == 0x1002
    assert machine.vcpu.run().kind == ExitKind.KICKED


def test_injected_interrupt_reaches_its_handler(tiny: Tiny) -> None:
    # sti / hlt / hlt; handler at 0x1010: mov al, 0x77 / out 0x10, al / iret
    machine = tiny("fb f4 f4 90909090909090909090909090 b077 e610 cf", kernel_irqchip=False)
    machine.memory.write(0x20 * 4, bytes.fromhex("10100000"))
    machine.enter(**{"idtr.base": 0, "idtr.limit": 0x3FF})
    machine.run_to(ExitKind.HALT)
    machine.vcpu.set_interrupt(pending=True)
    while machine.vcpu.run().kind == ExitKind.KICKED:
        pass
    assert machine.vcpu.exit.kind == ExitKind.INTERRUPT_WINDOW
    machine.vcpu.inject(0x20)
    machine.vcpu.set_interrupt(pending=False)
    while machine.vcpu.run().kind == ExitKind.KICKED:
        pass
    assert (machine.vcpu.exit.kind, machine.vcpu.exit.value) == (ExitKind.IO, 0x77)


def test_nmi_reaches_its_handler(tiny: Tiny) -> None:
    # hlt / hlt; handler at 0x1010: mov al, 0x66 / out 0x10, al / iret
    machine = tiny("f4 f4 9090909090909090909090909090 b066 e610 cf", kernel_irqchip=False)
    machine.memory.write(2 * 4, bytes.fromhex("10100000"))
    machine.enter(**{"idtr.base": 0, "idtr.limit": 0x3FF})
    machine.run_to(ExitKind.HALT)
    machine.vcpu.raise_nmi()
    assert machine.vcpu.run().kind == ExitKind.KICKED
    assert machine.vcpu.run().kind == ExitKind.IO
    assert machine.vcpu.exit.value == 0x66


def test_registers_round_trip(tiny: Tiny) -> None:
    machine = tiny("f4", kernel_irqchip=False)
    values = {
        "rax": 0x1122334455667788, "r15": 2**64 - 1, "rflags": 0x246, "cr0": 0x11, "cs.selector": 0x10, "cs.base": 0,
        "cs.limit": 0xFFFFFFFF, "cs.attributes": 0xC09B, "ds.attributes": 0xC093,
        "ds.limit": 0xFFFFFFFF, "tr.selector": 0x28,
        "gdtr.base": 0x5000, "gdtr.limit": 0x7F, "ldtr.attributes": 0x10000, "cr3": 0x3000,
    }  # fmt: skip
    machine.vcpu.write_registers(values)
    found = machine.vcpu.read_registers()
    assert {name: found[name] for name in values} == values


def test_unknown_register_is_named(tiny: Tiny) -> None:
    machine = tiny("f4", kernel_irqchip=False)
    with pytest.raises(KeyError, match=r"no register xs\.base"):
        machine.vcpu.write_registers({"xs.base": 0})


def test_reset_restores_the_power_on_state(tiny: Tiny) -> None:
    machine = tiny("b81234 e510 f4")  # mov ax, 0x3412 / in ax, 0x10 / hlt
    machine.enter(cr3=0x3000, r9=9)
    machine.run_to(ExitKind.IO)
    machine.vcpu.reset()
    registers = machine.vcpu.read_registers()
    assert (registers["rip"], registers["cs.base"], registers["cs.selector"]) == (0xFFF0, 0xFFFF0000, 0xF000)
    assert (registers["cr3"], registers["r9"], registers["rflags"]) == (0, 0, 2)
    machine.enter()
    machine.run_to(ExitKind.IO)
    assert machine.vcpu.exit.address == 0x10


def test_coalesced_writes_come_before_the_next_exit(tiny: Tiny) -> None:
    # mov ax, 0x9000 / mov ds, ax / mov byte [0], 1 / mov byte [1], 2 / out 0x70, al / out 0x10, al / hlt
    machine = tiny("b80090 8ed8 c606000001 c606010002 e670 e610 f4", kernel_irqchip=False)
    machine.vm.coalesce(0x90000, 0x1000)
    machine.enter()
    seen: list[tuple[ExitKind, int, int]] = []
    machine.run_to(
        ExitKind.HALT,
        on_io=lambda: seen.append((machine.vcpu.exit.kind, machine.vcpu.exit.address, machine.vcpu.exit.value)),
    )
    assert seen == [
        (ExitKind.MMIO, 0x90000, 1),
        (ExitKind.MMIO, 0x90001, 2),
        (ExitKind.IO, 0x70, 0),
        (ExitKind.IO, 0x10, 0),
    ]


def test_instruction_kvm_cannot_emulate_is_reported_with_its_bytes(tiny: Tiny) -> None:
    # mov ax, 0x9000 / mov ds, ax / fld tbyte [0]: x87 on device memory is beyond KVM's emulator
    machine = tiny("b80090 8ed8 db2e0000 f4", kernel_irqchip=False)
    machine.enter()
    machine.run_to(ExitKind.INTERNAL_ERROR)
    assert "KVM internal error 1: it met an instruction that it cannot emulate" in machine.vcpu.exit.message
    assert machine.vcpu.read_registers()["rip"] == 0x1005


def test_execution_where_there_is_no_memory_is_reported(tiny: Tiny) -> None:
    machine = tiny("ea00000090", kernel_irqchip=False)  # jmp 0x9000:0
    machine.enter()
    machine.run_to(ExitKind.INTERNAL_ERROR)
    assert machine.vcpu.exit.message == "the guest executes at 0x90000, where there is no memory"


def test_coalesced_port_writes_come_before_the_next_exit(tiny: Tiny) -> None:
    with KvmSystem() as system:
        if not system.check(Cap.COALESCED_PIO):
            pytest.skip("this KVM does not coalesce port writes")
    # mov al, 7 / out 0x70, al / out 0x70, al / out 0x10, al / hlt
    machine = tiny("b007 e670 e670 e610 f4", kernel_irqchip=False)
    machine.vm.coalesce(0x70, 1, is_port=True)
    machine.enter()
    machine.run_to(ExitKind.IO)
    exit_ = machine.vcpu.exit
    seen = [(exit_.address, exit_.value)]
    registers = machine.vcpu.handle.regs()
    assert registers["rip"] >= 0x1006  # both writes are behind the guest already
    machine.run_to(ExitKind.HALT, on_io=lambda: seen.append((exit_.address, exit_.value)))
    assert seen == [(0x70, 7), (0x70, 7), (0x10, 7)]


def test_pinned_vcpu_runs_on_its_host_cpu(tiny: Tiny) -> None:
    machine = tiny("e610 f4", kernel_irqchip=False)
    machine.enter()
    before = os.sched_getaffinity(0)
    chosen = max(before)
    seen: list[set[int]] = []

    def run() -> None:
        machine.vcpu.pin({chosen})
        machine.vcpu.run()
        seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert seen == [{chosen}]
    assert os.sched_getaffinity(0) == before
    assert machine.vcpu.exit.kind == ExitKind.IO


# What a machine on KVM never needs at its start: LLVM, and modules that are slow to load.
UNWANTED = {
    "llvmlite",
    "asyncio",
    "numpy",
    "rich",
    "lxml",
    "dataclasses",
    "inspect",
    "logging",
    "socket",
    "json",
    "uuid",
    "typing",
    "argparse",
    "pathlib",
    "re",
    "pyhyve.boot.firmware",
    "pyhyve.devices.irq.chip",
}
UNWANTED |= {"tempfile", "shutil", "datetime", "pyhyve.image.opening", "pyhyve.cpu", "pyhyve.accel.emulator"}


def test_machine_on_kvm_loads_no_compiler_and_little_else(tiny: Tiny, tmp_path: Path) -> None:
    tiny("f4")  # skips where there is no KVM
    path = tmp_path / "kernel"
    path.write_bytes(pvh_elf())
    # The software flavour of KVM is refused for kernels; a machine can be made on it all the same.
    program = (
        "import sys; before = set(sys.modules); import pyhyve.accel.select as select; look = select._why_not_kvm; "
        "select._why_not_kvm = lambda: (look(), None)[1]; from pyhyve.cli.main import main; "
        "status = main(); print(*sys.modules.keys() - before); sys.exit(status)"
    )
    options = ["--accel", "kvm", "--memory", "32M", "--console", "none", "--timeout", "0.2", "--kernel", str(path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program, "run", *options], check=False, capture_output=True, text=True, env=environment
    )
    assert done.stderr == "pyhyve run: gave up after 0.2 s\n"
    assert "pyhyve.accel.kvm_vcpu" in done.stdout
    assert UNWANTED & set(done.stdout.split()) == set()
