"""Control, debug and model-specific registers, CPUID and the TSC."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from pyhyve.cpu.isa.x86 import cpuid, tsc
from pyhyve.cpu.isa.x86.state import Gpr, Seg

PG, PE, NW, CD = 1 << 31, 1, 1 << 29, 1 << 30


def test_long_mode_activation(processor: Any) -> None:
    cpu = processor
    cpu.long(compat=True)
    cpu["cr0"], cpu["cr4"], cpu["efer"] = 0x11, 0, 0
    wrmsr(cpu, 0xC0000080, 0x100)
    cpu.call("write_cr", 0, PG | PE)
    assert cpu.exception == (13, 0)  # without PAE
    cpu.call("write_cr", 4, 0x20)
    cpu.call("write_cr", 3, 0x8000)
    cpu.call("write_cr", 0, PG | PE)
    assert cpu.exception is None
    assert (cpu["efer"], cpu["cr0"]) == (0x500, PG | 0x11)
    cpu.call("write_cr", 4, 0)
    assert cpu.exception == (13, 0)
    wrmsr(cpu, 0xC0000080, 0)
    assert cpu.exception == (13, 0)
    cpu.call("far_jump", 0x28, 0x4000, 4, 0)
    assert cpu["mode"] & 0xC == 8
    cpu.call("write_cr", 0, PE)
    assert cpu.exception == (13, 0)  # from 64-bit code
    cpu["seg_attr", Seg.CS] = 0xC09B
    cpu.call("write_cr", 0, PE)
    assert cpu.exception is None
    assert cpu["efer"] == 0x100


@pytest.mark.parametrize(
    ("register", "value"),
    [
        (0, PG),
        (0, PE | NW),
        (0, 1 << 32 | PG | PE),
        (4, 1),
        (4, 1 << 17 | 32),
        (4, 1 << 16 | 32),
        (3, 1 << 40),
        (8, 16),
    ],
)
def test_write_cr_refuses(processor: Any, register: int, value: int) -> None:
    cpu = processor
    cpu.long()
    cpu.call("write_cr", register, value)
    assert cpu.exception == (13, 0)


def test_control_registers_need_privilege_and_existence(processor: Any) -> None:
    cpu = processor
    cpu.protected(3)
    for name, arguments in (
        ("read_cr", (0,)),
        ("write_cr", (3, 0)),
        ("clts", ()),
        ("lmsw", (1,)),
        ("invlpg", (0,)),
        ("wbinvd", ()),
        ("read_dr", (0,)),
        ("rdmsr", ()),
        ("wrmsr", ()),
    ):
        cpu.call(name, *arguments)
        assert cpu.exception == (13, 0), name
    cpu["cpl"] = 0
    cpu.call("write_cr", 5, 0)
    assert cpu.exception == (6, None)
    cpu.call("lmsw", 0)
    assert cpu["cr0"] & PE
    assert cpu.call("read_cr", 0) == 0x11


def test_debug_registers(processor: Any) -> None:
    cpu = processor
    cpu.call("write_dr", 4, 0xFFFF_FFFF)
    assert cpu.call("read_dr", 6) == 0xFFFF_EFFF
    cpu["cr4"] = 8
    cpu.call("read_dr", 5)
    assert cpu.exception == (6, None)
    cpu.long()
    cpu.call("write_dr", 7, 1 << 32)
    assert cpu.exception == (13, 0)
    cpu.call("write_dr", 7, 1 << 13)
    assert cpu["dr", 7] == 1 << 13 | 1 << 10
    cpu.call("read_dr", 7)  # general detect
    assert cpu.exception == (1, None)
    assert cpu["dr", 6] & 1 << 13


def wrmsr(cpu: Any, number: int, value: int) -> None:
    cpu["gpr", Gpr.RCX], cpu["gpr", Gpr.RAX], cpu["gpr", Gpr.RDX] = number, value & 0xFFFF_FFFF, value >> 32
    cpu.call("wrmsr")


def rdmsr(cpu: Any, number: int) -> int:
    cpu["gpr", Gpr.RCX] = number
    cpu.call("rdmsr")
    return int(cpu["gpr", Gpr.RAX] | cpu["gpr", Gpr.RDX] << 32)


@pytest.mark.parametrize(
    ("number", "value"),
    [
        (0xC0000081, 0x1234_5678_9ABC_DEF0),
        (0xC0000082, 0xFFFF_8000_0000_1234),
        (0xC0000084, 0x47700),
        (0xC0000100, 0x7FFF_FFFF_FFFF),
        (0xC0000101, 0xFFFF_8880_0000_0000),
        (0xC0000102, 5),
        (0xC0000103, 7),
        (0x174, 0x10),
        (0x175, 0xFFFF_8000_0000_0000),
        (0x277, 0x0407_0500_0607_0106),
        (0x200, 0x8000_0006),
        (0x20F, 0xFF_8000_0800),
        (0x250, 0x0606_0606_0606_0606),
        (0x26F, 5),
        (0x2FF, 0xC06),
    ],
)
def test_msr_round_trip(processor: Any, number: int, value: int) -> None:
    cpu = processor
    wrmsr(cpu, number, value)
    assert cpu.exception is None
    assert rdmsr(cpu, number) == value


@pytest.mark.parametrize(
    ("number", "value"),
    [
        (0xC0000082, 1 << 47),
        (0xC0000100, 1 << 63),
        (0xC0000080, 1 << 1),
        (0x277, 2),
        (0x277, 8),
        (0x2FF, 2),
        (0x200, 1 << 40),
        (0x250, 7),
        (0xFE, 0),
        (0xC0000103, 1 << 32),
        (0x12345, 0),
    ],
)
def test_wrmsr_refuses(processor: Any, number: int, value: int) -> None:
    cpu = processor
    wrmsr(cpu, number, value)
    assert cpu.exception == (13, 0)


def test_msr_of_the_machine_is_an_exit_and_replays(processor: Any) -> None:
    cpu = processor
    rdmsr(cpu, 0x6E0)
    assert (cpu["stop"], cpu["exit_kind"], cpu["exit_address"]) == (2, 7, 0x6E0)
    cpu["stop"], cpu["access_done"] = 0, 1
    cpu["access_values", 0] = 0x1_0000_0002
    assert rdmsr(cpu, 0x6E0) == 0x1_0000_0002
    cpu["access_done"] = cpu["access_next"] = 0
    wrmsr(cpu, 0x80B, 9)
    assert (cpu["stop"], cpu["exit_kind"], cpu["exit_address"], cpu["exit_value"]) == (2, 8, 0x80B, 9)
    cpu["stop"], cpu["access_done"], cpu["msr_failed"] = 0, 1, 1
    wrmsr(cpu, 0x80B, 9)
    assert cpu.exception == (13, 0)
    assert cpu["msr_failed"] == 0


def test_tsc_follows_writes_and_tsd(processor: Any) -> None:
    cpu = processor
    wrmsr(cpu, 0x10, 1000)
    assert 1000 < cpu.call("rdtsc") < 1000 + 10 * tsc.host_tsc_hz()
    cpu.protected(3)
    cpu["cr4"] = 4
    cpu.call("rdtscp")
    assert cpu.exception == (13, 0)


def test_cpuid_table(processor: Any) -> None:
    cpu = processor
    table = [word for row in cpuid.rows(3, 2_600_000_000) for word in row]
    words = (ctypes.c_uint32 * len(table))(*table)
    cpu["cpuid"], cpu["cpuid_count"] = ctypes.addressof(words), len(table) // cpuid.ROW_WORDS

    def ask(leaf: int, subleaf: int = 0) -> tuple[int, ...]:
        cpu["gpr", Gpr.RAX], cpu["gpr", Gpr.RCX] = leaf, subleaf
        cpu.call("cpuid")
        return tuple(cpu["gpr", r] for r in (Gpr.RAX, Gpr.RBX, Gpr.RCX, Gpr.RDX))

    _, b, c, d = ask(0)
    assert b"".join(w.to_bytes(4, "little") for w in (b, d, c)) == b"GenuineIntel"
    assert ask(1)[1] >> 24 == 3
    assert not ask(1)[2] & 1 << 27
    cpu["cr4"] = 1 << 18
    assert ask(1)[2] & 1 << 27
    assert ask(4, 2)[0] & 0xFF == 3 | 2 << 5
    assert ask(4, 3) == ask(0x99) == (0, 0, 0, 0)
    a, b, c, _ = ask(0x15)
    assert c * b / a == pytest.approx(2.6e9, rel=1e-6)
    assert c // 1000 * b < 1 << 32


@pytest.mark.parametrize("hz", [1_000_000_123, 1_996_249_771, 2_599_999_543, 3_693_060_001, 4_200_000_001])
def test_cpuid_frequency_is_exact_in_32_bits(hz: int) -> None:
    row = next(r for r in cpuid.rows(0, hz) if r[0] == 0x15)
    assert row[3] * (row[4] // 1000) < 1 << 32
    assert row[4] * row[3] / row[2] == pytest.approx(hz, rel=2e-6)


def test_host_tsc_hz_is_stable() -> None:
    first = tsc.host_tsc_hz()
    tsc.host_tsc_hz.cache_clear()
    assert tsc.host_tsc_hz() == pytest.approx(first, rel=2e-3)


def test_xsetbv_checks(processor: Any) -> None:
    cpu = processor
    cpu.call("xsetbv")
    assert cpu.exception == (6, None)
    cpu["cr4"] = 1 << 18
    for value, expected in ((3, None), (1, None), (2, (13, 0)), (7, (13, 0))):
        cpu["gpr", Gpr.RAX], cpu["gpr", Gpr.RCX], cpu["gpr", Gpr.RDX] = value, 0, 0
        cpu.call("xsetbv")
        assert cpu.exception == expected
    assert cpu["xcr0"] == 1


@pytest.mark.parametrize("bit", [0, 1, 12, 13, 14, 16, 17, 22, 23, 24, 31])
def test_cr4_bits_that_are_not_offered_are_refused(processor: Any, bit: int) -> None:
    # VME, PVI, LA57, VMXE, SMXE, FSGSBASE, PCIDE, PKE, CET, PKS: SDM Vol. 3A, 2.5.
    cpu = processor
    cpu.protected()
    cpu.call("write_cr", 4, 1 << bit)
    assert cpu.exception == (13, 0)
    assert cpu["cr4"] == 0


def test_cpuid_does_not_offer_what_cr4_refuses() -> None:
    features = next(row for row in cpuid.rows(0, 2_000_000_000) if row[0] == 1)
    assert features[5] & 1 << 1 == 0  # VME
    assert features[4] & 1 << 17 == 0  # PCID
