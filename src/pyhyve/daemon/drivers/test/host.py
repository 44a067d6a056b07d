"""The test driver's host: made up, the same everywhere, and as libvirt's test driver has it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.host.api import HostBase, HostInfo
from pyhyve.rpc.errors import ErrorCode, ErrorDomain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["TestHost"]

_CELL_FREE: Final = (2 << 20, 4 << 20)
_CELLS: Final = 2
_CPU_TIMES: Final = {
    "user": 9_797_400_000,
    "kernel": 34_678_723_400_000,
    "idle": 87_264_900_000,
    "iowait": 763_600_000,
}


class TestHost(HostBase):
    """Two cells, sixteen CPUs, three GiB."""

    __test__ = False  # pytest: no test

    def info(self) -> HostInfo:
        """Shape of the host."""
        return HostInfo(model="i686", memory_kib=3 << 20, cpus=16, mhz=1400, nodes=2, sockets=2, cores=2, threads=2)

    def hostname(self) -> str:
        """Name of the real host."""
        return socket.gethostname()

    def cpu_times(self, cpu: int) -> Mapping[str, int]:
        """The same times whatever the CPU."""
        return _CPU_TIMES

    def free_memory(self) -> int:
        """Bytes free in all cells."""
        return 3 << 20

    def cells_free_memory(self, start: int, count: int) -> Sequence[int]:
        """Bytes free in each cell."""
        if not 0 <= start < len(_CELL_FREE):
            raise LibvirtError(ErrorCode.INVALID_ARG, ErrorDomain.TEST, "Range exceeds available cells")
        return _CELL_FREE[start : start + count]

    def free_pages(self, sizes_kib: Sequence[int], start: int, count: int) -> Sequence[int]:
        """Numbers that only tell the questions apart."""
        self.cells_free_memory(start, count)
        return [19 + 26 * number for _ in range(min(count, _CELLS)) for number, _ in enumerate(sizes_kib)]

    def security_model(self) -> tuple[str, str]:
        """One that confines nothing."""
        return "testSecurity", ""

    def online_cpus(self) -> Sequence[bool]:
        """Eight CPUs, three of them online."""
        return [True, False, True, False, True, False, False, False]
