from __future__ import annotations

import re
from pathlib import Path

import pytest

from pyhyve.memory.guest import HUGE_PAGE_SIZE_BYTES, GuestMemory


@pytest.mark.parametrize("gpa", [0, 0x1000, 0x1_0020_0000])
def test_private_memory_is_aligned_for_huge_pages(gpa: int) -> None:
    memory = GuestMemory(shared=False)
    region = memory.add(gpa, 0x5000)
    assert (region.hva - gpa) % HUGE_PAGE_SIZE_BYTES == 0
    assert region.fd == -1
    assert len(region.view) == 0x5000
    memory.write(gpa + 0x4FFF, b"\x5a")
    assert region.view[0x4FFF] == 0x5A
    memory.close()


def test_shared_memory_has_a_descriptor() -> None:
    memory = GuestMemory()
    assert memory.add(0, 0x1000).fd >= 0
    memory.close()


def resident_kib(hva: int) -> int:
    """Memory the kernel holds for the mapping around `hva`."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split()[0]
        if "-" in head and not head.endswith(":"):
            first, last = (int(word, 16) for word in head.split("-"))
            inside = first <= hva < last
        elif inside and head == "Rss:":
            return int(line.split()[1])
    raise LookupError(hex(hva))


@pytest.mark.parametrize("shared", [False, True])
def test_released_pages_go_back_to_the_host_and_read_zero(*, shared: bool) -> None:
    memory = GuestMemory(shared=shared)
    region = memory.add(0, 8 << 20)
    written: list[tuple[int, int]] = []
    memory.write(0, b"\xaa" * (8 << 20))
    memory.on_write(lambda gpa, length: written.append((gpa, length)))
    before = resident_kib(region.hva)
    assert memory.release(1 << 20, 4 << 20)
    assert before - resident_kib(region.hva) == 4 << 10
    assert memory.read((1 << 20) - 1, 2) == b"\xaa\0"
    assert memory.read((5 << 20) - 1, 2) == b"\0\xaa"
    assert written == [(1 << 20, 4 << 20)]
    memory.close()


def test_only_whole_pages_of_ram_are_released() -> None:
    memory = GuestMemory(shared=False)
    memory.add(0, 1 << 20)
    memory.add(1 << 30, 1 << 20, readonly=True)
    memory.write(0, b"\xaa" * 4096)
    for gpa, length in ((1, 4096), (0, 4095), (0, 0), (0, 2 << 20), (1 << 30, 4096), (1 << 40, 4096)):
        assert not memory.release(gpa, length)
    assert memory.read(0, 4096) == b"\xaa" * 4096
    memory.close()


def free_huge_pages() -> int:
    path = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
    return int(path.read_text()) if path.exists() else 0


def test_huge_pages_that_are_not_there_are_asked_for_by_number() -> None:
    memory = GuestMemory(shared=False, huge_pages=True)
    wanted = free_huge_pages() + 2
    with pytest.raises(MemoryError, match=rf"{wanted} huge pages of 2 MiB are not free .*nr_hugepages"):
        memory.add(0, wanted * HUGE_PAGE_SIZE_BYTES)
    assert memory.regions == ()
    memory.close()


def test_huge_pages_are_taken_on_request() -> None:
    pool = Path("/proc/sys/vm/nr_hugepages")
    before = int(pool.read_text()) if pool.exists() else 0
    try:
        pool.write_text(str(before + 4))
    except OSError:
        pytest.skip("reserving huge pages needs root")
    try:
        if free_huge_pages() < 4:
            pytest.skip("this host has no four huge pages to give")
        memory = GuestMemory(shared=False, huge_pages=True)
        low, high = memory.add(0, 0xA_0000), memory.add(0xC_0000, (4 << 20) - 0xC_0000)
        assert (high.hva - high.gpa) % HUGE_PAGE_SIZE_BYTES == 0
        memory.write(0xC_0000, b"\x5a")
        smaps = Path("/proc/self/smaps").read_text()
        assert re.search(r"Private_Hugetlb: +2048 kB", smaps)
        assert low.view[0] == 0
        memory.close()
    finally:
        pool.write_text(str(before))
