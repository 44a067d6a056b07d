"""Far transfers, IRET and the fast system calls: SDM Vol. 2A/B."""

from __future__ import annotations

from typing import Any

import pytest

from pyhyve.cpu.isa.x86.state import Gpr, Seg

IF, TF, NT, RF, VM = 1 << 9, 1 << 8, 1 << 14, 1 << 16, 1 << 17
L, D = 1 << 13, 1 << 14


def push(cpu: Any, size: int, *items: int) -> None:
    """Items as they lie in memory from the stack pointer up."""
    sp = cpu["gpr", Gpr.RSP] + cpu["seg_base", Seg.SS]
    for i, item in enumerate(items):
        cpu.write(sp + i * size, item, size)


def registers(cpu: Any) -> tuple[int, int, int]:
    assert cpu["stop"] == 0, cpu.exception
    return cpu["pc"], cpu["seg_sel", Seg.CS], cpu["gpr", Gpr.RSP]


def test_real_far_call_and_return(processor: Any) -> None:
    cpu = processor
    cpu["gpr", Gpr.RSP] = 0x2_0100
    cpu["pc"] = 0x10
    cpu.call("far_call", 0x1234, 0x56, 2, 0x15)
    assert registers(cpu) == (0x56, 0x1234, 0x2_00FC)
    assert cpu["seg_base", Seg.CS] == 0x12340
    cpu.call("far_return", 2, 4)
    assert registers(cpu) == (0x15, 0, 0x2_0104)


def test_protected_entry_as_boot_code_does(processor: Any) -> None:
    cpu = processor
    cpu["gdt_base"], cpu["gdt_limit"] = 0x1000, 0xFF
    cpu.descriptor(0x1008, 0, 0xFFFFF, 0xC09A)
    cpu.call("write_cr", 0, 0x11)
    assert cpu["mode"] & 0xC == 0
    cpu.call("far_jump", 8, 0x12345, 4, 0)
    assert registers(cpu)[:2] == (0x12345, 8)
    assert cpu["mode"] & 0xC == 4
    assert cpu.read(0x1008) >> 40 & 1  # accessed


@pytest.mark.parametrize(
    ("attr", "selector", "expected"),
    [
        (0xC09A, 0x50, None),
        (0xC09A, 0x53, (13, 0x50)),
        (0xC0FA, 0x50, (13, 0x50)),
        (0xC09E, 0x53, None),
        (0xC092, 0x50, (13, 0x50)),
        (0xC01A, 0x50, (11, 0x50)),
        (0x409A, 0x50, (13, 0)),
        (0xC09A, 0x03, (13, 0)),
        (0xC09A, 0x54, (13, 0x54)),
        (0xC09A, 0x100, (13, 0x100)),
    ],
)
def test_far_jump_checks(processor: Any, attr: int, selector: int, expected: Any) -> None:
    cpu = processor
    cpu.protected()
    limit = 0xFFFF if attr == 0x409A else 0xFFFFF
    cpu.descriptor(0x1050, 0, limit, attr)
    cpu.call("far_jump", selector, 0x12345, 4, 0)
    assert cpu.exception == expected


def test_iret_to_user_drops_privileged_data_segments(processor: Any) -> None:
    cpu = processor
    cpu.protected()
    cpu["gpr", Gpr.RSP] = 0x5000
    push(cpu, 4, 0x4000, 0x1B, 2 | IF | 3 << 12, 0x7000, 0x23)
    cpu.call("iret", 4)
    assert registers(cpu) == (0x4000, 0x1B, 0x7000)
    assert (cpu["cpl"], cpu["eflags"] & (IF | 3 << 12)) == (3, IF | 3 << 12)
    assert cpu["seg_attr", Seg.DS] & 1 << 16
    assert cpu["seg_sel", Seg.SS] == 0x23


def test_iret_in_user_mode_keeps_iopl_and_if(processor: Any) -> None:
    cpu = processor
    cpu.protected(3)
    cpu["eflags"] = 2 | IF
    cpu["gpr", Gpr.RSP] = 0x5000
    push(cpu, 4, 0x4000, 0x1B, 2 | 3 << 12 | TF | 1)
    cpu.call("iret", 4)
    assert registers(cpu) == (0x4000, 0x1B, 0x500C)
    assert cpu.call("read_eflags") == 2 | IF | TF | 1


def test_iret_to_v86_and_interrupt_back(processor: Any) -> None:
    cpu = processor
    cpu.protected()
    cpu["gpr", Gpr.RSP] = 0x5000
    push(cpu, 4, 0x44, 0x101, 2 | VM | IF, 0xFFFE, 0x102, 0x100, 0x103, 0x104, 0x105)
    cpu.call("iret", 4)
    assert registers(cpu) == (0x44, 0x101, 0xFFFE)
    assert [cpu["seg_sel", s] for s in range(6)] == [0x100, 0x101, 0x102, 0x103, 0x104, 0x105]
    assert [cpu["seg_base", s] for s in range(6)] == [0x1000, 0x1010, 0x1020, 0x1030, 0x1040, 0x1050]
    assert cpu["cpl"] == 3
    assert cpu["mode"] & 0xC == 0


def test_iretq_round_trip(processor: Any) -> None:
    cpu = processor
    cpu.long()
    cpu["nmi_blocked"] = 1
    cpu["gpr", Gpr.RSP] = 0x5000
    push(cpu, 8, 0x7FFF_FFFF_F000, 0x3B, 2 | IF | RF, 0x7FFF_0000_1230, 0x23)
    cpu.call("iret", 8)
    assert registers(cpu) == (0x7FFF_FFFF_F000, 0x3B, 0x7FFF_0000_1230)
    assert (cpu["cpl"], cpu["seg_sel", Seg.SS], cpu["nmi_blocked"]) == (3, 0x23, 0)
    assert cpu["eflags"] & (IF | RF) == IF | RF


def test_iretq_same_privilege_with_null_stack_segment(processor: Any) -> None:
    cpu = processor
    cpu.long()
    cpu["gpr", Gpr.RSP] = 0x5000
    push(cpu, 8, 0x6000, 0x28, 2, 0x5678, 0)
    cpu.call("iret", 8)
    assert registers(cpu) == (0x6000, 0x28, 0x5678)


def test_iretq_to_compatibility_mode(processor: Any) -> None:
    cpu = processor
    cpu.long()
    cpu["gpr", Gpr.RSP] = 0x5000
    push(cpu, 8, 0x6000, 0x1B, 2, 0x5678, 0x23)
    cpu.call("iret", 8)
    assert registers(cpu) == (0x6000, 0x1B, 0x5678)
    assert cpu["mode"] & 0xC == 4


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ((1 << 47, 0x3B, 2, 0x5678, 0x23), (13, 0)),
        ((0x6000, 0x3B, 2, 0x5678, 0), (13, 0)),
        ((0x6000, 0x3B, 2, 0x5678, 0x13), (13, 0x10)),
        ((0x6000, 0x10, 2, 0x5678, 0x10), (13, 0x10)),
        ((0x6000, 0, 2, 0x5678, 0x10), (13, 0)),
        ((0x6000, 0x38, 2, 0x5678, 0x10), (13, 0x38)),
    ],
)
def test_iretq_checks_leave_state_alone(processor: Any, frame: tuple[int, ...], expected: Any) -> None:
    cpu = processor
    cpu.long()
    cpu["gpr", Gpr.RSP], cpu["pc"] = 0x5000, 0x4000
    push(cpu, 8, *frame)
    cpu.call("iret", 8)
    assert cpu.exception == expected
    assert (cpu["pc"], cpu["gpr", Gpr.RSP], cpu["seg_sel", Seg.CS]) == (0x4000, 0x5000, 0x28)


def test_iretq_with_nt_faults(processor: Any) -> None:
    cpu = processor
    cpu.long()
    cpu["eflags"] = 2 | NT
    cpu.call("iret", 8)
    assert cpu.exception == (13, 0)


def test_syscall_sysret_round_trip(processor: Any) -> None:
    cpu = processor
    cpu.long(3)
    cpu["lstar"], cpu["star"], cpu["sfmask"] = 0x9000, 0x0020_0028 << 32, IF | TF
    cpu["eflags"] = 2 | IF
    cpu["gpr", Gpr.RSP] = 0x5000
    cpu.call("syscall", 0x4002)
    assert registers(cpu) == (0x9000, 0x28, 0x5000)
    assert (cpu["seg_sel", Seg.SS], cpu["cpl"], cpu["gpr", Gpr.RCX]) == (0x30, 0, 0x4002)
    assert cpu["gpr", Gpr.R11] & IF
    assert not cpu["eflags"] & IF
    assert cpu["mode"] & 0xF == 8
    cpu.call("sysret", 8)
    assert registers(cpu) == (0x4002, 0x33, 0x5000)
    assert (cpu["seg_sel", Seg.SS], cpu["cpl"], cpu["mode"] & 0xF) == (0x2B, 3, 11)
    assert cpu["eflags"] & IF


def test_sysret_to_compatibility_mode_and_checks(processor: Any) -> None:
    cpu = processor
    cpu.long()
    cpu["star"] = 0x0020 << 48
    cpu["gpr", Gpr.RCX] = 1 << 47
    cpu.call("sysret", 8)
    assert cpu.exception == (13, 0)
    cpu["gpr", Gpr.RCX] = 0x1_0000_4000
    cpu.call("sysret", 4)
    assert registers(cpu)[:2] == (0x4000, 0x23)
    assert cpu["mode"] & 0xF == 7
    cpu.call("sysret", 4)
    assert cpu.exception == (6, None)


def test_sysenter_sysexit_32(processor: Any) -> None:
    cpu = processor
    cpu.protected(3)
    cpu.call("sysenter")
    assert cpu.exception == (13, 0)
    cpu["sysenter_cs"], cpu["sysenter_esp"], cpu["sysenter_eip"] = 8, 0x6000, 0x9000
    cpu.call("sysenter")
    assert registers(cpu) == (0x9000, 8, 0x6000)
    assert (cpu["seg_sel", Seg.SS], cpu["cpl"]) == (0x10, 0)
    cpu["gpr", Gpr.RCX], cpu["gpr", Gpr.RDX] = 0x7000, 0x4000
    cpu.call("sysexit", 4)
    assert registers(cpu) == (0x4000, 0x1B, 0x7000)
    assert (cpu["seg_sel", Seg.SS], cpu["cpl"]) == (0x23, 3)


def test_swapgs(processor: Any) -> None:
    cpu = processor
    cpu.long()
    cpu["seg_base", Seg.GS], cpu["kernel_gs_base"] = 1, 2
    cpu.call("swapgs")
    assert (cpu["seg_base", Seg.GS], cpu["kernel_gs_base"]) == (2, 1)


def test_call_gate_32_copies_parameters(processor: Any) -> None:
    cpu = processor
    cpu.protected(3)
    cpu.write(0x1050, 0x9000 | 8 << 16 | 2 << 32 | 0xEC << 40)
    cpu.write(0x3004, 0x6000 | 0x10 << 32)
    cpu["gpr", Gpr.RSP] = 0x7000
    push(cpu, 4, 0xAAAA, 0xBBBB)
    cpu.call("far_call", 0x53, 0, 4, 0x4007)
    assert registers(cpu) == (0x9000, 8, 0x6000 - 24)
    assert [cpu.read(0x6000 - 24 + i * 4, 4) for i in range(6)] == [0x4007, 0x1B, 0xAAAA, 0xBBBB, 0x7000, 0x23]
    cpu.call("far_return", 4, 8)
    assert registers(cpu) == (0x4007, 0x1B, 0x7008)


def test_call_gate_64(processor: Any) -> None:
    cpu = processor
    cpu.long(3)
    cpu.write(0x1050, 0x9000 | 0x28 << 16 | 0xEC << 40)
    cpu.write(0x1058, 0x1)
    cpu.write(0x3004, 0x6000)
    cpu["gpr", Gpr.RSP] = 0x7000
    cpu.call("far_call", 0x50, 0, 4, 0x4007)
    assert registers(cpu) == (0x1_0000_9000, 0x28, 0x6000 - 32)
    assert [cpu.read(0x6000 - 32 + i * 8) for i in range(4)] == [0x4007, 0x3B, 0x7000, 0x23]


def test_task_switch_call_and_return(processor: Any) -> None:
    cpu = processor
    cpu.protected()
    cpu.descriptor(0x1040, 0x3000, 0x67, 0x8B)
    cpu.descriptor(0x1048, 0x3100, 0x67, 0x89)
    for offset, value in {0x20: 0x9000, 0x24: 2, 0x28: 0x111, 0x38: 0x6000, 0x3C: 0x222}.items():
        cpu.write(0x3100 + offset, value, 4)
    for offset, value in {0x48: 0x10, 0x4C: 8, 0x50: 0x10, 0x54: 0x10}.items():
        cpu.write(0x3100 + offset, value, 4)
    cpu["gpr", Gpr.RSP], cpu["gpr", Gpr.RAX], cpu["pc"] = 0x5000, 0x77, 0x4000
    cpu.call("far_call", 0x48, 0, 4, 0x4007)
    assert registers(cpu) == (0x9000, 8, 0x6000)
    assert (cpu["gpr", Gpr.RAX], cpu["gpr", Gpr.RBP], cpu["seg_sel", Seg.TR]) == (0x111, 0x222, 0x48)
    assert cpu["eflags"] & NT
    assert cpu["cr0"] & 8
    assert (cpu.read(0x3100, 2), cpu.read(0x3020, 4), cpu.read(0x3028, 4)) == (0x40, 0x4007, 0x77)
    assert cpu.read(0x104D, 1) == 0x8B
    cpu.write(0x9000, 0xCF, 1)
    cpu.call("iret", 4)
    assert registers(cpu) == (0x4007, 8, 0x5000)
    assert (cpu["gpr", Gpr.RAX], cpu["seg_sel", Seg.TR]) == (0x77, 0x40)
    assert not cpu["eflags"] & NT
    assert (cpu.read(0x104D, 1), cpu.read(0x3120, 4)) == (0x89, 0x9001)


def test_exception_through_task_gate_pushes_error_code(processor: Any) -> None:
    cpu = processor
    cpu.protected()
    cpu.descriptor(0x1040, 0x3000, 0x67, 0x8B)
    cpu.descriptor(0x1048, 0x3100, 0x67, 0x89)
    for offset, value in {0x20: 0x9000, 0x24: 2, 0x38: 0x6000, 0x48: 0x10, 0x4C: 8, 0x50: 0x10}.items():
        cpu.write(0x3100 + offset, value, 4)
    cpu.write(0x2000 + 13 * 8, 0x48 << 16 | 0x85 << 40)
    cpu["pc"] = 0x4000
    cpu.call("raise_exception", 13, 1, 0x50)
    cpu.call("deliver")
    assert registers(cpu) == (0x9000, 8, 0x6000 - 4)
    assert (cpu.read(0x6000 - 4, 4), cpu.read(0x3020, 4)) == (0x50, 0x4000)
