"""Port and memory-mapped address spaces: which device answers an address.

Hot path: every port and MMIO exit passes through `AddressMap.read` and `AddressMap.write`.
"""

from __future__ import annotations

from bisect import bisect_right

from pyhyve.support.hints import Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.devices.contracts import RegisterDevice

_CACHE_LIMIT = 4096


class TraceHook(Protocol):
    """Sees each access at the bus boundary."""

    def __call__(self, space: str, address: int, size: int, value: int, *, is_write: bool) -> None:
        """Report one access of `size` bytes; `value` is what was read or written."""


class AddressConflictError(ValueError):
    """A mapping would overlap another one."""


class Mapping:
    """Where a device answers: `[base, end)`. `width` is the widest access it takes; wider ones are split."""

    __slots__ = ("base", "end", "name", "read", "width", "write")

    def __init__(self, base: int, end: int, width: int, device: RegisterDevice, name: str) -> None:
        self.base = base
        self.end = end
        self.width = width
        self.name = name
        self.read: Callable[[int, int], int] = device.read
        self.write: Callable[[int, int, int], None] = device.write


class AddressMap:
    """One address space. Reads of nothing give all ones, writes to nothing are dropped."""

    def __init__(self, name: str, size: int) -> None:
        """Make an empty space of addresses `[0, size)` called `name` in traces and errors."""
        self.name = name
        self.size = size
        self.trace: TraceHook | None = None
        self._bases: list[int] = []
        self._mappings: list[Mapping] = []
        self._cache: dict[int, Mapping] = {}

    @property
    def mappings(self) -> tuple[Mapping, ...]:
        """All mappings by rising address."""
        return tuple(self._mappings)

    def add(self, base: int, size: int, device: RegisterDevice, *, name: str, width: int = 4) -> Mapping:
        """Let `device` answer `[base, base + size)`; raises AddressConflictError on overlap or a range outside."""
        end = base + size
        if size <= 0 or base < 0 or end > self.size:
            msg = f"{name}: {base:#x}+{size:#x} is outside the {self.name} space"
            raise AddressConflictError(msg)
        index = bisect_right(self._bases, base)
        for other in self._mappings[max(index - 1, 0) : index + 1]:
            if base < other.end and other.base < end:
                msg = f"{name} at {self.name} {base:#x}-{end - 1:#x} overlaps {other.name} at {other.base:#x}"
                raise AddressConflictError(msg)
        mapping = Mapping(base, end, width, device, name)
        self._bases.insert(index, base)
        self._mappings.insert(index, mapping)
        self._cache.clear()
        return mapping

    def remove(self, mapping: Mapping) -> None:
        """Undo `add`; ValueError when it is not (or no longer) mapped."""
        index = self._mappings.index(mapping)
        del self._mappings[index]
        del self._bases[index]
        self._cache.clear()

    def find(self, address: int) -> Mapping | None:
        """The mapping that holds `address`, if any."""
        index = bisect_right(self._bases, address) - 1
        if index < 0:
            return None
        mapping = self._mappings[index]
        if address >= mapping.end:
            return None
        if len(self._cache) >= _CACHE_LIMIT:
            self._cache.clear()
        self._cache[address] = mapping
        return mapping

    def read(self, address: int, size: int) -> int:
        """Read `size` (1, 2, 4 or 8) bytes."""
        mapping = self._cache.get(address) or self.find(address)
        if mapping is None:
            value = self._split_read(address, size) if size > 1 else 0xFF
        elif size <= mapping.width and address + size <= mapping.end:
            value = mapping.read(address - mapping.base, size)
        else:
            value = self._split_read(address, size)
        if self.trace is not None:
            self.trace(self.name, address, size, value, is_write=False)
        return value

    def write(self, address: int, size: int, value: int) -> None:
        """Write `size` (1, 2, 4 or 8) bytes."""
        if self.trace is not None:
            self.trace(self.name, address, size, value, is_write=True)
        mapping = self._cache.get(address) or self.find(address)
        if mapping is not None and size <= mapping.width and address + size <= mapping.end:
            mapping.write(address - mapping.base, size, value)
        elif mapping is not None or size > 1:
            self._split_write(address, size, value)

    def _step(self, address: int, remaining: int) -> tuple[Mapping | None, int]:
        """The mapping at `address` and how many bytes of the access it takes at once."""
        mapping = self.find(address)
        if mapping is None:
            return None, 1
        step = min(remaining, mapping.width)
        while step > 1 and (address + step > mapping.end or address % step):
            step >>= 1
        return mapping, step

    def _split_read(self, address: int, size: int) -> int:
        value = done = 0
        while done < size:
            mapping, step = self._step(address + done, size - done)
            part = 0xFF if mapping is None else mapping.read(address + done - mapping.base, step)
            value |= part << (8 * done)
            done += step
        return value

    def _split_write(self, address: int, size: int, value: int) -> None:
        done = 0
        while done < size:
            mapping, step = self._step(address + done, size - done)
            if mapping is not None:
                part = (value >> (8 * done)) & ((1 << (8 * step)) - 1)
                mapping.write(address + done - mapping.base, step, part)
            done += step
