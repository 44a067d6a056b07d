from __future__ import annotations

import io
import random

import pytest

from pyhyve.image.contract import ImageError, ImageFormatError
from pyhyve.image.qcow2.refcount import RefcountStructure, pack_counts, unpack_counts
from pyhyve.image.storage import FileObjectStorage

CLUSTER_BITS = 9


def structure(order: int) -> tuple[FileObjectStorage, RefcountStructure]:
    cluster = 1 << CLUSTER_BITS
    counts = unpack_counts(bytes(cluster), order)
    for used in range(3):
        counts[used] = 1
    storage = FileObjectStorage(io.BytesIO(bytes(3 * cluster)))
    storage.pwrite((2 * cluster).to_bytes(8, "big"), cluster)
    storage.pwrite(pack_counts(counts, order), 2 * cluster)
    return storage, RefcountStructure(storage, CLUSTER_BITS, order, cluster, 1)


@pytest.mark.parametrize("order", range(7))
def test_counts_survive_packing(order: int) -> None:
    data = random.Random(order).randbytes(512)
    assert pack_counts(unpack_counts(data, order), order) == data


def test_one_bit_counts_start_at_the_lowest_bit() -> None:
    assert unpack_counts(b"\x05\x80", 0) == bytearray((1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1))


@pytest.mark.parametrize("order", range(7))
def test_allocation_agrees_with_a_plain_list(order: int) -> None:
    storage, refcounts = structure(order)
    chance = random.Random(order)
    taken: dict[int, int] = {}
    for _ in range(300):
        if chance.random() < 0.65 or not taken:
            count, exact = chance.randrange(1, 9), chance.random() < 0.5
            first, got = refcounts.allocate(count, exact=exact)
            assert got == count if exact else 1 <= got <= count
            for cluster in range(first, first + got):
                assert cluster not in taken
                assert refcounts.get(cluster) == 1
                taken[cluster] = 1
        else:
            cluster = chance.choice(list(taken))
            refcounts.add(cluster, 1, -1)
            del taken[cluster]
    refcounts.write_back()
    again = RefcountStructure(storage, CLUSTER_BITS, order, refcounts.table_offset, refcounts.table_clusters)
    for cluster in taken:
        assert again.get(cluster) == 1


def test_counts_neither_overflow_nor_fall_below_zero() -> None:
    _, refcounts = structure(1)
    first, _ = refcounts.allocate(4)
    refcounts.add(first, 4, 2)
    with pytest.raises(ImageError, match="too narrow"):
        refcounts.add(first, 4, 1)
    refcounts.add(first, 4, -3)
    with pytest.raises(ImageFormatError, match="below zero"):
        refcounts.add(first, 1, -1)


def test_table_grows_when_the_file_outgrows_it() -> None:
    storage, refcounts = structure(6)  # 64 clusters per block, 64 blocks per table cluster
    refcounts.allocate(64 * 64 + 10)
    assert refcounts.table_clusters > 1
    freed = refcounts.write_back()
    assert freed == (1, 1)
    assert int.from_bytes(storage.pread(8, 48), "big") == refcounts.table_offset


def test_misplaced_block_is_an_error() -> None:
    storage, _ = structure(4)
    storage.pwrite((1025).to_bytes(8, "big"), 1 << CLUSTER_BITS)
    storage.pwrite((0x6600).to_bytes(8, "big"), 1 << CLUSTER_BITS)
    storage.pwrite((0x0400).to_bytes(8, "big"), (1 << CLUSTER_BITS) + 8)
    broken = RefcountStructure(storage, 10, 4, 1 << CLUSTER_BITS, 1)
    with pytest.raises(ImageFormatError, match="unaligned"):
        broken.get(0)
