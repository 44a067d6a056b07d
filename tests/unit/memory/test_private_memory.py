from __future__ import annotations

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
