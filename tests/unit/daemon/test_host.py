from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.host.api import ALL, HostInfo
from pyhyve.daemon.host.linux import LinuxHost, parse_cpu_list
from pyhyve.daemon.host.smbios import SmbiosError, format_sysinfo, parse_tables
from pyhyve.rpc.errors import ErrorCode
from pyhyve.rpc.values import ParamType, TypedParam

if TYPE_CHECKING:
    from pathlib import Path


def put(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def two_cells(tmp_path: Path) -> LinuxHost:
    """Two cells, a socket each, two cores of two threads; one CPU offline."""
    files = {
        "proc/cpuinfo": "processor : 0\ncpu MHz\t\t: 2299.998\n",
        "proc/meminfo": "MemTotal: 8000 kB\nMemFree: 500 kB\nBuffers: 10 kB\nCached: 20 kB\n",
        "proc/stat": "cpu  10 1 5 100 7 1 1 0\ncpu0 5 0 3 50 3 0 0 0\n",
        "sys/devices/system/cpu/present": "0-7\n",
        "sys/devices/system/cpu/online": "0-6\n",
        "sys/kernel/mm/ksm/pages_to_scan": "100\n",
        "sys/kernel/mm/ksm/pages_shared": "3\n",
    }
    for cell in range(2):
        node = f"sys/devices/system/node/node{cell}"
        files[f"{node}/cpulist"] = f"{cell * 4}-{cell * 4 + 3}\n"
        files[f"{node}/meminfo"] = f"Node {cell} MemTotal: 4000 kB\nNode {cell} MemFree: {100 + cell} kB\n"
        files[f"{node}/distance"] = "10 21\n" if not cell else "21 10\n"
        for name, value in (("nr", 5), ("free", 2)):
            files[f"{node}/hugepages/hugepages-2048kB/{name}_hugepages"] = f"{value}\n"
    files["sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"] = "10\n"
    for cpu in range(8):
        topology = f"sys/devices/system/cpu/cpu{cpu}/topology"
        files[f"{topology}/physical_package_id"] = f"{cpu // 4}\n"
        files[f"{topology}/core_id"] = f"{cpu % 4 // 2}\n"
    put(tmp_path, files)
    return LinuxHost(tmp_path)


def test_shape_is_read_from_the_kernel(two_cells: LinuxHost) -> None:
    import os

    assert two_cells.info() == HostInfo(os.uname().machine, 8000, 7, 2299, 2, 1, 2, 2)
    assert list(two_cells.online_cpus()) == [True] * 7 + [False]


def test_a_host_without_cells_is_one_cell(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "proc/cpuinfo": "",
            "proc/meminfo": "MemTotal: 8000 kB\nMemFree: 500 kB\n",
            "sys/devices/system/cpu/present": "0-2",
            "sys/devices/system/cpu/online": "0-2",
        },
    )
    host = LinuxHost(tmp_path)
    info = host.info()
    assert (info.memory_kib, info.cpus, info.nodes, info.sockets, info.cores, info.threads) == (8000, 3, 1, 1, 3, 1)
    assert list(host.cells_free_memory(0, 5)) == [500 << 10]
    assert dict(host.memory(0)) == {"total": 8000, "free": 500}


def test_times_and_memory_are_given_by_kind(two_cells: LinuxHost) -> None:
    import os

    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    assert two_cells.cpu_times(ALL) == {"user": 11 * tick, "kernel": 7 * tick, "idle": 100 * tick, "iowait": 7 * tick}
    assert two_cells.cpu_times(0)["user"] == 5 * tick
    assert two_cells.memory(ALL) == {"total": 8000, "free": 500, "buffers": 10, "cached": 20}
    assert two_cells.memory(1) == {"total": 4000, "free": 101}
    assert list(two_cells.cells_free_memory(0, 9)) == [100 << 10, 101 << 10]
    assert list(two_cells.cells_free_memory(1, 1)) == [101 << 10]
    assert two_cells.free_memory() == 201 << 10


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("cpu_times", (7,)), ("memory", (2,)), ("cells_free_memory", (2, 1)), ("free_pages", ([2048], 2, 1))],
)
def test_what_is_not_there_is_an_error(two_cells: LinuxHost, name: str, arguments: tuple[object, ...]) -> None:
    with pytest.raises(LibvirtError):
        getattr(two_cells, name)(*arguments)


def test_pages_are_counted_and_allocated(two_cells: LinuxHost, tmp_path: Path) -> None:
    assert list(two_cells.free_pages([4, 2048], 0, 2)) == [25, 2, 25, 2]
    assert two_cells.huge_page_sizes() == [2048]
    assert two_cells.pages(0, 2048) == 5
    assert two_cells.allocate_pages({2048: 3}, 1, 1, add=True) == 1
    file = tmp_path / "sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages"
    assert file.read_text() == "8"
    two_cells.allocate_pages({2048: 1}, 0, 2, add=False)
    assert file.read_text() == "1"
    for size, code in ((4, ErrorCode.OPERATION_UNSUPPORTED), (1 << 20, ErrorCode.OPERATION_FAILED)):
        with pytest.raises(LibvirtError) as raised:
            two_cells.allocate_pages({size: 1}, 0, 1, add=True)
        assert raised.value.code is code


def test_sharing_of_pages_is_read_and_set(two_cells: LinuxHost, tmp_path: Path) -> None:
    assert two_cells.memory_parameters() == [
        TypedParam("shm_pages_to_scan", ParamType.UINT, 100),
        TypedParam("shm_pages_shared", ParamType.ULLONG, 3),
    ]
    two_cells.set_memory_parameters([TypedParam("shm_pages_to_scan", ParamType.UINT, 7)])
    assert (tmp_path / "sys/kernel/mm/ksm/pages_to_scan").read_text() == "7"
    for wrong in (
        TypedParam("shm_pages_shared", ParamType.ULLONG, 1),
        TypedParam("nosuch", ParamType.UINT, 1),
        TypedParam("shm_pages_to_scan", ParamType.ULLONG, 1),
    ):
        with pytest.raises(LibvirtError):
            two_cells.set_memory_parameters([wrong])


@pytest.mark.parametrize(("text", "numbers"), [("0-3,8\n", [0, 1, 2, 3, 8]), ("", []), ("5", [5])])
def test_lists_of_cpus_are_read(text: str, numbers: list[int]) -> None:
    assert parse_cpu_list(text) == numbers


def structure(kind: int, body: bytes, *strings: str) -> bytes:
    texts = b"".join(text.encode() + b"\0" for text in strings) or b"\0"
    return struct.pack("<BBH", kind, 4 + len(body), kind) + body + texts + b"\0"


def test_firmware_tables_become_a_document() -> None:
    bios = bytes([1, 2]) + bytes(2) + bytes([3, 0]) + bytes(10) + bytes([2, 61])
    identity = bytes(range(16))
    system = bytes([1, 2, 0, 3]) + identity + bytes([0, 0, 0])
    tables = (
        structure(0, bios, "Vendor & Co", "1.0", "05/07/2014")
        + structure(1, system, "Maker", "Machine", "S1")
        + structure(11, bytes([2]), "one", "two")
        + structure(127, b"")
    )
    document = format_sysinfo(parse_tables(tables))
    assert document.splitlines() == [
        "<sysinfo type='smbios'>",
        "  <bios>",
        "    <entry name='vendor'>Vendor &amp; Co</entry>",
        "    <entry name='version'>1.0</entry>",
        "    <entry name='date'>05/07/2014</entry>",
        "    <entry name='release'>2.61</entry>",
        "  </bios>",
        "  <system>",
        "    <entry name='manufacturer'>Maker</entry>",
        "    <entry name='product'>Machine</entry>",
        "    <entry name='serial'>S1</entry>",
        "    <entry name='uuid'>03020100-0504-0706-0809-0a0b0c0d0e0f</entry>",
        "  </system>",
        "  <oemStrings>",
        "    <entry>one</entry>",
        "    <entry>two</entry>",
        "  </oemStrings>",
        "</sysinfo>",
    ]


@pytest.mark.parametrize("tables", [b"", b"\0\1\0\0", b"\0\x20\0\0ab", structure(0, b"x")[:-1], b"\1\4\0\0abc"])
def test_damaged_firmware_tables_are_refused(tables: bytes) -> None:
    with pytest.raises(SmbiosError):
        parse_tables(tables)
