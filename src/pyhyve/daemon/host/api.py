"""What is asked of a host; a driver without a real one has its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Protocol

from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorDomain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyhyve.rpc.values import TypedParam

__all__ = ["ALL", "Host", "HostBase", "HostInfo"]

ALL = -1
"""Every CPU (VIR_NODE_CPU_STATS_ALL_CPUS), every cell (VIR_NODE_MEMORY_STATS_ALL_CELLS)."""


@dataclass(frozen=True, slots=True)
class HostInfo:
    """Shape of a host: NODE_GET_INFO's answer. Sockets in a node, cores in a socket, threads in a core."""

    model: str
    memory_kib: int
    cpus: int
    mhz: int
    nodes: int
    sockets: int
    cores: int
    threads: int


class Host(Protocol):
    """Questions about a host. All of them may block (they read small files); all raise LibvirtError."""

    def info(self) -> HostInfo:
        """Shape of the host."""

    def hostname(self) -> str:
        """Its name."""

    def cpu_times(self, cpu: int) -> Mapping[str, int]:
        """Nanoseconds a CPU (or :data:`ALL`) spent, by kind: user, kernel, idle, iowait."""

    def memory(self, cell: int) -> Mapping[str, int]:
        """KiB of memory of a cell (or :data:`ALL`), by kind: total, free, of all also buffers and cached."""

    def free_memory(self) -> int:
        """Bytes of memory that are free."""

    def cells_free_memory(self, start: int, count: int) -> Sequence[int]:
        """Bytes that are free in each of at most ``count`` cells from ``start`` on."""

    def online_cpus(self) -> Sequence[bool]:
        """For each CPU that is present, whether it is online."""

    def memory_parameters(self) -> Sequence[TypedParam]:
        """How the host shares equal pages."""

    def set_memory_parameters(self, parameters: Sequence[TypedParam]) -> None:
        """Change that."""

    def free_pages(self, sizes_kib: Sequence[int], start: int, count: int) -> Sequence[int]:
        """Free pages of each size in each of ``count`` cells from ``start`` on, cell by cell."""

    def allocate_pages(self, counts: Mapping[int, int], start: int, count: int, *, add: bool) -> int:
        """Set (or raise by) so many huge pages of each size (KiB) in each cell; return how many sizes were served."""

    def system_information(self) -> str:
        """The ``<sysinfo>`` document."""

    def security_model(self) -> tuple[str, str]:
        """Security model and its domain of interpretation; empty where there is none."""


class HostBase:
    """A host that answers nothing; a driver's own says what it has."""

    def cpu_times(self, cpu: int) -> Mapping[str, int]:
        """Not known."""
        _lack("virNodeGetCPUStats")

    def memory(self, cell: int) -> Mapping[str, int]:
        """Not known."""
        _lack("virNodeGetMemoryStats")

    def memory_parameters(self) -> Sequence[TypedParam]:
        """Not known."""
        _lack("virNodeGetMemoryParameters")

    def set_memory_parameters(self, parameters: Sequence[TypedParam]) -> None:
        """Not possible."""
        _lack("virNodeSetMemoryParameters")

    def free_pages(self, sizes_kib: Sequence[int], start: int, count: int) -> Sequence[int]:
        """Not known."""
        _lack("virNodeGetFreePages")

    def allocate_pages(self, counts: Mapping[int, int], start: int, count: int, *, add: bool) -> int:
        """Not possible."""
        _lack("virNodeAllocPages")

    def system_information(self) -> str:
        """Not known."""
        _lack("virConnectGetSysinfo")

    def security_model(self) -> tuple[str, str]:
        """None."""
        return "", ""


def _lack(function: str) -> NoReturn:
    raise LibvirtError.no_support(function, ErrorDomain.DOMAIN)
