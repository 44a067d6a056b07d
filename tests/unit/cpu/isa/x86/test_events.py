"""Delivery of events: SDM Vol. 3A, chapter 6."""

from __future__ import annotations

from typing import Any

import pytest

from pyhyve.cpu.engine.state import Request, Stop
from pyhyve.cpu.isa.x86.spec import GuestExit
from pyhyve.cpu.isa.x86.state import Gpr, Seg

IF, TF, NT, RF, VM, AC = 1 << 9, 1 << 8, 1 << 14, 1 << 16, 1 << 17, 1 << 18
SOFTWARE, SOFTWARE_EXCEPTION = 4, 5


def gate(cpu: Any, vector: int, selector: int, offset: int, kind: int = 0x8E, ist: int = 0) -> None:
    """A gate in the IDT at 0x2000, of the format of the present mode."""
    low = offset & 0xFFFF | selector << 16 | ist << 32 | kind << 40 | (offset >> 16 & 0xFFFF) << 48
    if cpu["efer"] & 0x400:
        cpu.write(0x2000 + vector * 16, low)
        cpu.write(0x2008 + vector * 16, offset >> 32)
    else:
        cpu.write(0x2000 + vector * 8, low)


def raise_(cpu: Any, vector: int, error: int | None = None) -> None:
    cpu.call("raise_exception", vector, error is not None, error or 0)
    cpu.call("deliver")


def frame(cpu: Any, count: int, size: int) -> list[int]:
    sp = cpu["gpr", Gpr.RSP] + cpu["seg_base", Seg.SS]
    return [cpu.read(sp + i * size, size) for i in range(count)]


def test_real_mode_frame(processor: Any) -> None:
    cpu = processor
    cpu.write(13 * 4, 0x1234_5678, 4)
    cpu["gpr", Gpr.RSP] = 0xABCD_0100
    cpu["pc"] = 0x77
    cpu.segment(Seg.CS, 0x200, 0x2000, 0xFFFF, 0x9B)
    cpu["eflags"] = 2 | IF | TF
    raise_(cpu, 13, 0)
    assert (cpu["stop"], cpu["pc"]) == (0, 0x5678)
    assert (cpu["seg_sel", Seg.CS], cpu["seg_base", Seg.CS]) == (0x1234, 0x12340)
    assert cpu["gpr", Gpr.RSP] == 0xABCD_00FA
    ip, cs, flags = (cpu.read(0xFA + i * 2, 2) for i in range(3))
    assert (ip, cs, flags & (IF | TF)) == (0x77, 0x200, IF | TF)
    assert cpu["eflags"] & (IF | TF) == 0


def test_protected_frame_same_privilege(processor: Any) -> None:
    cpu = processor
    cpu.protected()
    gate(cpu, 13, 8, 0x12345678)
    cpu["gpr", Gpr.RSP], cpu["pc"], cpu["eflags"] = 0x5000, 0x4000, 2 | IF | TF | NT
    raise_(cpu, 13, 0x18)
    assert (cpu["stop"], cpu["pc"], cpu["gpr", Gpr.RSP]) == (0, 0x12345678, 0x5000 - 16)
    error, ip, cs, flags = frame(cpu, 4, 4)
    assert (error, ip, cs) == (0x18, 0x4000, 8)
    assert flags & (IF | TF | NT | RF) == IF | TF | NT | RF
    assert cpu["eflags"] & (IF | TF | NT | RF) == 0


def test_protected_trap_gate_keeps_interrupts(processor: Any) -> None:
    cpu = processor
    cpu.protected()
    gate(cpu, 3, 8, 0x5000, 0x8F)
    cpu["gpr", Gpr.RSP], cpu["pc"], cpu["eflags"] = 0x5000, 0x4000, 2 | IF
    cpu.call("software_interrupt", 3, 0x4001, SOFTWARE_EXCEPTION)
    cpu.call("deliver")
    assert frame(cpu, 2, 4) == [0x4001, 8]
    assert cpu["eflags"] & IF


def test_protected_privilege_change(processor: Any) -> None:
    cpu = processor
    cpu.protected(3)
    gate(cpu, 0x80, 8, 0x5000, 0xEE)
    cpu.write(0x3004, 0x6000 | 0x10 << 32)
    cpu["gpr", Gpr.RSP], cpu["pc"], cpu["eflags"] = 0x7000, 0x4000, 2 | IF
    cpu.call("software_interrupt", 0x80, 0x4002, SOFTWARE)
    cpu.call("deliver")
    assert (cpu["stop"], cpu["cpl"], cpu["seg_sel", Seg.SS], cpu["seg_sel", Seg.CS]) == (0, 0, 0x10, 8)
    ip, cs, flags, sp, ss = frame(cpu, 5, 4)
    assert (ip, cs, sp, ss) == (0x4002, 0x1B, 0x7000, 0x23)
    assert not flags & RF
    assert cpu["gpr", Gpr.RSP] == 0x6000 - 20


def test_software_interrupt_needs_gate_privilege(processor: Any) -> None:
    cpu = processor
    cpu.protected(3)
    gate(cpu, 0x80, 8, 0x5000, 0x8E)
    gate(cpu, 13, 8, 0x5100, 0x8E)
    cpu.write(0x3004, 0x6000 | 0x10 << 32)
    cpu["pc"] = 0x4000
    cpu.call("software_interrupt", 0x80, 0x4002, SOFTWARE)
    cpu.call("deliver")
    assert cpu["pc"] == 0x5100
    assert frame(cpu, 2, 4) == [0x80 * 8 + 2, 0x4000]


def test_v86_frame(processor: Any) -> None:
    cpu = processor
    cpu.protected()
    gate(cpu, 13, 8, 0x5000)
    cpu.write(0x3004, 0x6000 | 0x10 << 32)
    cpu["eflags"] = 2 | VM | IF
    cpu["cpl"] = 3
    for seg in range(6):
        cpu.segment(Seg(seg), 0x100 + seg, 0x1000 + seg * 16, 0xFFFF, 0xF3)
    cpu["gpr", Gpr.RSP], cpu["pc"] = 0xFFFE, 0x44
    raise_(cpu, 13, 0)
    values = frame(cpu, 10, 4)
    assert values[0:3] == [0, 0x44, 0x101]
    assert values[3] & VM
    assert values[4:] == [0xFFFE, 0x102, 0x100, 0x103, 0x104, 0x105]
    assert cpu["cpl"] == 0
    assert not cpu["eflags"] & VM
    assert all(cpu["seg_attr", seg] & 1 << 16 for seg in (Seg.DS, Seg.ES, Seg.FS, Seg.GS))


def test_v86_int_n_needs_iopl_3(processor: Any) -> None:
    cpu = processor
    cpu.protected()
    gate(cpu, 0x10, 8, 0x5000, 0xEE)
    gate(cpu, 13, 8, 0x5100)
    cpu.write(0x3004, 0x6000 | 0x10 << 32)
    cpu["eflags"], cpu["cpl"] = 2 | VM, 3
    cpu.call("software_interrupt", 0x10, 2, SOFTWARE)
    cpu.call("deliver")
    assert cpu["pc"] == 0x5100


def test_long_mode_frame_same_privilege_aligns(processor: Any) -> None:
    cpu = processor
    cpu.long()
    gate(cpu, 14, 0x28, 0x1_2345_6789)
    cpu["gpr", Gpr.RSP], cpu["pc"], cpu["eflags"] = 0x5009, 0xFFFF_8000_0000_1000, 2 | IF
    cpu.call("raise_page_fault", 0xDEAD000, 2)
    cpu.call("deliver")
    assert cpu["cr2"] == 0xDEAD000
    assert (cpu["stop"], cpu["pc"], cpu["gpr", Gpr.RSP]) == (0, 0x1_2345_6789, 0x5000 - 48)
    error, ip, cs, flags, sp, ss = frame(cpu, 6, 8)
    assert (error, ip, cs, sp, ss) == (2, 0xFFFF_8000_0000_1000, 0x28, 0x5009, 0x10)
    assert flags & (RF | IF) == RF | IF
    assert not cpu["eflags"] & IF


def test_long_mode_privilege_change_and_ist(processor: Any) -> None:
    cpu = processor
    cpu.long(3)
    cpu.write(0x3004, 0x6000)
    cpu.write(0x3024 + 8, 0x7000)
    gate(cpu, 6, 0x28, 0x5000)
    gate(cpu, 2, 0x28, 0x5200, ist=2)
    cpu["gpr", Gpr.RSP], cpu["pc"] = 0x4444, 0x4000
    raise_(cpu, 6)
    assert frame(cpu, 5, 8)[:2] == [0x4000, 0x3B]
    assert frame(cpu, 5, 8)[3:] == [0x4444, 0x23]
    assert (cpu["cpl"], cpu["seg_sel", Seg.SS], cpu["gpr", Gpr.RSP]) == (0, 0, 0x6000 - 40)
    cpu["request"] = 4
    assert cpu.call("service") == 0
    assert (cpu["pc"], cpu["gpr", Gpr.RSP], cpu["nmi_blocked"], cpu["request"]) == (0x5200, 0x7000 - 40, 1, 0)
    cpu["request"] = 4
    assert cpu.call("service") == 0
    assert cpu["request"] == 4


@pytest.mark.parametrize(
    ("kind", "selector", "expected"),
    [
        (0x85, 0x28, (13, 6 * 8 + 3)),  # a task gate
        (0x0E, 0x28, (11, 6 * 8 + 3)),  # not present
        (0x8E, 0x00, (13, 1)),
        (0x8E, 0x10, (13, 0x11)),  # data
        (0x8E, 0x08, (13, 0x09)),  # not 64-bit
        (0x8E, 0x108, (13, 0x109)),  # beyond the GDT
    ],
)
def test_long_mode_gate_errors(processor: Any, kind: int, selector: int, expected: tuple[int, int]) -> None:
    cpu = processor
    cpu.long()
    gate(cpu, 6, selector, 0x5000, kind)
    for vector in (11, 13):
        gate(cpu, vector, 0x28, 0x5000 + vector)
    cpu["gpr", Gpr.RSP] = 0x6000
    raise_(cpu, 6)
    assert (cpu["pc"] - 0x5000, frame(cpu, 1, 8)[0]) == expected


def test_double_fault_and_shutdown(processor: Any) -> None:
    cpu = processor
    cpu.long()
    gate(cpu, 8, 0x28, 0x5008)
    cpu["gpr", Gpr.RSP] = 0x6000
    raise_(cpu, 13, 0)  # its gate is empty: #GP, then #DF
    assert (cpu["pc"], frame(cpu, 1, 8)[0]) == (0x5008, 0)
    gate(cpu, 8, 0, 0)
    raise_(cpu, 13, 0)
    assert (cpu["stop"], cpu["exit_kind"]) == (2, 5)


def test_page_fault_on_handler_stack_is_double_fault(processor: Any) -> None:
    cpu = processor
    cpu.long()
    gate(cpu, 14, 0x28, 0x500E)
    gate(cpu, 8, 0x28, 0x5008, ist=1)
    cpu.write(0x3024, 0x7000)
    cpu["gpr", Gpr.RSP], cpu["pc"] = 0x4000_0000, 0x4000
    cpu.call("raise_page_fault", 0x1234, 0)
    cpu.call("deliver")
    assert (cpu["pc"], cpu["gpr", Gpr.RSP]) == (0x5008, 0x7000 - 48)
    assert frame(cpu, 2, 8) == [0, 0x4000]


def test_service_interrupt_window_and_injection(processor: Any) -> None:
    cpu = processor
    cpu.long()
    gate(cpu, 0x31, 0x28, 0x5031)
    cpu["gpr", Gpr.RSP] = 0x6000
    cpu["request"] = 2
    assert cpu.call("service") == 0
    cpu["eflags"] = 2 | IF
    cpu["interrupt_shadow"] = 1
    assert cpu.call("service") == 0
    cpu["interrupt_shadow"] = 0
    cpu["interrupt_line"] = 1
    assert cpu.call("service") == 1
    assert cpu["exit_kind"] == 4
    cpu["stop"] = 0
    cpu["event_inject"] = 0x131
    cpu["halted"] = 1
    assert cpu.call("service") == 0
    assert (cpu["pc"], cpu["event_inject"], cpu["halted"]) == (0x5031, 0, 0)
    assert not frame(cpu, 3, 8)[2] & RF
    cpu["request"] = 3
    assert (cpu.call("service"), cpu["exit_kind"], cpu["request"]) == (1, 3, 2)


def misaligned_handlers(cpu: Any) -> None:
    """CPL 3 with alignment checks, a misaligned stack, and handlers at CPL 3."""
    cpu.protected(3)
    for vector in (0, 17):
        gate(cpu, vector, 0x1B, 0x5000 + vector, 0xEE)
    cpu["cr0"] = 0x4_0011
    cpu["eflags"] = 2 | AC
    cpu["gpr", Gpr.RSP], cpu["pc"] = 0x6002, 0x4000
    cpu.call("mode_changed")


def test_frame_of_a_handler_at_cpl_3_must_be_aligned(processor: Any) -> None:
    cpu = processor
    misaligned_handlers(cpu)
    cpu.call("deliver_event", 0, 0, 0, 0, 0)
    assert cpu.exception == (17, 1)


def test_handler_of_an_inner_privilege_is_not_checked(processor: Any) -> None:
    cpu = processor
    misaligned_handlers(cpu)
    gate(cpu, 0, 8, 0x5000, 0x8E)
    cpu.write(0x3004, 0x6002 | 0x10 << 32)
    raise_(cpu, 0)
    assert (cpu["stop"], cpu["pc"], cpu["gpr", Gpr.RSP]) == (0, 0x5000, 0x6002 - 20)


def test_exceptions_without_end_can_be_kicked(processor: Any) -> None:
    cpu = processor
    misaligned_handlers(cpu)
    cpu["request"] = Request.KICK
    raise_(cpu, 0)
    assert (cpu["stop"], cpu["exit_kind"], cpu["request"]) == (Stop.EXIT, GuestExit.KICKED, 0)
    assert (cpu["event_waits"], cpu["event_pending"], cpu["event_vector"], cpu["event_error"]) == (1, 1, 17, 1)
    # Going on with an aligned stack delivers what waits.
    cpu["stop"], cpu["event_waits"], cpu["gpr", Gpr.RSP] = 0, 0, 0x6000
    cpu.call("deliver")
    assert (cpu["stop"], cpu["pc"], cpu["gpr", Gpr.RSP]) == (0, 0x5011, 0x6000 - 16)
