"""The firmware configuration device, as its specification's text describes it."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyhyve.devices.chipset.fw_cfg import FwCfg, Item
from pyhyve.memory.guest import GuestMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

RAM = 0x1_0000
REQUEST = 0x100
READ, SKIP, SELECT, WRITE = 2, 4, 8, 16


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory(shared=False)
    memory.add(0, RAM)
    yield memory
    memory.close()


@pytest.fixture
def device(memory: GuestMemory) -> FwCfg:
    return FwCfg(memory, {Item.CPU_COUNT: b"\x03\x00"}, {"etc/b": b"second", "etc/a": bytes(range(100))})


def take(device: FwCfg, item: int, length: int) -> bytes:
    device.write(0, 2, item)
    return bytes(device.read(1, 1) for _ in range(length))


def files(device: FwCfg) -> dict[str, tuple[int, int]]:
    """Selector and size by name."""
    (count,) = struct.unpack(">I", take(device, Item.FILE_DIRECTORY, 4))
    data = take(device, Item.FILE_DIRECTORY, 4 + 64 * count)[4:]
    return {
        name.rstrip(b"\0").decode(): (select, size) for size, select, _, name in struct.iter_unpack(">IHH56s", data)
    }


def test_signature_features_and_items(device: FwCfg) -> None:
    assert take(device, Item.SIGNATURE, 6) == b"QEMU\0\0"
    assert take(device, Item.ID, 4) == b"\x03\0\0\0"
    assert take(device, Item.CPU_COUNT, 2) == b"\x03\0"
    assert take(device, 0x7777, 4) == bytes(4)


def test_directory_lists_the_files(device: FwCfg) -> None:
    found = files(device)
    assert {name: size for name, (_, size) in found.items()} == {"etc/a": 100, "etc/b": 6}
    assert take(device, found["etc/a"][0], 100) == bytes(range(100))
    assert take(device, found["etc/b"][0], 6) == b"second"


def dma(device: FwCfg, memory: GuestMemory, control: int, length: int, address: int) -> int:
    memory.write(REQUEST, struct.pack(">IIQ", control, length, address))
    device.write(4, 4, 0)
    device.write(8, 4, int.from_bytes(REQUEST.to_bytes(4, "big"), "little"))
    return int.from_bytes(memory.read(REQUEST, 4), "big")


def test_dma_selects_skips_and_reads(device: FwCfg, memory: GuestMemory) -> None:
    assert b"".join(device.read(offset, 4).to_bytes(4, "little") for offset in (4, 8)) == b"QEMU CFG"
    select = files(device)["etc/a"][0] << 16 | SELECT
    assert dma(device, memory, select | READ, 4, 0x200) == 0
    assert memory.read(0x200, 6) == bytes([0, 1, 2, 3, 0, 0])
    assert dma(device, memory, SKIP, 90, 0) == 0
    assert dma(device, memory, READ, 10, 0x300) == 0
    assert memory.read(0x300, 10) == bytes([94, 95, 96, 97, 98, 99, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("control", "length", "address"),
    [(WRITE, 4, 0x200), (READ, 4, RAM), (READ, 0xFFFF_FFFF, 0x200), (READ, 8, (1 << 64) - 4)],
)
def test_dma_that_cannot_be_says_so(
    control: int, length: int, address: int, device: FwCfg, memory: GuestMemory
) -> None:
    assert dma(device, memory, control, length, address) == 1


def test_dma_request_outside_memory_is_dropped(device: FwCfg) -> None:
    device.write(4, 4, 0xFFFF_FFFF)
    device.write(8, 4, 0xFFFF_FFFF)
    assert take(device, Item.SIGNATURE, 4) == b"QEMU"


def test_reset_selects_the_signature(device: FwCfg) -> None:
    take(device, Item.CPU_COUNT, 1)
    device.reset()
    assert bytes(device.read(1, 1) for _ in range(4)) == b"QEMU"


@given(
    st.lists(
        st.tuples(st.integers(0, 11), st.sampled_from([1, 2, 4]), st.integers(0, 0xFFFF_FFFF), st.booleans()),
        max_size=40,
    )
)
def test_any_access_is_survived(accesses: list[tuple[int, int, int, bool]]) -> None:
    memory = GuestMemory(shared=False)
    memory.add(0, RAM)
    device = FwCfg(memory, {}, {"f": b"data"})
    for offset, size, value, is_write in accesses:
        if is_write:
            device.write(offset, size, value & ((1 << 8 * size) - 1))
        else:
            assert 0 <= device.read(offset, size) < 1 << 8 * size
    memory.close()


def test_name_that_is_too_long_is_refused(memory: GuestMemory) -> None:
    with pytest.raises(ValueError, match="55 bytes"):
        FwCfg(memory, {}, {"x" * 56: b""})
