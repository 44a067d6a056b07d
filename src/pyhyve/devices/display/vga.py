"""A VGA with Bochs' VBE extension, as a PCI function: text modes, 320x200 and linear frame buffers.

Its memory is memory of the machine, which the guest reaches without exits: the window at 0xA0000, and the frame buffer
at `FRAME_BUFFER`, where firmware puts it; elsewhere it is reached access by access. The registers decide only what is
shown. Planar modes (16 colours) are not shown: that memory cannot be plain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pyhyve.devices.display.vga_spec import (
    ATTRIBUTE_COUNT,
    CRTC_COUNT,
    DEPTHS,
    DISPI_ID,
    DISPI_PORT,
    GRAPHICS_COUNT,
    MAX_DEPTH,
    MAX_HEIGHT,
    MAX_WIDTH,
    PALETTE_BYTES,
    SEQUENCER_COUNT,
    VGA_PORT,
    Crtc,
    Dispi,
    DispiEnable,
    Port,
)
from pyhyve.devices.pci.device import PciDevice
from pyhyve.devices.pci.spec import BarKind
from pyhyve.state.record import U8, U16, Size, record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyhyve.memory.guest import GuestMemory
    from pyhyve.state.contract import Saveable

FRAME_BUFFER = 0xFD00_0000
"""Where SeaBIOS puts the largest region of 16 MiB, as long as all of PCI's memory is less than 28 MiB."""
FRAME_BUFFER_BYTES = 16 << 20
_REGISTERS_BYTES = 4096
_MMIO_VGA, _MMIO_VGA_END, _MMIO_DISPI, _MMIO_DISPI_END = 0x400, 0x420, 0x500, 0x516
_DISPI_COUNT = 11
_COLOUR_PORTS = 0x01
_INDEX_ENABLED = 0x20
_PROTECTED_CRTC = 7


@record
class VgaState:
    """All registers; the memory is the machine's."""

    miscellaneous: U8
    sequencer: Annotated[bytes, Size(SEQUENCER_COUNT)]
    graphics: Annotated[bytes, Size(GRAPHICS_COUNT)]
    crtc: Annotated[bytes, Size(CRTC_COUNT)]
    attribute: Annotated[bytes, Size(ATTRIBUTE_COUNT)]
    palette: Annotated[bytes, Size(PALETTE_BYTES)]
    palette_mask: U8
    palette_index: U16
    palette_reads: bool
    indexes: Annotated[bytes, Size(4)]
    """Of sequencer, graphics, CRT controller and attribute controller."""
    attribute_is_data: bool
    dispi_index: U16
    dispi: tuple[U16, ...]


class VgaRegisters:
    """The ports: offsets count from `VGA_PORT`. The machine lock is held."""

    state_type: ClassVar = VgaState
    state_version: ClassVar = 1

    def __init__(self) -> None:
        self.dispi_ports = _DispiPorts(self)
        self.reset()

    def reset(self) -> None:
        """Power on."""
        self.miscellaneous = 0
        self.sequencer = bytearray(SEQUENCER_COUNT)
        self.graphics = bytearray(GRAPHICS_COUNT)
        self.crtc = bytearray(CRTC_COUNT)
        self.attribute = bytearray(ATTRIBUTE_COUNT)
        self.palette = bytearray(PALETTE_BYTES)
        self.palette_mask = 0xFF
        self.dispi = [0] * _DISPI_COUNT
        self.dispi[Dispi.ID] = DISPI_ID
        self._palette_index = 0
        self._palette_reads = False
        self._sequencer_index = self._graphics_index = self._crtc_index = self._attribute_index = 0
        self._attribute_is_data = False
        self._retrace = 0
        self.dispi_index = 0

    @property
    def has_frame_buffer(self) -> bool:
        """Whether Bochs' extension is on."""
        return bool(self.dispi[Dispi.ENABLE] & DispiEnable.ON)

    # -- ports --------------------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """Read ports; wider accesses are several."""
        return sum(self._read(VGA_PORT + offset + part) << 8 * part for part in range(size))

    def write(self, offset: int, size: int, value: int) -> None:
        """Write ports; wider accesses are several: index and data at once, as a rule."""
        for part in range(size):
            self._write(VGA_PORT + offset + part, value >> 8 * part & 0xFF)

    def _crtc_port(self, port: int) -> int:
        """The colour port that `port` stands for; 0 for one of the other kind of display."""
        if port >= Port.ATTRIBUTE and port < 0x3D0:
            return port
        is_colour = bool(self.miscellaneous & _COLOUR_PORTS)
        if (port >= 0x3D0) != is_colour:
            return 0
        return port if is_colour else port + 0x20

    def _read(self, port: int) -> int:
        port = self._crtc_port(port)
        match port:
            case Port.ATTRIBUTE:
                return self._attribute_index
            case Port.ATTRIBUTE_READ:
                index = self._attribute_index & 0x1F
                return self.attribute[index] if index < ATTRIBUTE_COUNT else 0
            case Port.SEQUENCER_INDEX:
                return self._sequencer_index
            case Port.SEQUENCER_DATA:
                return self.sequencer[self._sequencer_index] if self._sequencer_index < SEQUENCER_COUNT else 0
            case Port.PALETTE_MASK:
                return self.palette_mask
            case Port.PALETTE_READ_INDEX:
                return 3 if self._palette_reads else 0
            case Port.PALETTE_WRITE_INDEX:
                return self._palette_index // 3 & 0xFF
            case Port.PALETTE_DATA:
                return self._next_colour(None)
            case Port.MISCELLANEOUS_READ:
                return self.miscellaneous
            case Port.GRAPHICS_INDEX:
                return self._graphics_index
            case Port.GRAPHICS_DATA:
                return self.graphics[self._graphics_index] if self._graphics_index < GRAPHICS_COUNT else 0
            case Port.CRTC_INDEX:
                return self._crtc_index
            case Port.CRTC_DATA:
                return self.crtc[self._crtc_index] if self._crtc_index < CRTC_COUNT else 0
            case Port.STATUS:
                # Who waits for a retrace sees one come and go.
                self._attribute_is_data = False
                self._retrace ^= 0x09
                return self._retrace
            case Port.MISCELLANEOUS | Port.FEATURE_READ:
                return 0
            case _:
                return 0xFF

    def _write(self, port: int, value: int) -> None:
        port = self._crtc_port(port)
        match port:
            case Port.ATTRIBUTE:
                self._write_attribute(value)
            case Port.MISCELLANEOUS:
                self.miscellaneous = value & ~0x10
            case Port.SEQUENCER_INDEX:
                self._sequencer_index = value & 7
            case Port.SEQUENCER_DATA if self._sequencer_index < SEQUENCER_COUNT:
                self.sequencer[self._sequencer_index] = value
            case Port.PALETTE_MASK:
                self.palette_mask = value
            case Port.PALETTE_READ_INDEX | Port.PALETTE_WRITE_INDEX:
                self._palette_index = 3 * value
                self._palette_reads = port == Port.PALETTE_READ_INDEX
            case Port.PALETTE_DATA:
                self._next_colour(value)
            case Port.GRAPHICS_INDEX:
                self._graphics_index = value & 0xF
            case Port.GRAPHICS_DATA if self._graphics_index < GRAPHICS_COUNT:
                self.graphics[self._graphics_index] = value
            case Port.CRTC_INDEX:
                self._crtc_index = value
            case Port.CRTC_DATA if self._crtc_index < CRTC_COUNT:
                self._write_crtc(value)
            case _:
                pass

    def _write_crtc(self, value: int) -> None:
        if self._crtc_index <= _PROTECTED_CRTC and self.crtc[Crtc.SYNC_END] & 0x80:
            if self._crtc_index == Crtc.OVERFLOW:
                self.crtc[Crtc.OVERFLOW] = self.crtc[Crtc.OVERFLOW] & ~0x10 | value & 0x10
            return
        self.crtc[self._crtc_index] = value

    def _write_attribute(self, value: int) -> None:
        if self._attribute_is_data:
            index = self._attribute_index & 0x1F
            if index < ATTRIBUTE_COUNT:
                self.attribute[index] = value & 0x3F if index < 16 else value
        else:
            self._attribute_index = value & 0x3F
        self._attribute_is_data = not self._attribute_is_data

    def _next_colour(self, value: int | None) -> int:
        index = self._palette_index
        if value is not None:
            self.palette[index] = value
        self._palette_index = (index + 1) % PALETTE_BYTES
        return self.palette[index]

    # -- Bochs' extension ---------------------------------------------------------------------------------------------

    def read_dispi(self, index: int) -> int:
        """A register of 16 bits; what is possible while its capabilities are asked for."""
        if index == Dispi.MEMORY_64K:
            return FRAME_BUFFER_BYTES >> 16
        if index >= _DISPI_COUNT:
            return 0
        if self.dispi[Dispi.ENABLE] & DispiEnable.CAPABILITIES and Dispi.WIDTH <= index <= Dispi.DEPTH:
            return (MAX_WIDTH, MAX_HEIGHT, MAX_DEPTH)[index - Dispi.WIDTH]
        return self.dispi[index]

    def write_dispi(self, index: int, value: int) -> None:
        """Write a register; sizes that cannot be are kept out."""
        dispi = self.dispi
        match index:
            case Dispi.ID if value & 0xFFF0 == DISPI_ID & 0xFFF0:
                dispi[index] = value
            case Dispi.WIDTH if value <= MAX_WIDTH:
                dispi[index] = value & ~7
            case Dispi.HEIGHT if value <= MAX_HEIGHT:
                dispi[index] = value
            case Dispi.DEPTH if value in DEPTHS:
                dispi[index] = value
            case Dispi.ENABLE:
                if value & DispiEnable.ON and not dispi[index] & DispiEnable.ON:
                    dispi[Dispi.VIRTUAL_WIDTH] = dispi[Dispi.WIDTH]
                    dispi[Dispi.X_OFFSET] = dispi[Dispi.Y_OFFSET] = 0
                dispi[index] = value
            case Dispi.BANK | Dispi.X_OFFSET | Dispi.Y_OFFSET:
                dispi[index] = value
            case Dispi.VIRTUAL_WIDTH if dispi[Dispi.WIDTH] <= value:
                dispi[index] = value
            case _:
                return
        line = dispi[Dispi.VIRTUAL_WIDTH] * self.pixel_bytes
        dispi[Dispi.VIRTUAL_HEIGHT] = min(FRAME_BUFFER_BYTES // line, 0xFFFF) if line else 0

    @property
    def pixel_bytes(self) -> int:
        """Bytes of a pixel in the frame buffer."""
        return (self.dispi[Dispi.DEPTH] + 7) // 8

    # -- state --------------------------------------------------------------------------------------------------------

    def save(self) -> VgaState:
        """All registers."""
        indexes = (self._sequencer_index, self._graphics_index, self._crtc_index, self._attribute_index)
        return VgaState(
            miscellaneous=self.miscellaneous,
            sequencer=bytes(self.sequencer),
            graphics=bytes(self.graphics),
            crtc=bytes(self.crtc),
            attribute=bytes(self.attribute),
            palette=bytes(self.palette),
            palette_mask=self.palette_mask,
            palette_index=self._palette_index,
            palette_reads=self._palette_reads,
            indexes=bytes(indexes),
            attribute_is_data=self._attribute_is_data,
            dispi_index=self.dispi_index,
            dispi=tuple(self.dispi),
        )

    def load(self, state: VgaState) -> None:
        """Take over all registers."""
        self.reset()
        self.miscellaneous = state.miscellaneous
        self.sequencer, self.graphics = bytearray(state.sequencer), bytearray(state.graphics)
        self.crtc, self.attribute = bytearray(state.crtc), bytearray(state.attribute)
        self.palette, self.palette_mask = bytearray(state.palette), state.palette_mask
        self._palette_index, self._palette_reads = state.palette_index % PALETTE_BYTES, state.palette_reads
        self._sequencer_index, self._graphics_index = state.indexes[0] & 7, state.indexes[1] & 0xF
        self._crtc_index, self._attribute_index = state.indexes[2], state.indexes[3] & 0x3F
        self._attribute_is_data = state.attribute_is_data
        self.dispi_index = state.dispi_index
        for index, value in enumerate(state.dispi[:_DISPI_COUNT]):
            if index != Dispi.ENABLE:
                self.write_dispi(index, value)
        self.dispi[Dispi.ENABLE] = state.dispi[Dispi.ENABLE] if len(state.dispi) > Dispi.ENABLE else 0


class _DispiPorts:
    """Index at offset 0, data at 1 or 2, 16 bits each."""

    def __init__(self, registers: VgaRegisters) -> None:
        self._registers = registers

    def read(self, offset: int, size: int) -> int:
        """Read index or data."""
        registers = self._registers
        if size != 2:
            return (1 << 8 * size) - 1
        return registers.read_dispi(registers.dispi_index) if offset else registers.dispi_index

    def write(self, offset: int, size: int, value: int) -> None:
        """Write index or data."""
        if size != 2:
            return
        if offset:
            self._registers.write_dispi(self._registers.dispi_index, value)
        else:
            self._registers.dispi_index = value


class StdVga(PciDevice):
    """The card as a PCI function, with its BIOS in the expansion ROM."""

    def __init__(self, memory: GuestMemory, rom: bytes) -> None:
        super().__init__(
            vendor_id=0x1234,
            device_id=0x1111,
            class_code=0x030000,
            revision=2,
            subsystem_vendor_id=0x1AF4,
            subsystem_id=0x1100,
            name="VGA",
        )
        self.registers = VgaRegisters()
        frame_buffer = _FrameBuffer(memory)
        bar = self.add_bar(0, FRAME_BUFFER_BYTES, BarKind.MEM32, frame_buffer, prefetchable=True, width=8)
        bar.preferred = FRAME_BUFFER
        self.add_bar(2, _REGISTERS_BYTES, BarKind.MEM32, _RegisterWindow(self.registers))
        if rom:
            self.add_rom(rom)

    def reset(self) -> None:
        """Power on; what is in the memory stays."""
        self.registers.reset()
        super().reset()

    def saveables(self) -> Iterable[tuple[str, Saveable]]:
        """The function, and its registers."""
        yield "", self
        yield ".vga", self.registers

    def load(self, state: Any) -> None:  # noqa: ANN401 - as in `PciDevice`
        """Take over the function."""
        self.load_function(state)


class _FrameBuffer:
    """The frame buffer where it is not memory of its own."""

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory

    def read(self, offset: int, size: int) -> int:
        """Read memory."""
        return int.from_bytes(self._memory.read(FRAME_BUFFER + offset, size), "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Write memory."""
        self._memory.write(FRAME_BUFFER + offset, value.to_bytes(size, "little"))


class _RegisterWindow:
    """Ports 0x3C0 to 0x3DF from 0x400, Bochs' registers from 0x500, the rest reads zero."""

    def __init__(self, registers: VgaRegisters) -> None:
        self._registers = registers

    def read(self, offset: int, size: int) -> int:
        """Read a register."""
        if _MMIO_VGA <= offset < _MMIO_VGA_END:
            return self._registers.read(offset - _MMIO_VGA + Port.ATTRIBUTE - VGA_PORT, size)
        if _MMIO_DISPI <= offset < _MMIO_DISPI_END and size == 2:
            return self._registers.read_dispi((offset - _MMIO_DISPI) >> 1)
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register."""
        if _MMIO_VGA <= offset < _MMIO_VGA_END:
            self._registers.write(offset - _MMIO_VGA + Port.ATTRIBUTE - VGA_PORT, size, value)
        elif _MMIO_DISPI <= offset < _MMIO_DISPI_END and size == 2:
            self._registers.write_dispi((offset - _MMIO_DISPI) >> 1, value)


__all__ = ["DISPI_PORT", "FRAME_BUFFER", "FRAME_BUFFER_BYTES", "StdVga", "VgaRegisters", "VgaState"]
