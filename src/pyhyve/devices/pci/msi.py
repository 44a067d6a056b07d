"""Message-signalled interrupts of a PCI function: MSI (one vector) and MSI-X (PCI 3.0, 6.8)."""

from __future__ import annotations

import threading

from pyhyve.devices.pci import spec
from pyhyve.devices.pci.spec import BarKind, CapabilityId
from pyhyve.state.errors import StateError
from pyhyve.state.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.devices.pci.device import PciDevice

_PBA_ALIGN_BYTES = 2048


@record
class MsixState:
    """Vector table and pending bits."""

    table: bytes
    pending: bytes


class Msi:
    """One 64-bit MSI vector without per-vector masking."""

    def __init__(self, device: PciDevice) -> None:
        """Add the capability to `device`."""
        self._device = device
        body = spec.MSI_64BIT.to_bytes(2, "little") + bytes(10)
        writable = b"\x01\x00" + b"\xfc\xff\xff\xff" + b"\xff\xff\xff\xff" + b"\xff\xff"
        self.offset = device.add_capability(CapabilityId.MSI, body, writable)
        device.msi = self

    @property
    def enabled(self) -> bool:
        """Whether the guest turned MSI on."""
        return bool(self._device.config[self.offset + 2] & spec.MSI_ENABLE)

    def config_written(self, offset: int, size: int) -> None:
        """Configuration space changed; nothing to follow up."""

    def notify(self) -> None:
        """Send the message, when enabled; any thread."""
        config, host = self._device.config, self._device.host
        if host is None or not self.enabled:
            return
        address = int.from_bytes(config[self.offset + 4 : self.offset + 12], "little")
        host.send_msi(address, int.from_bytes(config[self.offset + 12 : self.offset + 14], "little"))


class Msix:
    """MSI-X: the vector table and the pending bits, in a memory BAR of their own.

    It is the BAR's register device: the table at 0, the pending bit array at `pba_offset`.
    """

    def __init__(self, device: PciDevice, bar_index: int, vectors: int) -> None:
        """Add the capability and BAR `bar_index` to `device`; raises ValueError unless 1 <= `vectors` <= 2048."""
        if not 1 <= vectors <= spec.MSIX_MAX_VECTORS:
            msg = f"{device.name}: {vectors} MSI-X vectors"
            raise ValueError(msg)
        self._device = device
        self.vectors = vectors
        table_bytes = vectors * spec.MSIX_ENTRY_SIZE_BYTES
        self.pba_offset = -(-table_bytes // _PBA_ALIGN_BYTES) * _PBA_ALIGN_BYTES
        pba_bytes = -(-vectors // 64) * 8
        self._table = bytearray(table_bytes)
        self._pending = bytearray(pba_bytes)
        self._lock = threading.Lock()
        size = 4096
        while size < self.pba_offset + pba_bytes:
            size <<= 1
        device.add_bar(bar_index, size, BarKind.MEM32, self, width=8)
        body = (
            (vectors - 1).to_bytes(2, "little")
            + bar_index.to_bytes(4, "little")
            + (self.pba_offset | bar_index).to_bytes(4, "little")
        )
        self.offset = device.add_capability(CapabilityId.MSIX, body, b"\x00\xc0")
        device.msix = self
        self.on_change: Callable[[], None] | None = None
        """Called after the guest changed what `message` may give; on its vCPU's thread."""
        self.reset()

    @property
    def control(self) -> int:
        """The message control register."""
        config = self._device.config
        return config[self.offset + 2] | config[self.offset + 3] << 8

    @property
    def enabled(self) -> bool:
        """Whether the guest turned MSI-X on (the function may still be masked)."""
        return bool(self.control & spec.MSIX_ENABLE)

    def reset(self) -> None:
        """Mask every vector and forget what is pending."""
        with self._lock:
            self._table[:] = (bytes(12) + b"\x01\0\0\0") * self.vectors
            self._pending[:] = bytes(len(self._pending))

    def save(self) -> MsixState:
        """Table and pending bits."""
        with self._lock:
            return MsixState(table=bytes(self._table), pending=bytes(self._pending))

    def load(self, state: MsixState) -> None:
        """Take over table and pending bits; raises StateError for another number of vectors."""
        if len(state.table) != len(self._table) or len(state.pending) != len(self._pending):
            msg = f"{self._device.name}: the state has another number of MSI-X vectors"
            raise StateError(msg)
        with self._lock:
            self._table[:] = state.table
            self._pending[:] = state.pending

    def message(self, vector: int) -> tuple[int, int] | None:
        """Address and data that `vector` sends now; None while it is off or masked, or there is no such vector."""
        if not 0 <= vector < self.vectors:
            return None
        if self.control & (spec.MSIX_ENABLE | spec.MSIX_FUNCTION_MASK) != spec.MSIX_ENABLE:
            return None
        with self._lock:
            entry = self._table[vector * spec.MSIX_ENTRY_SIZE_BYTES :][: spec.MSIX_ENTRY_SIZE_BYTES]
        if entry[12] & spec.MSIX_VECTOR_MASKED:
            return None
        return int.from_bytes(entry[:8], "little"), int.from_bytes(entry[8:12], "little")

    def notify(self, vector: int) -> None:
        """Send `vector`'s message, or remember it while masked; ignored when MSI-X is off. Any thread."""
        if not 0 <= vector < self.vectors:
            return
        control = self.control
        if not control & spec.MSIX_ENABLE:
            return
        with self._lock:
            entry = vector * spec.MSIX_ENTRY_SIZE_BYTES
            if control & spec.MSIX_FUNCTION_MASK or self._table[entry + 12] & spec.MSIX_VECTOR_MASKED:
                self._pending[vector >> 3] |= 1 << (vector & 7)
                return
            address = int.from_bytes(self._table[entry : entry + 8], "little")
            data = int.from_bytes(self._table[entry + 8 : entry + 12], "little")
        self._send(address, data)

    def read(self, offset: int, size: int) -> int:
        """Read the table or the pending bits."""
        if offset < len(self._table):
            return int.from_bytes(self._table[offset : offset + size], "little")
        offset -= self.pba_offset
        if 0 <= offset < len(self._pending):
            return int.from_bytes(self._pending[offset : offset + size], "little")
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Write the table; the pending bits are read-only. Unmasking a pending vector sends it."""
        if offset + size > len(self._table) or size < 4:
            return
        with self._lock:
            self._table[offset : offset + size] = value.to_bytes(size, "little")
        if self.on_change is not None:
            self.on_change()
        self._send_unmasked(offset // spec.MSIX_ENTRY_SIZE_BYTES)

    def config_written(self, offset: int, size: int) -> None:
        """Message control may have changed: send what is no longer masked."""
        if self.on_change is not None and offset < self.offset + 4 and offset + size > self.offset + 2:
            self.on_change()
        if offset < self.offset + 4 and offset + size > self.offset + 2 and any(self._pending):
            for vector in range(self.vectors):
                self._send_unmasked(vector)

    def _send_unmasked(self, vector: int) -> None:
        bit = 1 << (vector & 7)
        entry = vector * spec.MSIX_ENTRY_SIZE_BYTES
        with self._lock:
            if (
                not self._pending[vector >> 3] & bit
                or self._table[entry + 12] & spec.MSIX_VECTOR_MASKED
                or self.control & (spec.MSIX_ENABLE | spec.MSIX_FUNCTION_MASK) != spec.MSIX_ENABLE
            ):
                return
            self._pending[vector >> 3] &= ~bit
        self.notify(vector)

    def _send(self, address: int, data: int) -> None:
        if self._device.host is not None:
            self._device.host.send_msi(address, data)
