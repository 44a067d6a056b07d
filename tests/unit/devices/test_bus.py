"""Address maps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyhyve.devices.bus import AddressConflictError, AddressMap


class Bytes:
    """Memory with a record of accesses."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(range(size))
        self.log: list[tuple[str, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        self.log.append(("r", offset, size))
        return int.from_bytes(self.data[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self.log.append(("w", offset, size))
        self.data[offset : offset + size] = value.to_bytes(size, "little")


def test_access_reaches_the_device_by_offset() -> None:
    space, device = AddressMap("port", 0x10000), Bytes(8)
    space.add(0x3F8, 8, device, name="uart", width=1)
    assert space.read(0x3FA, 1) == 2
    space.write(0x3FB, 1, 0x99)
    assert device.data[3] == 0x99


def test_wide_access_is_split_to_the_device_width() -> None:
    space, device = AddressMap("port", 0x10000), Bytes(8)
    space.add(0x20, 8, device, name="bytes", width=1)
    assert space.read(0x20, 4) == 0x03020100
    assert device.log == [("r", i, 1) for i in range(4)]
    space.write(0x24, 2, 0xBBAA)
    assert device.data[4:6] == b"\xaa\xbb"


def test_access_over_the_edge_reads_ones_beyond() -> None:
    space = AddressMap("port", 0x10000)
    space.add(0x20, 2, Bytes(2), name="two", width=1)
    assert space.read(0x21, 4) == 0xFFFFFF01
    assert space.read(0x1F, 2) == 0x00FF
    space.write(0x21, 4, 0x12345678)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_nothing_reads_all_ones(size: int) -> None:
    space = AddressMap("memory", 1 << 52)
    assert space.read(0xD000_0000, size) == (1 << 8 * size) - 1
    space.write(0xD000_0000, size, 0)


@pytest.mark.parametrize(("base", "size"), [(0x100, 1), (0xF8, 9), (0x104, 0x10), (0x80, 0x200)])
def test_overlap_is_refused(base: int, size: int) -> None:
    space = AddressMap("memory", 1 << 32)
    space.add(0x100, 8, Bytes(8), name="first")
    with pytest.raises(AddressConflictError, match="overlaps first"):
        space.add(base, size, Bytes(8), name="second")
    space.add(0xF0, 0x10, Bytes(16), name="below")
    space.add(0x108, 8, Bytes(8), name="above")


@pytest.mark.parametrize(("base", "size"), [(-1, 4), (0xFFFE, 4), (0, 0)])
def test_range_outside_is_refused(base: int, size: int) -> None:
    with pytest.raises(AddressConflictError, match="outside"):
        AddressMap("port", 0x10000).add(base, size, Bytes(4), name="x")


def test_removed_device_no_longer_answers() -> None:
    space = AddressMap("memory", 1 << 32)
    mapping = space.add(0x1000, 8, Bytes(8), name="x")
    assert space.read(0x1001, 1) == 1
    space.remove(mapping)
    assert space.read(0x1001, 1) == 0xFF


def test_trace_sees_reads_and_writes() -> None:
    space = AddressMap("port", 0x10000)
    seen: list[tuple[str, int, int, int, bool]] = []
    space.trace = lambda name, address, size, value, *, is_write: seen.append((name, address, size, value, is_write))
    space.add(0x80, 4, Bytes(4), name="x")
    space.read(0x81, 2)
    space.write(0x80, 1, 9)
    assert seen == [("port", 0x81, 2, 0x0201, False), ("port", 0x80, 1, 9, True)]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), max_size=12), st.integers(0, 70))
def test_lookup_agrees_with_a_plain_search(ranges: list[tuple[int, int]], address: int) -> None:
    space = AddressMap("port", 64)
    taken: dict[int, int] = {}
    for base, size in ranges:
        fits = base + size <= 64 and not any(n in taken for n in range(base, base + size))
        try:
            space.add(base, size, Bytes(size), name="x")
        except AddressConflictError:
            assert not fits
        else:
            assert fits
            taken.update({n: n - base for n in range(base, base + size)})
    assert space.read(address, 1) == taken.get(address, 0xFF)


def test_many_addresses_do_not_grow_the_cache_without_bound() -> None:
    space = AddressMap("memory", 1 << 32)
    space.add(0, 1 << 20, Bytes(16), name="big")
    for address in range(20_000):
        space.find(address)
    assert len(space._cache) <= 4096
