"""Global pages: what outlasts a write of CR3 and what does not (SDM Vol. 3A, 4.10.2.4 and 4.10.4.1)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import pytest

from tests.unit.cpu.engine.conftest import CODE, TABLES

if TYPE_CHECKING:
    from tests.unit.cpu.engine.conftest import Guest

PAGE: Final = 0x50000
OTHER: Final = 0x60000
PTE: Final = TABLES + 0x3000 + 8 * (PAGE >> 12)
LARGE: Final = 0x400000
LARGE_PTE: Final = TABLES + 0x2000 + 8 * 2
GLOBAL: Final = 0x100
PGE: Final = 0x80
CR4: Final = 0x620
WRITE_CR3: Final = "0f20d9 0f22d9"  # mov rcx, cr3; mov cr3, rcx
INVLPG: Final = "0f013c25 00000500"
TOGGLE_PGE: Final = "0f20e1 4883f180 0f22e1 4883f180 0f22e1"  # mov rcx, cr4; xor rcx, -128; ... twice


def remap(pte: int, value: int) -> str:
    """mov qword [pte], value"""
    return f"48c70425{pte.to_bytes(4, 'little').hex()}{value.to_bytes(4, 'little').hex()}"


def second_read(guest: Guest, between: str, *, flags: int, cr4: int = CR4 | PGE) -> str:
    """Read the page, map another in its place, do `between`, read again: the letter found then."""
    guest.map(PAGE, PAGE, 3 | flags)
    guest.memory.write(PAGE, b"A" * 8)
    guest.memory.write(OTHER, b"B" * 8)
    read = "8a0425" + PAGE.to_bytes(4, "little").hex()  # mov al, [PAGE]
    guest.code(read + remap(PTE, OTHER | 3 | flags) + between + read + "f4")
    return chr(guest.run_to_halt(cr4=cr4, rip=CODE)["rax"] & 0xFF)


def test_global_page_outlasts_cr3(guest: Guest) -> None:
    assert second_read(guest, WRITE_CR3, flags=GLOBAL) == "A"


@pytest.mark.parametrize(("flags", "cr4"), [(0, CR4 | PGE), (0, CR4), (GLOBAL, CR4)])
def test_other_pages_do_not(guest: Guest, flags: int, cr4: int) -> None:
    assert second_read(guest, WRITE_CR3, flags=flags, cr4=cr4) == "B"


@pytest.mark.parametrize("between", [INVLPG, WRITE_CR3 + INVLPG])
def test_invlpg_drops_a_global_page(guest: Guest, between: str) -> None:
    assert second_read(guest, between, flags=GLOBAL) == "B"


@pytest.mark.parametrize("flags", [0, GLOBAL])
def test_toggling_cr4_pge_drops_everything(guest: Guest, flags: int) -> None:
    assert second_read(guest, TOGGLE_PGE.replace("4883f180", "4881f180000000"), flags=flags) == "B"


def test_a_page_that_becomes_local_is_dropped_by_the_next_write(guest: Guest) -> None:
    guest.map(PAGE, PAGE, 3 | GLOBAL)
    guest.memory.write(PAGE, b"A" * 8)
    guest.memory.write(OTHER, b"B" * 8)
    guest.memory.write(OTHER + 0x1000, b"C" * 8)
    read = "8a0425" + PAGE.to_bytes(4, "little").hex()
    # Global, then local through INVLPG, then changed again with nothing but a write of CR3.
    code = read + remap(PTE, OTHER | 3) + INVLPG + read + remap(PTE, OTHER + 0x1000 | 3) + WRITE_CR3 + read + "f4"
    guest.code(code)
    assert guest.run_to_halt(cr4=CR4 | PGE)["rax"] & 0xFF == ord("C")


@pytest.mark.parametrize(("flags", "expected"), [(GLOBAL, 1), (0, 2)])
def test_code_found_by_its_address_follows_the_page(guest: Guest, flags: int, expected: int) -> None:
    # Twice: call rdx (PAGE); the second time the page is another one. f: mov eax, 1 (2); ret
    guest.map(PAGE, PAGE, 3 | flags)
    guest.code("b801000000 c3", at=PAGE)
    guest.code("b802000000 c3", at=OTHER)
    guest.code("ffd2 ffd2" + remap(PTE, OTHER | 3 | flags) + WRITE_CR3 + "ffd2 f4")
    assert guest.run_to_halt(cr4=CR4 | PGE, rdx=PAGE)["rax"] == expected


def test_code_on_a_page_dropped_by_invlpg_is_looked_up_again(guest: Guest) -> None:
    guest.map(PAGE, PAGE, 3 | GLOBAL)
    guest.code("b801000000 c3", at=PAGE)
    guest.code("b802000000 c3", at=OTHER)
    guest.code("ffd2 ffd2" + remap(PTE, OTHER | 3 | GLOBAL) + INVLPG + "ffd2 f4")
    assert guest.run_to_halt(cr4=CR4 | PGE, rdx=PAGE)["rax"] == 2


@pytest.mark.parametrize("flags", [0, GLOBAL])
def test_invlpg_drops_a_large_page_whole(guest: Guest, flags: int) -> None:
    # Read two 4 KiB pieces of a 2 MiB page, map another, INVLPG of a third piece, read both again.
    guest.memory.write(LARGE_PTE, struct.pack("<Q", LARGE | 0x83 | flags))
    for base, letter in ((LARGE, b"A"), (LARGE + 0x200000, b"B")):
        guest.memory.write(base + 0x1000, letter)
        guest.memory.write(base + 0x5000, letter)
    reads = "8a042500104000 8a242500504000"  # mov al, [LARGE + 0x1000]; mov ah, [LARGE + 0x5000]
    guest.code(reads + remap(LARGE_PTE, LARGE + 0x200000 | 0x83 | flags) + "0f013c2500304000" + reads + "f4")
    assert guest.run_to_halt(cr4=CR4 | PGE, rax=0)["rax"] == 0x4242


def test_many_pages_are_all_dropped(guest: Guest) -> None:
    # Touch more pages than the TLB holds, then change one of the first and write CR3.
    guest.memory.write(OTHER, b"B")
    guest.memory.write(PAGE, b"A")
    read = "8a0425" + PAGE.to_bytes(4, "little").hex()
    # mov esi, 0; L: mov bl, [rsi]; add esi, 4096; cmp esi, 8 MiB; jb L
    touch = "be00000000 8a1e 81c600100000 81fe00008000 72f0"
    guest.code(read + touch + read + remap(PTE, OTHER | 3) + WRITE_CR3 + read + "f4")
    assert guest.run_to_halt(cr4=CR4 | PGE)["rax"] & 0xFF == ord("B")


@pytest.mark.parametrize("flags", [0, GLOBAL])
def test_displaced_entries_follow_the_same_rules(guest: Guest, flags: int) -> None:
    # The page and one 4 MiB above it share a place in the TLB: each displaces the other, and comes back.
    far = PAGE + (4 << 20)
    guest.map(PAGE, PAGE, 3 | flags)
    guest.memory.write(PAGE, b"A" * 8)
    guest.memory.write(OTHER, b"B" * 8)
    read = "8a0425" + PAGE.to_bytes(4, "little").hex()
    displace = "8a1c25" + far.to_bytes(4, "little").hex()  # mov bl, [far]
    change = read + displace + remap(PTE, OTHER | 3 | flags)
    guest.code(change + WRITE_CR3 + displace + read + "f4")
    # That a global page stays is allowed, not promised: it shares its place with one that does not.
    assert chr(guest.run_to_halt(cr4=CR4 | PGE, rip=CODE)["rax"] & 0xFF) in ("AB" if flags else "B")
    guest.map(PAGE, PAGE, 3 | flags)
    guest.code(change + INVLPG + displace + read + "f4")
    assert chr(guest.run_to_halt(cr4=CR4 | PGE, rip=CODE)["rax"] & 0xFF) == "B"


def test_displaced_entries_do_not_outlast_the_code_that_is_made_of_their_pages(guest: Guest) -> None:
    # Write to a page, displace its entry, run code from it (so that writes must be seen), bring the entry back, write.
    far = PAGE + (4 << 20)
    store = "c60425" + (PAGE + 1).to_bytes(4, "little").hex()  # mov byte [PAGE + 1], n
    displace = "8a1c25" + far.to_bytes(4, "little").hex()
    guest.code("b000 c3", at=PAGE)
    call = "ffd2"
    guest.code(f"{store}01 {displace} {call} 0fb6f0 {store}02 {displace} {call} {store}07 {call} f4")
    registers = guest.run_to_halt(rdx=PAGE)
    assert (registers["rsi"], registers["rax"] & 0xFF) == (1, 7)
