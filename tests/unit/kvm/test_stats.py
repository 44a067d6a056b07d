"""Statistics of the kernel: a file that describes itself."""

from __future__ import annotations

import os
import struct

import pytest

from pyhyve.kvm.ioctls import KvmError
from pyhyve.kvm.stats import Statistic, StatisticsFile, parse
from pyhyve.kvm.system import KvmSystem

NAME_BYTES = 16


def describe(*entries: tuple[str, int, int, int, int, int]) -> bytes:
    """A file with these (name, flags, exponent, count, offset, bucket size)."""
    data_offset = 24 + 8 + len(entries) * (16 + NAME_BYTES)
    file = struct.pack("<6I", 0, NAME_BYTES, len(entries), 24, 32, data_offset) + b"kvm-1\0\0\0"
    for name, flags, exponent, count, offset, bucket in entries:
        file += struct.pack("<IhHII", flags, exponent, count, offset, bucket) + name.encode().ljust(NAME_BYTES, b"\0")
    return file


def test_statistics_are_as_they_are_described() -> None:
    file = describe(
        ("exits", 0x000, 0, 1, 0, 0),
        ("pages", 0x111, 12, 1, 8, 0),
        ("wait", 0x024, -9, 32, 16, 0),
        ("steps", 0x003, 0, 4, 272, 5),
        ("blocking", 0x041, 0, 1, 304, 0),
    )
    end = len(file)
    assert list(parse(file)) == [
        Statistic("exits", "cumulative", None, 10, 0, 0, 1, end),
        Statistic("pages", "instant", "bytes", 2, 12, 0, 1, end + 8),
        Statistic("wait", "log2-histogram", "seconds", 10, -9, 0, 32, end + 16),
        Statistic("steps", "linear-histogram", None, 10, 0, 5, 4, end + 272),
        Statistic("blocking", "instant", "boolean", 10, 0, 0, 1, end + 304),
    ]


def test_kinds_of_a_newer_kernel_are_left_out() -> None:
    file = describe(("new", 0x00F, 0, 1, 0, 0), ("unit", 0x0F0, 0, 1, 8, 0), ("old", 0x000, 0, 1, 16, 0))
    assert [statistic.name for statistic in parse(file)] == ["old"]


@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no usable /dev/kvm on this host")
def test_kernel_counts_for_vm_and_vcpu() -> None:
    with KvmSystem() as system, system.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        for handle, expected in ((vm, "remote_tlb_flush"), (vcpu, "exits")):
            try:
                file = StatisticsFile(handle.fd)
            except KvmError as error:
                pytest.skip(f"this kernel has no statistics: {error}")
            names = [statistic.name for statistic in file.statistics]
            assert expected in names
            values = file.values()
            assert [len(found) for found in values] == [statistic.count for statistic in file.statistics]
            file.close()
