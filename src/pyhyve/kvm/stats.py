"""Statistics of a VM or a vCPU (api.rst, 4.133, `KVM_GET_STATS_FD`): a file that describes itself."""

from __future__ import annotations

import os
import struct

from pyhyve.kvm import structures as s
from pyhyve.kvm.abi import Ioctl
from pyhyve.kvm.ioctls import call
from pyhyve.support.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

TYPES = ("cumulative", "instant", "peak", "linear-histogram", "log2-histogram")
"""Kinds of statistics, by number; a newer kernel's are left out."""
UNITS = (None, "bytes", "seconds", "cycles", "boolean")
BASES = (10, 2)
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Statistic:
    """What one statistic counts: values are in `unit` times `base` to the power of `exponent`."""

    name: str
    type: str
    unit: str | None
    base: int
    exponent: int
    bucket_size: int
    count: int
    offset: int
    """Of its values in the file."""


class StatisticsFile:
    """The statistics of one VM or vCPU. The kernel must not be running a vCPU when its file is opened."""

    def __init__(self, fd: int) -> None:
        """Of the VM or vCPU with this descriptor. Raises KvmError when the kernel has none (before 5.14)."""
        self._fd = call(fd, Ioctl.GET_STATS_FD)
        try:
            self.statistics = parse(os.pread(self._fd, _MAX_BYTES, 0))
        except BaseException:
            self.close()
            raise

    def values(self) -> list[tuple[int, ...]]:
        """The present values of each statistic."""
        found = []
        for statistic in self.statistics:
            data = os.pread(self._fd, 8 * statistic.count, statistic.offset)
            found.append(struct.unpack(f"<{len(data) // 8}Q", data))
        return found

    def close(self) -> None:
        """Close it; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def parse(data: bytes) -> Sequence[Statistic]:
    """The statistics that a file describes, in its order; those of a kind that is not known are left out."""
    header = s.STATS_HEADER.unpack_ints(data)
    name_bytes, at = header["name_size"], header["desc_offset"]
    found = []
    for _ in range(header["num_desc"]):
        entry = s.STATS_DESC.unpack_ints(data, at)
        flags = entry["flags"]
        kind, unit, base = flags & 0xF, flags >> 4 & 0xF, flags >> 8 & 0xF
        if kind < len(TYPES) and unit < len(UNITS) and base < len(BASES):
            name = data[at + s.STATS_DESC.size_bytes :][:name_bytes].partition(b"\0")[0].decode("ascii", "replace")
            offset = header["data_offset"] + entry["offset"]
            found.append(
                Statistic(
                    name, TYPES[kind], UNITS[unit], BASES[base],
                    entry["exponent"], entry["bucket_size"], entry["size"], offset,
                )
            )  # fmt: skip
        at += s.STATS_DESC.size_bytes + name_bytes
    return found
