"""The table of written pages: marks by address, runs taken in order, nothing lost between two takers."""

from __future__ import annotations

import ctypes
import threading

import pytest

from pyhyve.memory.dirty import DirtyTable
from pyhyve.memory.guest import GuestMemory

PAGE = 4096


@pytest.fixture
def memory() -> GuestMemory:
    memory = GuestMemory(shared=False)
    memory.add(0, 16 * PAGE)
    memory.add(0x10_0000, 8 * PAGE, readonly=True, name="rom")
    memory.add(0x10_0000 + 8 * PAGE, 4 * PAGE)
    return memory


def test_marks_are_whole_pages_and_taken_once(memory: GuestMemory) -> None:
    table = DirtyTable(memory)
    assert table.take() == []
    table.mark(PAGE + 4095, 2)
    table.mark(5 * PAGE, 1)
    assert table.take() == [(PAGE, 2 * PAGE), (5 * PAGE, PAGE)]
    assert table.take() == []


def test_range_over_regions_and_holes_is_cut_at_their_ends(memory: GuestMemory) -> None:
    table = DirtyTable(memory)
    table.mark(15 * PAGE, 0x20_0000)
    assert table.take() == [(15 * PAGE, PAGE), (0x10_0000, 8 * PAGE), (0x10_0000 + 8 * PAGE, 4 * PAGE)]
    table.mark(0x4000_0000, 4096)
    assert table.take() == []


def test_bitmaps_are_marks_too(memory: GuestMemory) -> None:
    table = DirtyTable(memory)
    table.mark(0, 1)
    table.mark_bits(0, bytes((0b1000_0010, 0b1100_0000, 0xFF)))
    table.mark_bits(0x10_0000, bytes((0xFF,)))
    assert table.take() == [(0, 2 * PAGE), (7 * PAGE, PAGE), (14 * PAGE, 2 * PAGE), (0x10_0000, 8 * PAGE)]


def test_compiled_code_marks_by_address(memory: GuestMemory) -> None:
    table = DirtyTable(memory)
    ctypes.c_uint8.from_address(table.address + 17).value = 1
    assert table.take() == [(0x10_0000 + PAGE, PAGE)]


def test_memory_tells_its_table_until_it_is_told_not_to(memory: GuestMemory) -> None:
    table = DirtyTable(memory)
    memory.dirty = table
    memory.write(3 * PAGE - 1, b"ab")
    memory.release(8 * PAGE, 2 * PAGE)
    assert table.take() == [(2 * PAGE, 2 * PAGE), (8 * PAGE, 2 * PAGE)]
    memory.dirty = None
    memory.write(0, b"ab")
    assert table.take() == []


def test_marks_made_while_others_are_taken_are_not_lost() -> None:
    memory = GuestMemory(shared=False)
    memory.add(0, 512 * PAGE)
    table = DirtyTable(memory)
    found: set[int] = set()
    done = threading.Event()

    def taker() -> None:
        while not done.is_set():
            found.update(gpa + at for gpa, size in table.take() for at in range(0, size, PAGE))

    thread = threading.Thread(target=taker)
    thread.start()
    for page in range(512):
        table.mark(page * PAGE, 1)
    done.set()
    thread.join()
    found.update(gpa + at for gpa, size in table.take() for at in range(0, size, PAGE))
    assert found == set(range(0, 512 * PAGE, PAGE))
