"""The real host, from /proc and /sys.

Source: the kernel's documentation (Documentation/ABI/stable/sysfs-devices-node, sysfs-devices-system-cpu,
admin-guide/mm/ksm, proc(5)).
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.faults import Faults
from pyhyve.daemon.host.api import ALL, HostInfo
from pyhyve.daemon.host.smbios import SmbiosError, format_sysinfo, parse_tables
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.rpc.values import ParamType, TypedParam

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyhyve.daemon.errors import LibvirtError

__all__ = ["LinuxHost", "parse_cpu_list"]

_KSM: Final = {
    "pages_to_scan": (ParamType.UINT, "shm_pages_to_scan", True),
    "sleep_millisecs": (ParamType.UINT, "shm_sleep_millisecs", True),
    "pages_shared": (ParamType.ULLONG, "shm_pages_shared", False),
    "pages_sharing": (ParamType.ULLONG, "shm_pages_sharing", False),
    "pages_unshared": (ParamType.ULLONG, "shm_pages_unshared", False),
    "pages_volatile": (ParamType.ULLONG, "shm_pages_volatile", False),
    "full_scans": (ParamType.ULLONG, "shm_full_scans", False),
    "merge_across_nodes": (ParamType.UINT, "shm_merge_across_nodes", True),
}
"""Files of the kernel's page sharing: type, libvirt's name, whether it may be set."""
_STAT_FIELDS: Final = ("user", "nice", "system", "idle", "iowait", "irq", "softirq")


_FAULTS: Final = Faults(ErrorDomain.NONE)


def _error(detail: str, code: ErrorCode = ErrorCode.INTERNAL_ERROR) -> LibvirtError:
    return _FAULTS.make(code, detail)


def parse_cpu_list(text: str) -> list[int]:
    """Return the numbers in a list such as ``0-3,8``; ValueError where it is none."""
    numbers: list[int] = []
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            numbers.extend(range(int(first), int(last or first) + 1))
    return numbers


class LinuxHost:
    """The host whose /proc and /sys are below ``root``."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._cpus = root / "sys/devices/system/cpu"
        self._nodes = root / "sys/devices/system/node"

    # -- shape --------------------------------------------------------------------------------------------------------

    def hostname(self) -> str:
        """Name of the host; the kernel's, where it is not known to be part of a longer one."""
        name = socket.gethostname()
        if "." in name or name.startswith("localhost"):
            return name
        try:
            found = socket.getaddrinfo(name, None, flags=socket.AI_CANONNAME)[0][3]
        except OSError:
            return name
        return found if found and not found.startswith("localhost") else name

    def info(self) -> HostInfo:
        """Shape of the host; one node with cores only, where nodes differ in shape (as libvirt answers)."""
        online = [number for number, there in enumerate(self.online_cpus()) if there]
        shapes = [self._shape(cpus) for cpus in self._cells().values() if cpus] or [self._shape(online)]
        sockets = max(len(shape) for shape in shapes)
        cores = max(len(socket_) for shape in shapes for socket_ in shape.values())
        threads = max(count for shape in shapes for socket_ in shape.values() for count in socket_.values())
        nodes = len(shapes)
        if nodes * sockets * cores * threads != len(self.online_cpus()):
            nodes, sockets, cores, threads = 1, 1, len(self.online_cpus()), 1
        memory_kib = sum(self._cell_memory(cell).get("MemTotal", 0) for cell in self._cells())
        return HostInfo(
            model=os.uname().machine,
            memory_kib=memory_kib or self._meminfo()["MemTotal"],
            cpus=len(online),
            mhz=self._mhz(),
            nodes=nodes,
            sockets=sockets,
            cores=cores,
            threads=threads,
        )

    def _shape(self, cpus: Sequence[int]) -> dict[int, dict[int, int]]:
        """Threads by core by socket."""
        shape: dict[int, dict[int, int]] = {}
        for cpu in cpus:
            topology = self._cpus / f"cpu{cpu}" / "topology"
            try:
                package = int((topology / "physical_package_id").read_text())
                core = int((topology / "core_id").read_text())
            except (OSError, ValueError):
                package, core = 0, cpu
            cores = shape.setdefault(package, {})
            cores[core] = cores.get(core, 0) + 1
        return shape

    def _mhz(self) -> int:
        """Clock of the first CPU."""
        found = re.search(r"^cpu MHz\s*:\s*(\d+)", self._text("proc/cpuinfo"), re.MULTILINE)
        return int(found[1]) if found else 0

    def online_cpus(self) -> Sequence[bool]:
        """Whether each CPU that is present is online."""
        try:
            present = parse_cpu_list((self._cpus / "present").read_text())
            online = set(parse_cpu_list((self._cpus / "online").read_text()))
        except (OSError, ValueError):
            return [True] * (os.cpu_count() or 1)
        return [number in online for number in range(max(present) + 1)]

    def _cells(self) -> dict[int, list[int]]:
        """CPUs of each NUMA node; one node with all of them where the kernel has none."""
        cells = {}
        for path in self._nodes.glob("node[0-9]*"):
            try:
                cells[int(path.name[4:])] = parse_cpu_list((path / "cpulist").read_text())
            except (OSError, ValueError):
                continue
        return dict(sorted(cells.items())) or {0: [number for number, there in enumerate(self.online_cpus()) if there]}

    # -- processors ---------------------------------------------------------------------------------------------------

    def cpu_times(self, cpu: int) -> Mapping[str, int]:
        """Nanoseconds by kind."""
        name = "cpu" if cpu == ALL else f"cpu{cpu}"
        for line in self._text("proc/stat").splitlines():
            words = line.split()
            if words and words[0] == name:
                ticks = dict(zip(_STAT_FIELDS, map(int, words[1:]), strict=False))
                tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
                return {
                    "user": (ticks["user"] + ticks["nice"]) * tick_ns,
                    "kernel": (ticks["system"] + ticks.get("irq", 0) + ticks.get("softirq", 0)) * tick_ns,
                    "idle": ticks["idle"] * tick_ns,
                    "iowait": ticks.get("iowait", 0) * tick_ns,
                }
        raise _FAULTS.worded(ErrorCode.INVALID_ARG, "Invalid cpuNum in virHostCPUGetStatsLinux")

    # -- memory -------------------------------------------------------------------------------------------------------

    def _text(self, path: str) -> str:
        try:
            return (self._root / path).read_text()
        except OSError as error:
            msg = f"cannot read /{path}: {error.strerror}"
            raise _error(msg, ErrorCode.SYSTEM_ERROR) from error

    def _meminfo(self) -> dict[str, int]:
        return _kib_by_name(self._text("proc/meminfo"))

    def _cell_memory(self, cell: int) -> dict[str, int]:
        try:
            text = (self._nodes / f"node{cell}" / "meminfo").read_text()
        except OSError:
            return {}
        return _kib_by_name(re.sub(r"^Node \d+ ", "", text, flags=re.MULTILINE))

    def memory(self, cell: int) -> Mapping[str, int]:
        """KiB by kind."""
        if cell == ALL:
            whole = self._meminfo()
            names = {"total": "MemTotal", "free": "MemFree", "buffers": "Buffers", "cached": "Cached"}
            return {name: whole.get(given, 0) for name, given in names.items()}
        if cell not in self._cells():
            msg = f"cellNum in virHostMemGetStats must be less than or equal to {max(self._cells())}"
            raise _FAULTS.worded(ErrorCode.INVALID_ARG, msg)
        part = self._cell_memory(cell) or self._meminfo()
        return {"total": part.get("MemTotal", 0), "free": part.get("MemFree", 0)}

    def free_memory(self) -> int:
        """Bytes free in all cells."""
        return sum(self.cells_free_memory(0, 1 << 20))

    def cells_free_memory(self, start: int, count: int) -> Sequence[int]:
        """Bytes free in each cell."""
        cells = self._cells()
        if start < 0 or start > max(cells):
            msg = f"start cell {start} out of range (0-{max(cells)})"
            raise _error(msg)
        free = []
        for cell in list(range(start, max(cells) + 1))[:count]:
            part = self._cell_memory(cell) if cell in cells else {"MemFree": 0}
            free.append((part or self._meminfo()).get("MemFree", 0) << 10)
        return free

    def memory_parameters(self) -> Sequence[TypedParam]:
        """How equal pages are shared; nothing where the kernel cannot."""
        parameters = []
        for name, (kind, field, _) in _KSM.items():
            try:
                value = int((self._root / "sys/kernel/mm/ksm" / name).read_text())
            except (OSError, ValueError):
                continue
            parameters.append(TypedParam(field, kind, value))
        return parameters

    def set_memory_parameters(self, parameters: Sequence[TypedParam]) -> None:
        """Change how equal pages are shared."""
        by_field = {field: (name, kind, settable) for name, (kind, field, settable) in _KSM.items()}
        for parameter in parameters:
            name, kind, settable = by_field.get(parameter.field, ("", ParamType.UINT, False))
            if not settable:
                msg = f"parameter '{parameter.field}' not supported"
                raise _error(msg, ErrorCode.ARGUMENT_UNSUPPORTED)
            if parameter.type != kind:
                msg = (
                    f"invalid type '{ParamType(parameter.type).name.lower()}' for parameter '{parameter.field}', "
                    f"expected '{kind.name.lower()}'"
                )
                raise _error(msg, ErrorCode.INVALID_ARG)
            path = self._root / "sys/kernel/mm/ksm" / name
            try:
                path.write_text(str(parameter.value))
            except OSError as error:
                msg = f"failed to set {parameter.field}: {error.strerror}"
                raise _error(msg, ErrorCode.SYSTEM_ERROR) from error

    def _page_file(self, cell: int, size_kib: int, name: str) -> Path:
        node = self._nodes / f"node{cell}"
        base = node / "hugepages" if node.exists() else self._root / "sys/kernel/mm/hugepages"
        return base / f"hugepages-{size_kib}kB" / name

    def _cell_range(self, start: int, count: int) -> range:
        last = max(self._cells())
        if start < 0 or start > last:
            msg = f"start cell {start} out of range (0-{last})"
            raise _error(msg)
        return range(start, min(start + count, last + 1))

    def free_pages(self, sizes_kib: Sequence[int], start: int, count: int) -> Sequence[int]:
        """Free pages of each size, cell by cell."""
        system_kib = os.sysconf("SC_PAGE_SIZE") >> 10
        free = []
        for cell in self._cell_range(start, count):
            for size in sizes_kib:
                if size == system_kib:
                    part = self._cell_memory(cell) or self._meminfo()
                    free.append(part.get("MemFree", 0) // system_kib)
                else:
                    free.append(self._huge_pages(cell, size, "free_hugepages"))
        return free

    def huge_page_sizes(self) -> list[int]:
        """Sizes of huge pages the host has, in KiB."""
        base = self._root / "sys/kernel/mm/hugepages"
        return sorted(int(path.name[len("hugepages-") : -len("kB")]) for path in base.glob("hugepages-*kB"))

    def _huge_pages(self, cell: int, size_kib: int, name: str) -> int:
        try:
            return int(self._page_file(cell, size_kib, name).read_text())
        except (OSError, ValueError) as error:
            msg = f"page size {size_kib} is not available on node {cell}"
            raise _error(msg, ErrorCode.OPERATION_FAILED) from error

    def pages(self, cell: int, size_kib: int) -> int:
        """Pages of a size a cell has, free or not."""
        if size_kib == os.sysconf("SC_PAGE_SIZE") >> 10:
            huge_kib = sum(self._huge_pages(cell, size, "nr_hugepages") * size for size in self.huge_page_sizes())
            part = self._cell_memory(cell) or self._meminfo()
            return max(part.get("MemTotal", 0) - huge_kib, 0) // size_kib
        return self._huge_pages(cell, size_kib, "nr_hugepages")

    def allocate_pages(self, counts: Mapping[int, int], start: int, count: int, *, add: bool) -> int:
        """Set how many huge pages there are."""
        served = 0
        for cell in self._cell_range(start, count) if start != ALL else sorted(self._cells()):
            for size, wanted in counts.items():
                if size == os.sysconf("SC_PAGE_SIZE") >> 10:
                    msg = "system pages pool can't be modified"
                    raise _error(msg, ErrorCode.OPERATION_UNSUPPORTED)
                before = self._huge_pages(cell, size, "nr_hugepages")
                total = before + wanted if add else wanted
                try:
                    self._page_file(cell, size, "nr_hugepages").write_text(str(total))
                except OSError as error:
                    msg = f"Unable to write to: {self._page_file(cell, size, 'nr_hugepages')}: {error.strerror}"
                    raise _error(msg, ErrorCode.SYSTEM_ERROR) from error
                if self._huge_pages(cell, size, "nr_hugepages") != total:
                    msg = f"Unable to allocate {total} pages"
                    raise _error(msg, ErrorCode.OPERATION_FAILED)
                served += 1
        return served

    # -- firmware, security -------------------------------------------------------------------------------------------

    def system_information(self) -> str:
        """What the firmware's SMBIOS tables say."""
        try:
            tables = (self._root / "sys/firmware/dmi/tables/DMI").read_bytes()
            return format_sysinfo(parse_tables(tables))
        except (OSError, SmbiosError) as error:
            msg = "Host SMBIOS information is not available"
            raise _error(msg, ErrorCode.CONFIG_UNSUPPORTED) from error

    def security_model(self) -> tuple[str, str]:
        """None is driven here: machines are confined by who they run as."""
        return "none", "0"

    def cells(self) -> Mapping[int, Sequence[int]]:
        """CPUs of each NUMA node."""
        return self._cells()

    def cell_distances(self, cell: int) -> Sequence[int]:
        """Distance of a node to each other, in the order of their numbers; nothing where the kernel has none."""
        try:
            return [int(word) for word in (self._nodes / f"node{cell}" / "distance").read_text().split()]
        except (OSError, ValueError):
            return []

    @property
    def cpu_directory(self) -> Path:
        """Where the kernel describes the CPUs."""
        return self._cpus


def _kib_by_name(text: str) -> dict[str, int]:
    values = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            values[name.strip()] = int(words[0])
    return values
