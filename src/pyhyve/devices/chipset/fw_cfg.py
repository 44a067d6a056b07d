"""The firmware configuration device: named blobs that firmware reads to learn about its machine.

Interface: QEMU's "QEMU Firmware Configuration (fw_cfg) Device" specification, the port layout of PCs: selector at
offset 0, data at 1, DMA address at 4 (big-endian).
"""

from __future__ import annotations

import struct

from pyhyve.memory.guest import GuestAddressError
from pyhyve.state.record import U16, U32, U64, record
from pyhyve.support.enums import IntEnum, IntFlag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import ClassVar

    from pyhyve.memory.guest import GuestMemory

FW_CFG_PORT = 0x510
FW_CFG_PORTS = 12
_DMA_OFFSET = 4
_DMA_SIGNATURE = 0x51454D5520434647
"""What the DMA address register reads as: "QEMU CFG"."""
_FIRST_FILE = 0x20
_MAX_FILES = 0x1000
_NAME_BYTES = 56
_DMA_ACCESS = struct.Struct(">IIQ")
_FILL_BYTES = 1 << 16


class Item(IntEnum):
    """Well-known selectors."""

    SIGNATURE = 0x00
    ID = 0x01
    CPU_COUNT = 0x05
    BOOT_MENU = 0x0E
    MAX_CPUS = 0x0F
    FILE_DIRECTORY = 0x19


class _Feature(IntFlag):
    """Bits of item ID."""

    TRADITIONAL = 1
    DMA = 2


class _Control(IntFlag):
    """Bits of a DMA access's control word; the selector is in the upper half."""

    ERROR = 1
    READ = 2
    SKIP = 4
    SELECT = 8
    WRITE = 16


@record
class FwCfgState:
    """What is selected and how far it was read; the items follow from the machine's configuration."""

    selected: U16
    position: U64
    dma_high: U32


class FwCfg:
    """Read-only items and files. `memory` is where DMA accesses go."""

    state_type: ClassVar = FwCfgState
    state_version: ClassVar = 1

    def __init__(self, memory: GuestMemory, items: Mapping[int, bytes], files: Mapping[str, bytes]) -> None:
        """Raises ValueError for a file name that is too long or for too many files."""
        if len(files) > _MAX_FILES or any(len(name.encode()) >= _NAME_BYTES for name in files):
            msg = "too many files, or a name of more than 55 bytes"
            raise ValueError(msg)
        self._memory = memory
        self._items = {
            Item.SIGNATURE: b"QEMU",
            Item.ID: struct.pack("<I", _Feature.TRADITIONAL | _Feature.DMA),
            **items,
        }
        directory = struct.pack(">I", len(files))
        for number, (name, data) in enumerate(sorted(files.items())):
            self._items[_FIRST_FILE + number] = data
            directory += struct.pack(f">IHH{_NAME_BYTES}s", len(data), _FIRST_FILE + number, 0, name.encode())
        self._items[Item.FILE_DIRECTORY] = directory
        self._dma_high = 0
        self._data = b""
        self._selected = 0
        self._position = 0
        self.reset()

    def reset(self) -> None:
        """Select the signature, forget a half-written DMA address."""
        self._dma_high = 0
        self._select(Item.SIGNATURE)

    def save(self) -> FwCfgState:
        """Selector, position and half an address."""
        return FwCfgState(selected=self._selected, position=self._position, dma_high=self._dma_high)

    def load(self, state: FwCfgState) -> None:
        """Take over selector, position and half an address."""
        self._select(state.selected)
        self._position = state.position
        self._dma_high = state.dma_high

    def read(self, offset: int, size: int) -> int:
        """The data port gives the next byte of the item, zero after its end."""
        if offset == 1 and size == 1:
            return self._take(1)[0]
        if offset >= _DMA_OFFSET:
            # A big-endian register: the guest sees its bytes in memory order.
            here = _DMA_SIGNATURE.to_bytes(8, "big")[offset - _DMA_OFFSET :][:size]
            return int.from_bytes(here, "little")
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """The selector; or half of a DMA address, whose lower one starts the access."""
        if offset == 0 and size == 2:
            self._select(value)
        elif size == 4 and offset in {_DMA_OFFSET, _DMA_OFFSET + 4}:
            half = int.from_bytes(value.to_bytes(4, "little"), "big")
            if offset == _DMA_OFFSET:
                self._dma_high = half
                return
            gpa, self._dma_high = self._dma_high << 32 | half, 0
            self._dma(gpa)

    def _select(self, item: int) -> None:
        self._selected = item & 0xFFFF
        self._data = self._items.get(self._selected, b"")
        self._position = 0

    def _take(self, length: int) -> bytes:
        data = self._data[self._position : self._position + length]
        self._position += length
        return data.ljust(length, b"\0")

    def _dma(self, gpa: int) -> None:
        try:
            control, length, address = _DMA_ACCESS.unpack(self._memory.read(gpa, _DMA_ACCESS.size))
            if control & _Control.SELECT:
                self._select(control >> 16)
            result = 0
            try:
                if control & _Control.READ:
                    self._transfer(address, length)
                elif control & _Control.SKIP:
                    self._position += length
                elif control & _Control.WRITE:
                    result = int(_Control.ERROR)
            except GuestAddressError:
                result = int(_Control.ERROR)
            self._memory.write(gpa, result.to_bytes(4, "big"))
        except GuestAddressError:
            return  # there is nowhere to say that it failed

    def _transfer(self, address: int, length: int) -> None:
        """Copy the next `length` bytes; in pieces, so that an absurd length takes no memory."""
        while length:
            piece = self._take(min(length, _FILL_BYTES))
            self._memory.write(address, piece)
            address += len(piece)
            length -= len(piece)
