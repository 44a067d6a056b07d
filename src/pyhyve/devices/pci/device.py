"""One PCI function: header, base address registers, capability list, interrupts.

A device model subclasses `PciDevice`, adds its BARs and capabilities in `__init__`, and may override
`config_read`/`config_write` (calling up) and `bar_moved`. All methods run with the machine lock held, except
`Msix.notify`, `Msi.notify` and `set_intx`, which take it themselves through the bus.
"""

from __future__ import annotations

from pyhyve.devices.pci import spec
from pyhyve.devices.pci.msi import MsixState
from pyhyve.devices.pci.spec import BarKind, Command
from pyhyve.state.errors import StateError
from pyhyve.state.record import U64, Size, record
from pyhyve.support.hints import Annotated, Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, ClassVar

    from pyhyve.accel.routes import MessageRoute
    from pyhyve.devices.contracts import RegisterDevice
    from pyhyve.devices.pci.bridge import PciBridge, SecondaryBus
    from pyhyve.devices.pci.msi import Msi, Msix
    from pyhyve.state.contract import Saveable


class PciHost(Protocol):
    """What a device needs of the bus it is plugged into."""

    bridge: PciBridge | None

    def send_msi(self, address: int, data: int) -> None:
        """Deliver a message-signalled interrupt; any thread."""

    def message_route(self, address: int, data: int) -> MessageRoute | None:
        """Where such an interrupt goes, if that is known and simple; any thread, without the machine lock."""

    def set_intx(self, device: PciDevice, *, level: bool) -> None:
        """Drive the device's INTx pin; any thread."""

    def update_bar(self, device: PciDevice, bar: Bar) -> None:
        """Map, move or unmap `bar` after its address or the command register changed."""

    def forwards(self, kind: BarKind, first: int, last: int) -> bool:
        """Whether accesses to `[first, last]` reach this bus."""

    def pirq_of(self, device: PciDevice) -> int:
        """The PIRQ line (0 to 3) of the device's pin."""

    def detach(self, device: PciDevice) -> None:
        """Take `device` out."""


class Bar:
    """A base address register. `address` is where it is mapped now, None while it is not."""

    __slots__ = ("address", "device", "index", "kind", "preferred", "prefetchable", "size_bytes", "value", "width")

    def __init__(
        self, index: int, size_bytes: int, kind: BarKind, device: RegisterDevice, *, prefetchable: bool, width: int
    ) -> None:
        self.index = index
        self.size_bytes = size_bytes
        self.kind = kind
        self.device = device
        self.prefetchable = prefetchable
        self.width = width
        self.value = 0
        self.address: int | None = None
        self.preferred: int | None = None
        """Where the device works best; firmware may put it elsewhere."""

    @property
    def flags(self) -> int:
        """The register's read-only low bits."""
        return int(self.kind) | (spec.BAR_PREFETCHABLE if self.prefetchable else 0)

    @property
    def mask(self) -> int:
        """The address bits that can be written."""
        width = 64 if self.kind is BarKind.MEM64 else 32
        return ((1 << width) - 1) & ~(self.size_bytes - 1)


class _Rom:
    """The contents of an expansion ROM, all ones behind their end."""

    def __init__(self, image: bytes) -> None:
        self._image = image

    def read(self, offset: int, size: int) -> int:
        """Read the image."""
        return int.from_bytes(self._image[offset : offset + size].ljust(size, b"\xff"), "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """It cannot be written."""


@record
class PciFunctionState:
    """Configuration space, BAR values by rising index, the interrupt pin, and MSI-X."""

    config: Annotated[bytes, Size(spec.CONFIG_SIZE_BYTES)]
    bars: tuple[U64, ...]
    intx: bool
    msix: MsixState | None


class PciDevice:
    """A function with a type 0 header. `class_code` is 24 bits: class, subclass, programming interface."""

    state_type: ClassVar[type[Any]] = PciFunctionState
    state_version: ClassVar[int] = 1
    bar_count: ClassVar[int] = spec.BAR_COUNT

    def __init__(
        self,
        *,
        vendor_id: int,
        device_id: int,
        class_code: int,
        revision: int = 0,
        subsystem_vendor_id: int = 0,
        subsystem_id: int = 0,
        interrupt_pin: int = 0,
        name: str = "pci",
    ) -> None:
        """`interrupt_pin` is 0 for none, 1 to 4 for INTA to INTD."""
        self.name = name
        self.config = bytearray(spec.CONFIG_SIZE_BYTES)
        self.writable = bytearray(spec.CONFIG_SIZE_BYTES)
        """Which bits of `config` the guest may write; capabilities add theirs."""
        self.bars: dict[int, Bar] = {}
        self.slot = 0
        self.function = 0
        self.host: PciHost | None = None
        self.secondary: SecondaryBus | None = None
        """The bus behind it, if it is a bridge."""
        self.rom: Bar | None = None
        self.msix: Msix | None = None
        self.msi: Msi | None = None
        self._next_capability = spec.FIRST_CAPABILITY
        self._last_pointer = spec.CAPABILITY_POINTER
        self._intx_wanted = False
        self._set(spec.VENDOR_ID, 2, vendor_id)
        self._set(spec.DEVICE_ID, 2, device_id)
        self._set(spec.REVISION_ID, 1, revision)
        self._set(spec.CLASS_CODE, 3, class_code)
        self._set(spec.SUBSYSTEM_VENDOR_ID, 2, subsystem_vendor_id)
        self._set(spec.SUBSYSTEM_ID, 2, subsystem_id)
        self._set(spec.INTERRUPT_PIN, 1, interrupt_pin)
        self.writable[spec.COMMAND : spec.COMMAND + 2] = spec.COMMAND_WRITABLE.to_bytes(2, "little")
        self.writable[spec.CACHE_LINE_SIZE] = 0xFF
        self.writable[spec.LATENCY_TIMER] = 0xFF
        self.writable[spec.INTERRUPT_LINE] = 0xFF
        self._pristine: bytes | None = None

    # -- building (before the machine runs) ---------------------------------------------------------------------------

    def add_bar(
        self,
        index: int,
        size_bytes: int,
        kind: BarKind,
        device: RegisterDevice,
        *,
        prefetchable: bool = False,
        width: int = 4,
    ) -> Bar:
        """Declare BAR `index`, answered by `device` (offsets from the BAR's start, accesses up to `width` bytes).

        `size_bytes` is a power of two, at least 16 (memory) or 4 (ports). A MEM64 BAR also takes `index` + 1.
        Raises ValueError on a bad size or an index in use.
        """
        least = 4 if kind is BarKind.IO else 16
        last = index + (kind is BarKind.MEM64)
        taken = {n for bar in self.bars.values() for n in (bar.index, bar.index + (bar.kind is BarKind.MEM64))}
        if size_bytes < least or size_bytes & (size_bytes - 1):
            msg = f"{self.name}: BAR {index} of {size_bytes} bytes is not a power of two of at least {least}"
            raise ValueError(msg)
        if not 0 <= index <= last < self.bar_count or {index, last} & taken:
            msg = f"{self.name}: BAR {index} is out of range or in use"
            raise ValueError(msg)
        bar = Bar(index, size_bytes, kind, device, prefetchable=prefetchable, width=width)
        self.bars[index] = bar
        self._store_bar(bar)
        return bar

    def add_rom(self, image: bytes) -> None:
        """Give the function an expansion ROM (PCI 3.0, 6.2.5.2)."""
        size_bytes = max(1 << (len(image) - 1).bit_length(), spec.LEAST_ROM_BYTES)
        self.rom = Bar(spec.ROM_BAR, size_bytes, BarKind.MEM32, _Rom(image), prefetchable=False, width=8)
        mask = self.rom.mask | spec.ROM_ENABLE
        self.writable[spec.EXPANSION_ROM : spec.EXPANSION_ROM + 4] = mask.to_bytes(4, "little")

    def add_capability(self, identifier: int, body: bytes, writable: bytes = b"") -> int:
        """Append a capability: `body` follows the two header bytes; `writable` masks it. Returns its offset.

        Raises ValueError when configuration space is full.
        """
        offset = self._next_capability
        end = offset + 2 + len(body)
        if end > spec.CONFIG_SIZE_BYTES:
            msg = f"{self.name}: no room for capability {identifier:#x}"
            raise ValueError(msg)
        self.config[offset] = identifier
        self.config[offset + 2 : end] = body
        self.writable[offset + 2 : offset + 2 + len(writable)] = writable
        self.config[self._last_pointer] = offset
        self.config[spec.STATUS] |= spec.Status.CAPABILITIES
        self._last_pointer = offset + 1
        self._next_capability = (end + 3) & ~3
        return offset

    # -- state --------------------------------------------------------------------------------------------------------

    @property
    def command(self) -> int:
        """The command register (`spec.Command` bits)."""
        return self.config[spec.COMMAND] | self.config[spec.COMMAND + 1] << 8

    @property
    def bus_master(self) -> bool:
        """Whether the guest lets the device read and write memory."""
        return bool(self.config[spec.COMMAND] & Command.BUS_MASTER)

    def set_intx(self, *, level: bool) -> None:
        """Raise or lower the device's interrupt pin; any thread."""
        self._intx_wanted = level
        self._drive_intx()

    def bar_moved(self, bar: Bar) -> None:
        """Hook: `bar` was mapped at `bar.address`, or unmapped when that is None."""

    def reset(self) -> None:
        """Return to the power-on state. Subclasses reset their own registers and call up."""
        if self._pristine is not None:
            self.config[:] = self._pristine
        for bar in self.bars.values():
            bar.value = 0
            self._store_bar(bar)
        if self.msix is not None:
            self.msix.reset()
        self._intx_wanted = False
        self._drive_intx()
        self.update_bars()

    def save(self) -> Any:  # noqa: ANN401 - subclasses save more
        """The function as the guest configured it."""
        return self.save_function()

    def load(self, state: Any) -> None:  # noqa: ANN401 - as `save`
        """Take over what `save` gave; raises StateError for the state of another device."""
        self.load_function(state)

    def save_function(self) -> PciFunctionState:
        """What every function has."""
        return PciFunctionState(
            config=bytes(self.config),
            bars=tuple(self.bars[index].value for index in sorted(self.bars)),
            intx=self._intx_wanted,
            msix=None if self.msix is None else self.msix.save(),
        )

    def load_function(self, state: PciFunctionState) -> None:
        """Take over what every function has, and map the BARs; raises StateError for the state of another device."""
        saved = state.config
        if self.identity(saved) != self.identity(self.config) or len(state.bars) != len(self.bars):
            vendor, device = saved[spec.VENDOR_ID : spec.VENDOR_ID + 2], saved[spec.DEVICE_ID : spec.DEVICE_ID + 2]
            ids = f"{int.from_bytes(vendor, 'little'):04x}:{int.from_bytes(device, 'little'):04x}"
            msg = f"{self.name}: the state in its slot is of another device ({ids}, or another version of it)"
            raise StateError(msg)
        if (state.msix is None) != (self.msix is None):
            msg = f"{self.name}: the state has {'no ' if state.msix is None else ''}MSI-X"
            raise StateError(msg)
        self.config[:] = saved
        for index, value in zip(sorted(self.bars), state.bars, strict=True):
            bar = self.bars[index]
            bar.value = value & bar.mask
            self._store_bar(bar)
        if self.msix is not None and state.msix is not None:
            self.msix.load(state.msix)
        self._intx_wanted = state.intx
        self.update_bars()
        self._drive_intx()

    def unmap(self) -> None:
        """Stop decoding, before a state is loaded: what the devices have now must not be in one another's way."""
        self.config[spec.COMMAND] &= ~(Command.IO | Command.MEMORY) & 0xFF
        self._intx_wanted = False
        self.update_bars()

    def identity(self, config: bytes | bytearray) -> bytes:
        """The bytes that tell what the device is: those of the header that no access changes, and the capabilities."""
        fixed = bytearray(config)
        for offset, mask in enumerate(self.writable):
            fixed[offset] &= ~mask & 0xFF
        fixed[spec.STATUS : spec.STATUS + 2] = bytes(2)
        fixed[spec.BAR0 : spec.BAR0 + 4 * self.bar_count] = bytes(4 * self.bar_count)
        return bytes(fixed)

    def saveables(self) -> Iterable[tuple[str, Saveable]]:
        """What has a state here: suffix of the name, and the part; the function itself comes first."""
        yield "", self

    def suspend(self) -> None:
        """Leave guest memory alone until `resume`; vCPUs stand still."""

    def resume(self) -> None:
        """Go on; idempotent."""

    def freeze(self) -> None:
        """Remember the present configuration space as the power-on state (the bus calls it on attaching)."""
        self._pristine = bytes(self.config)

    # -- configuration space ------------------------------------------------------------------------------------------

    def config_read(self, offset: int, size: int) -> int:
        """Read `size` (1, 2 or 4) bytes of configuration space; `offset` is aligned to `size`."""
        return int.from_bytes(self.config[offset : offset + size], "little")

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Write `size` (1, 2 or 4) bytes; read-only bits keep their value."""
        if spec.BAR0 <= offset < spec.BAR0 + 4 * self.bar_count:
            self._write_bar(offset, size, value)
            return
        for i in range(size):
            mask = self.writable[offset + i]
            if mask:
                byte = value >> (8 * i) & 0xFF
                self.config[offset + i] = self.config[offset + i] & ~mask | byte & mask
        if offset < spec.COMMAND + 2 and offset + size > spec.COMMAND:
            self.update_bars()
            self._drive_intx()
        elif spec.EXPANSION_ROM <= offset < spec.EXPANSION_ROM + 4:
            self.update_bars()
        if self.msix is not None:
            self.msix.config_written(offset, size)
        if self.msi is not None:
            self.msi.config_written(offset, size)

    def _set(self, offset: int, size: int, value: int) -> None:
        self.config[offset : offset + size] = value.to_bytes(size, "little")

    def _store_bar(self, bar: Bar) -> None:
        size = 8 if bar.kind is BarKind.MEM64 else 4
        self._set(spec.BAR0 + 4 * bar.index, size, bar.value | bar.flags)

    def _write_bar(self, offset: int, size: int, value: int) -> None:
        for i in range(size):
            index, shift = divmod(offset + i - spec.BAR0, 4)
            bar = self.bars.get(index)
            if bar is None:
                below = self.bars.get(index - 1)
                if below is None or below.kind is not BarKind.MEM64:
                    continue
                bar = below
                shift += 4
            byte = value >> (8 * i) & 0xFF
            bar.value = (bar.value & ~(0xFF << 8 * shift) | byte << 8 * shift) & bar.mask
            self._store_bar(bar)
        self.update_bars()

    def bar_target(self, bar: Bar) -> int | None:
        """Where the guest wants `bar`, or None when decoding is off, unset, or no bridge leads there."""
        enable = Command.IO if bar.kind is BarKind.IO else Command.MEMORY
        if bar is self.rom:
            register = int.from_bytes(self.config[spec.EXPANSION_ROM : spec.EXPANSION_ROM + 4], "little")
            is_enabled = register & spec.ROM_ENABLE and self.config[spec.COMMAND] & enable
            value = register & bar.mask if is_enabled else 0
        else:
            value = bar.value if self.config[spec.COMMAND] & enable else 0
        if not value or (self.host is not None and not self.host.forwards(bar.kind, value, value + bar.size_bytes - 1)):
            return None
        return value

    def update_bars(self) -> None:
        """Map what is to be decoded now, unmap what is not."""
        if self.host is None:
            return
        for bar in self.bars.values():
            if self.bar_target(bar) != bar.address:
                self.host.update_bar(self, bar)
        if self.rom is not None and self.bar_target(self.rom) != self.rom.address:
            self.host.update_bar(self, self.rom)

    def _drive_intx(self) -> None:
        if self._intx_wanted:
            self.config[spec.STATUS] |= spec.Status.INTERRUPT
        else:
            self.config[spec.STATUS] &= ~spec.Status.INTERRUPT
        if self.host is not None and self.config[spec.INTERRUPT_PIN]:
            self.host.set_intx(self, level=self._intx_wanted and not self.command & Command.INTX_DISABLE)
