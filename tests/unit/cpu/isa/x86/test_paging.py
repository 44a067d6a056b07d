"""Page walks: SDM Vol. 3A, chapter 4."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

P, RW, US, A, D, PS, XD = 1, 2, 4, 0x20, 0x40, 0x80, 1 << 63
READ, WRITE, FETCH = range(3)
USER, SUPERVISOR, SUPERVISOR_AC = range(3)
LINEAR = 0x0000_1234_5678_9ABC
PTE = 0xB000 + (LINEAR >> 12 & 511) * 8
PDE = 0xA000 + (LINEAR >> 21 & 511) * 8
PDPTE = 0x9000 + (LINEAR >> 30 & 511) * 8
PML4E = 0x8000 + (LINEAR >> 39 & 511) * 8


def four_level(cpu: Any) -> Any:
    cpu["cr3"], cpu["cr4"], cpu["efer"], cpu["cr0"] = 0x8000, 0x20, 0xD00, 0x8001_0011
    cpu.write(PML4E, 0x9000 | P | RW | US)
    cpu.write(PDPTE, 0xA000 | P | RW | US)
    cpu.write(PDE, 0xB000 | P | RW | US)
    cpu.write(PTE, 0x55000 | P | RW | US)
    return cpu


def walk(cpu: Any, access: int, index: int, address: int = LINEAR) -> int | tuple[int, int | None]:
    gpa = cpu.call("translate", address, access, index)
    fault = cpu.exception
    return gpa if fault is None else fault


def test_translate_is_identity_of_32_bits_without_paging(processor: Any) -> None:
    assert walk(processor, READ, SUPERVISOR, 0x1_2345_6789) == 0x2345_6789


def test_walk_4_level_sets_accessed_and_dirty(processor: Any) -> None:
    cpu = four_level(processor)
    assert walk(cpu, READ, USER) == 0x55ABC
    assert [cpu.read(e) & (A | D) for e in (PML4E, PDPTE, PDE, PTE)] == [A, A, A, A]
    assert walk(cpu, WRITE, USER) == 0x55ABC
    assert [cpu.read(e) & (A | D) for e in (PML4E, PDPTE, PDE, PTE)] == [A, A, A, A | D]


@pytest.mark.parametrize(
    ("rw", "us", "xd", "access", "index", "wp", "smep", "smap"),
    list(itertools.product(*[(0, 1)] * 3, (READ, WRITE, FETCH), (USER, SUPERVISOR, SUPERVISOR_AC), *[(0, 1)] * 3)),
)
def test_walk_checks_rights(
    processor: Any, rw: int, us: int, xd: int, access: int, index: int, wp: int, smep: int, smap: int
) -> None:
    cpu = four_level(processor)
    cpu["cr0"] = 0x8000_0011 | wp << 16
    cpu["cr4"] = 0x20 | smep << 20 | smap << 21
    cpu.write(PTE, 0x55000 | P | rw * RW | us * US | xd * XD)
    user = index == USER
    if user:
        allowed = us and (access != WRITE or rw) and (access != FETCH or not xd)
    elif access == FETCH:
        allowed = not xd and not (us and smep)
    else:
        allowed = (access != WRITE or rw or not wp) and not (us and smap and index == SUPERVISOR)
    error = 1 | (access == WRITE) << 1 | user << 2 | (access == FETCH) << 4
    assert walk(cpu, access, index) == (0x55ABC if allowed else (14, error))
    if not allowed:
        assert cpu["cr2"] == LINEAR
        assert not cpu.read(PTE) & (A | D)


@pytest.mark.parametrize("entry", [PML4E, PDPTE, PDE, PTE])
def test_walk_reports_missing_and_reserved(processor: Any, entry: int) -> None:
    cpu = four_level(processor)
    good = cpu.read(entry)
    cpu.write(entry, good & ~P | 1 << 45)
    assert walk(cpu, WRITE, SUPERVISOR) == (14, 2)
    cpu.write(entry, good | 1 << 45)
    assert walk(cpu, READ, USER) == (14, 1 | 4 | 8)
    cpu.write(entry, good | XD)
    cpu["efer"] = 0x500
    assert walk(cpu, FETCH, SUPERVISOR) == (14, 1 | 8)


@pytest.mark.parametrize(("entry", "shift"), [(PDE, 21), (PDPTE, 30)])
def test_walk_large_pages(processor: Any, entry: int, shift: int) -> None:
    cpu = four_level(processor)
    cpu.write(entry, 5 << 30 | P | RW | US | PS)
    offset = LINEAR & (1 << shift) - 1
    assert walk(cpu, WRITE, USER) == (5 << 30 | offset)
    assert cpu.read(entry) & (A | D) == A | D
    cpu.write(entry, 5 << 30 | 1 << 13 | P | PS)
    assert walk(cpu, READ, SUPERVISOR) == (14, 9)
    cpu.write(entry, 5 << 30 | 1 << 12 | P | PS)  # PAT
    assert walk(cpu, READ, SUPERVISOR) == (5 << 30 | offset)


def test_walk_ps_in_pml4e_is_reserved(processor: Any) -> None:
    cpu = four_level(processor)
    cpu.write(PML4E, 0x9000 | P | PS)
    assert walk(cpu, READ, SUPERVISOR) == (14, 9)


@pytest.mark.parametrize("address", [1 << 47, 0xFFFF_7FFF_FFFF_FFFF, 1 << 63])
def test_walk_refuses_noncanonical(processor: Any, address: int) -> None:
    cpu = four_level(processor)
    assert walk(cpu, READ, SUPERVISOR, address) == (13, 0)
    assert walk(cpu, WRITE | 1 << 16, SUPERVISOR, address) == (12, 0)


def test_walk_rights_combine_over_levels(processor: Any) -> None:
    cpu = four_level(processor)
    cpu.write(PDPTE, 0xA000 | P | US)
    assert walk(cpu, READ, USER) == 0x55ABC
    assert walk(cpu, WRITE, USER) == (14, 7)
    cpu.write(PML4E, 0x9000 | P | RW | US | XD)
    assert walk(cpu, FETCH, USER) == (14, 0x15)


def test_walk_2_level(processor: Any) -> None:
    cpu = processor
    cpu["cr0"], cpu["cr3"], cpu["cr4"] = 0x8001_0011, 0x8000, 0
    address = 0x12345678
    pde, pte = 0x8000 + (address >> 22) * 4, 0x9000 + (address >> 12 & 1023) * 4
    cpu.write(pde, 0x9000 | P | RW | US | PS, 4)  # PS means nothing without PSE
    cpu.write(pte, 0x66000 | P | US, 4)
    assert walk(cpu, READ, USER, address) == 0x66678
    assert walk(cpu, WRITE, SUPERVISOR, address) == (14, 3)
    assert walk(cpu, FETCH, USER, address) == 0x66678
    cpu.write(pte, 0, 4)
    assert walk(cpu, FETCH, USER, address) == (14, 4)
    cpu["cr4"] = 0x10
    cpu.write(pde, 0x0040_0000 | 3 << 13 | P | RW | PS, 4)
    assert walk(cpu, WRITE, SUPERVISOR, address) == 3 << 32 | 0x0040_0000 | address & 0x3FFFFF
    assert cpu.read(pde, 4) & (A | D) == A | D
    cpu.write(pde, 1 << 21 | P | RW | PS, 4)
    assert walk(cpu, READ, SUPERVISOR, address) == (14, 9)


def test_walk_pae(processor: Any) -> None:
    cpu = processor
    cpu["cr0"], cpu["cr3"], cpu["cr4"], cpu["efer"] = 0x8001_0011, 0x8020, 0x20, 0x800
    address = 0xC0A0_1234
    cpu.write(0x8020 + 3 * 8, 0x9000 | P)
    assert cpu.call("load_pdptes", 0x8020) == 1
    pde, pte = 0x9000 + (address >> 21 & 511) * 8, 0xA000 + (address >> 12 & 511) * 8
    cpu.write(pde, 0xA000 | P | RW | US)
    cpu.write(pte, 0x77000 | P | RW | US | XD)
    assert walk(cpu, WRITE, USER, address) == 0x77234
    assert walk(cpu, FETCH, USER, address) == (14, 0x15)
    cpu.write(pte, 0x77000 | P | 1 << 52)
    assert walk(cpu, READ, SUPERVISOR, address) == (14, 9)
    cpu.write(pde, 0x20_0000 | P | PS | RW)
    assert walk(cpu, READ, SUPERVISOR, address) == 0x20_0000 | address & 0x1FFFFF
    assert walk(cpu, READ, SUPERVISOR, 0x4000_0000) == (14, 0)
    cpu.write(0x8020, 0x9000 | P | RW)
    assert cpu.call("load_pdptes", 0x8020) == 0


def test_invlpg_drops_all_pieces_of_a_large_page(processor: Any) -> None:
    cpu = processor
    cpu.long()
    flushes = cpu["count_flush"]
    cpu.call("translate", 0x5000, READ, SUPERVISOR)
    cpu.call("flush_tlb")
    assert cpu["count_flush"] == flushes + 1
    cpu.call("invlpg", 0x5000)
    assert cpu["count_flush"] == flushes + 1
    cpu.call("translate", 0x5000, READ, SUPERVISOR)
    cpu.call("invlpg", 0x20_0000)
    assert cpu["count_flush"] == flushes + 1
    cpu.call("invlpg", 0x1000)
    assert cpu["count_flush"] == flushes + 2
