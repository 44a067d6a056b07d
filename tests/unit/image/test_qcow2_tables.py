from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyhyve.image.qcow2.tables import Runs, ascending, load_u64, run_length, store_u64, used, used_bytes

if TYPE_CHECKING:
    from typing import Any


def plain_run(entries: array[int], index: int, limit: int, step: int) -> int:
    count = 1
    while count < limit and entries[index + count] == entries[index] + count * step:
        count += 1
    return count


@given(
    st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(1, 40)), min_size=1, max_size=8),
    st.sampled_from([0, 512, 65536]),
)
def test_run_length_agrees_with_a_plain_loop(pieces: Any, step: Any) -> None:
    entries = array("Q")
    for first, count in pieces:
        entries.extend(ascending(first, count, step))
    for index in range(0, len(entries), 3):
        for limit in {1, len(entries) - index, max(1, (len(entries) - index) // 2)}:
            assert run_length(entries, index, limit, step) == plain_run(entries, index, limit, step)


@pytest.mark.parametrize("step", [0, 1, 65536])
@pytest.mark.parametrize("length", [1, 17, 511, 512, 513, 700, 5000])
def test_long_runs_end_where_they_end(length: int, step: int) -> None:
    entries = ascending(1 << 63 | 5 << 16, length, step)
    entries.extend((7, 7 + step, 0))
    assert run_length(entries, 0, len(entries), step) == length
    assert run_length(entries, 0, length, step) == length
    top = array("Q", ((1 << 64) - 2 * max(step, 1), (1 << 64) - max(step, 1), 0, step))
    assert run_length(top, 0, 4, step) == (2 if step else 1)


@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(0, 1 << 18), st.integers(0, 600).map(lambda cluster: 1 << 63 | cluster << 16)),
            st.integers(1, 700),
            st.booleans(),
        ),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from([512, 4096, 65536, 1 << 21]),
)
def test_runs_of_a_table_agree_with_a_plain_loop(pieces: list[tuple[int, int, bool]], step: int) -> None:
    entries = array("Q")
    for first, count, ascends in pieces:
        entries.extend(ascending(first, count, step if ascends else 0))
    runs = Runs(entries, step)
    for index in {0, len(entries) - 1, *range(0, len(entries), 97)}:
        rest = len(entries) - index
        assert runs.length(index, ascending=True) == plain_run(entries, index, rest, step)
        assert runs.length(index, ascending=False) == plain_run(entries, index, rest, 0)


def test_runs_end_where_a_byte_starts_again_or_the_entry_overflows() -> None:
    step = 65536
    values = [0xFE << 16, 0xFF << 16, 0, step, (1 << 64) - step, 0, 0]
    runs = Runs(array("Q", values), step)
    assert [runs.length(index, ascending=True) for index in range(7)] == [2, 1, 2, 1, 1, 1, 1]
    assert [runs.length(index, ascending=False) for index in range(7)] == [1, 1, 1, 1, 1, 2, 1]


def test_tables_are_big_endian() -> None:
    assert load_u64(bytes(7) + b"\x05" + b"\x01" + bytes(7) + b"xx") == array("Q", (5, 1 << 56))
    assert store_u64(array("Q", (5,))) == bytes(7) + b"\x05"


@given(st.binary(max_size=70), st.integers(0, 70))
def test_used_bytes_is_the_length_without_zeroes_at_the_end(start: bytes, zeroes: int) -> None:
    data = start + bytes(zeroes)
    assert used_bytes(data) == len(data.rstrip(b"\0"))


def test_used_keeps_everything_up_to_the_last_entry() -> None:
    assert list(used(array("Q", (0, 1, 0, 1 << 56, 0, 0)))) == [0, 1, 0, 1 << 56]
    assert not used(array("Q", (0,) * 8192))
