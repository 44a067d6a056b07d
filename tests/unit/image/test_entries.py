from __future__ import annotations

import io
import struct
from array import array
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyhyve.image.contract import ImageFormatError
from pyhyve.image.entries import PAGE_ENTRIES, EntryTable, run_length
from pyhyve.image.storage import FileObjectStorage

if TYPE_CHECKING:
    from typing import Any


def storage_of(data: bytes) -> FileObjectStorage:
    return FileObjectStorage(io.BytesIO(data), "table", writable=True)


@pytest.mark.parametrize(
    ("width", "big", "layout"), [(4, True, ">I"), (4, False, "<I"), (8, True, ">Q"), (8, False, "<Q")]
)
def test_entries_have_their_width_and_order(width: Any, big: Any, layout: Any) -> None:
    storage = storage_of(bytes(16) + struct.pack(layout, 0x01020304) * 3)
    table = EntryTable(storage, 16, 3, width, big_endian=big)
    assert [table[at] for at in range(3)] == [0x01020304] * 3
    table[1] = 7
    table.fill(2, 9, 1, 1)
    assert table.is_dirty
    table.write_back()
    assert not table.is_dirty
    assert storage.pread(1000, 16) == b"".join(struct.pack(layout, value) for value in (0x01020304, 7, 9))


@pytest.mark.parametrize(("offset", "count"), [(0, 5), (13, 1), (1 << 62, 1), (-4, 1), (0, -1), (0, 1 << 60)])
def test_table_outside_the_file_is_refused_before_memory_is_taken(offset: Any, count: Any) -> None:
    with pytest.raises(ImageFormatError, match="outside the file"):
        EntryTable(storage_of(bytes(16)), offset, count, 4)


def test_file_cut_after_opening_is_an_error() -> None:
    storage = storage_of(bytes(1024))
    table = EntryTable(storage, 0, 256, 4)
    storage.truncate(100)
    with pytest.raises(ImageFormatError, match="cut off"):
        table[0]


def test_many_pages_are_kept_bounded_and_changes_survive() -> None:
    pages = 200
    count = pages * PAGE_ENTRIES
    storage = storage_of(bytes(count * 4))
    table = EntryTable(storage, 0, count, 4)
    for page in range(0, pages, 10):
        table[page * PAGE_ENTRIES + page] = page + 1
    assert not table.wants_write_back
    for page in range(pages):
        assert table[page * PAGE_ENTRIES + page] == (page + 1 if page % 10 == 0 else 0)
    assert len(table._pages) <= 128
    table.write_back()
    again = EntryTable(storage, 0, count, 4)
    assert sum(sum(page) for page in again.pages()) == sum(page + 1 for page in range(0, pages, 10))
    for page in range(70):
        table[page * PAGE_ENTRIES] = 1
    assert table.wants_write_back


def test_runs_and_fills_end_and_go_on_at_pages() -> None:
    storage = storage_of(bytes(3 * PAGE_ENTRIES * 8))
    table = EntryTable(storage, 0, 3 * PAGE_ENTRIES, 8)
    assert table.run_length(5, 10 * PAGE_ENTRIES, 0) == PAGE_ENTRIES - 5
    table.fill(PAGE_ENTRIES - 3, 100, 10, 2)
    assert [table[PAGE_ENTRIES - 3 + at] for at in range(11)] == [*range(100, 120, 2), 0]
    assert table.run_length(PAGE_ENTRIES, 100, 2) == 7


def test_copies_are_written_alike() -> None:
    storage = storage_of(bytes(64))
    table = EntryTable(storage, 0, 4, 4)
    table[2] = 5
    table.write_back(32)
    assert storage.pread(16, 0) == storage.pread(16, 32) == struct.pack("<4I", 0, 0, 5, 0)


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=80),
    st.integers(0, 79),
    st.integers(1, 100),
    st.sampled_from([0, 1, 2]),
)
def test_run_length_is_that_of_a_plain_loop(values: Any, at: Any, limit: Any, step: Any) -> None:
    at %= len(values)
    expected = 1
    while expected < limit and at + expected < len(values) and values[at + expected] == values[at] + expected * step:
        expected += 1
    assert run_length(array("I", values), at, limit, step) == expected


def test_runs_at_the_end_of_the_number_range_do_not_overflow() -> None:
    assert run_length(array("I", [0xFFFFFFFE, 0xFFFFFFFF, 0, 1]), 0, 4, 1) == 2
    assert run_length(array("Q", [(1 << 64) - 1, 0, 1]), 0, 3, 1) == 1
