"""Two vCPUs over one memory: code that one writes and the other runs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pyhyve.accel.api import ExitKind

if TYPE_CHECKING:
    from pyhyve.accel.emulator import EmulatorVcpu
    from tests.unit.cpu.engine.conftest import Guest

CODE = 0x10000
OTHER = 0x20000
ROUNDS = 300


def second_vcpu(guest: Guest) -> EmulatorVcpu:
    """Another vCPU in the same mode."""
    vcpu = guest.vm.create_vcpu(1)
    registers = dict(guest.vcpu.read_registers())
    vcpu.write_registers(registers | {"rsp": 0x70000})
    return vcpu


def test_code_written_by_one_vcpu_is_dropped_by_the_other(guest: Guest) -> None:
    other = second_vcpu(guest)
    guest.code("b001 f4", at=CODE)  # mov al, 1; hlt
    guest.code("c604250100010007 f4".replace(" ", ""), at=OTHER)  # mov byte [CODE + 1], 7; hlt
    assert guest.run_to_halt(rip=CODE)["rax"] & 0xFF == 1
    other.write_registers({"rip": OTHER})
    assert other.run().kind == ExitKind.HALT
    assert guest.run_to_halt(rip=CODE)["rax"] & 0xFF == 7


def test_writer_that_had_a_fast_path_before_the_code_was_translated(guest: Guest) -> None:
    other = second_vcpu(guest)
    guest.code("b001 f4", at=CODE)
    # L: mov [CODE + 1], cl; out 0x60, al; jmp L: the writer's TLB holds the page before anybody runs it
    guest.code("880c2501000100 e660 ebf5", at=OTHER)
    other.write_registers({"rip": OTHER, "rcx": 2})
    assert other.run().kind == ExitKind.IO
    assert guest.run_to_halt(rip=CODE)["rax"] & 0xFF == 2
    other.write_registers({"rcx": 9})
    assert other.run().kind == ExitKind.IO
    assert guest.run_to_halt(rip=CODE)["rax"] & 0xFF == 9


def test_locked_increments_of_two_vcpus_add_up(guest: Guest) -> None:
    other = second_vcpu(guest)
    # L: lock inc dword [0x40000]; dec ecx; jnz L; hlt
    guest.code("f0ff042500000400 ffc9 75f4 f4", at=CODE)
    for vcpu in (guest.vcpu, other):
        vcpu.write_registers({"rip": CODE, "rcx": 200_000})
    thread = threading.Thread(target=other.run)
    thread.start()
    assert guest.vcpu.run().kind == ExitKind.HALT
    thread.join()
    assert int.from_bytes(guest.memory.read(0x40000, 4), "little") == 400_000


def test_code_changed_while_the_other_vcpu_runs_it(guest: Guest) -> None:
    """The writer changes an immediate, then a flag; the reader spins on the flag, then runs the code."""
    other = second_vcpu(guest)
    # reader: L: cmp [0x40000], ebx; jne L; call 0x11000; cmp al, bl; jne bad; inc ebx; cmp ebx, ROUNDS; jbe L; hlt
    last = ROUNDS % 200
    guest.code(
        "391c2500000400 75f7 e8f20f0000 38d8 7512 "
        "891c2504000400 ffc3 81fb" + last.to_bytes(4, "little").hex() + " 76dd f4 0f0b",
        at=CODE,
    )
    guest.code("b000 c3", at=0x11000)
    # writer: mov [0x11001], dl; mfence; mov [0x40000], edx; W: cmp edx, [0x40004]; jne W; inc edx; cmp edx, last;
    # jbe 0; hlt
    guest.code(
        "88142501100100 0faef0 89142500000400 3b142504000400 75f7 ffc2 81fa"
        + last.to_bytes(4, "little").hex()
        + " 76dc f4",
        at=OTHER,
    )
    other.write_registers({"rip": OTHER, "rdx": 1})
    thread = threading.Thread(target=other.run)
    thread.start()
    reason = guest.run(rip=CODE, rbx=1)
    other.kick()
    thread.join()
    assert reason.kind == ExitKind.HALT
    assert guest.vcpu.read_registers()["rbx"] == last + 1
