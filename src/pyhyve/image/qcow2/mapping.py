"""From guest offsets to host runs: what the L2 tables say about a range. No data moves here."""

from __future__ import annotations

from pyhyve.image.contract import ImageFormatError
from pyhyve.image.qcow2.format import (
    ALL_SUBCLUSTERS,
    OFFSET_MASK,
    OFLAG_COMPRESSED,
    OFLAG_COPIED,
    OFLAG_ZERO,
    SUBCLUSTERS_PER_CLUSTER,
    RunKind,
)
from pyhyve.image.qcow2.tables import run_length
from pyhyve.support.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyhyve.image.qcow2.metadata import Metadata
    from pyhyve.support.arrays import array


@dataclass(slots=True)
class Run:
    """`length` bytes in one state.

    `host` is the byte in the data file (DATA; others when preallocated, else 0), `entry` the first L2 word. A
    compressed run is one cluster or a part of it.
    """

    kind: int  # of RunKind
    length: int
    host: int
    entry: int


class Mapping:
    """Lookups in the active L1 of a `Metadata`; callers hold its lock."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        header = metadata.header
        self._bits = header.cluster_bits
        self._mask = header.cluster_size - 1
        self._l2_entries = header.l2_entries
        self._l2_bits = self._l2_entries.bit_length() - 1
        self._extended = header.extended_l2
        self._zero_flag = OFLAG_ZERO if header.version >= 3 and not header.extended_l2 else 0
        self._data_file = header.has_data_file

    def lookup(self, offset: int, length: int) -> Run:
        """The run that starts at `offset`, at most `length` bytes long; ImageFormatError on a damaged entry."""
        cluster = offset >> self._bits
        l1_index, index = cluster >> self._l2_bits, cluster & (self._l2_entries - 1)
        inside = offset & self._mask
        table = self._metadata.table(l1_index)
        limit = min(self._l2_entries - index, (inside + length + self._mask) >> self._bits)
        if table is None:
            return self._missing_table(l1_index, offset, length)
        if self._extended:
            return self._lookup_extended(table.entries, index, inside, length)
        entries = table.entries
        entry = entries[index]
        if entry & OFLAG_COMPRESSED:
            return self._compressed(entry, inside, length)
        host = entry & OFFSET_MASK
        allocated = host or (self._data_file and entry & OFLAG_COPIED)
        count = 1
        if limit > 1:
            count = run_length(entries, index, limit, self._mask + 1 if allocated else 0)
        run = min(length, (count << self._bits) - inside)
        if entry & self._zero_flag:
            return Run(RunKind.ZERO, run, host + inside if host else 0, entry)
        if not allocated:
            return Run(RunKind.UNALLOCATED, run, 0, entry)
        if host & self._mask:
            msg = f"Cluster allocation offset {host:#x} unaligned (L2 index: {index:#x})"
            raise ImageFormatError(msg)
        return Run(RunKind.DATA, run, host + inside, entry)

    def _missing_table(self, l1_index: int, offset: int, length: int) -> Run:
        """Unallocated to the end of the run of equal L1 entries."""
        l1, shift = self._metadata.l1, self._bits + self._l2_bits
        count = 1
        wanted = ((offset + length - 1) >> shift) - l1_index + 1
        if wanted > 1 and l1_index < len(l1):
            count = run_length(l1, l1_index, min(wanted, len(l1) - l1_index), 0)
        return Run(RunKind.UNALLOCATED, min(length, ((l1_index + count) << shift) - offset), 0, 0)

    def _compressed(self, entry: int, inside: int, length: int) -> Run:
        if self._data_file:
            msg = "Compressed cluster encountered in an image with an external data file"
            raise ImageFormatError(msg)
        return Run(RunKind.COMPRESSED, min(length, self._mask + 1 - inside), 0, entry)

    def _lookup_extended(self, entries: array[int], index: int, inside: int, length: int) -> Run:
        entry, bitmap = entries[2 * index], entries[2 * index + 1]
        if entry & OFLAG_COMPRESSED:
            return self._compressed(entry, inside, length)
        host = entry & OFFSET_MASK
        sub_bits = self._bits - 5
        allocated, zero = bitmap & ALL_SUBCLUSTERS, bitmap >> SUBCLUSTERS_PER_CLUSTER
        if allocated & zero or (allocated and not host and not self._data_file) or host & self._mask:
            msg = f"Invalid subcluster bitmap {bitmap:#x} or offset {host:#x} (L2 index: {index:#x})"
            raise ImageFormatError(msg)
        sub = inside >> sub_bits
        if allocated >> sub & 1:
            kind, members = RunKind.DATA, allocated
        elif zero >> sub & 1:
            kind, members = RunKind.ZERO, zero
        else:
            kind, members = RunKind.UNALLOCATED, ~(allocated | zero) & ALL_SUBCLUSTERS
        ones = members >> sub
        count = (~ones & (ones + 1)).bit_length() - 1
        run = min(length, ((sub + count) << sub_bits) - inside)
        located = kind == RunKind.DATA or host
        return Run(kind, run, host + inside if located else 0, entry)

    def runs(self, offset: int, length: int) -> list[Run]:
        """All runs of a range, neighbours merged where they continue each other."""
        found: list[Run] = []
        while length > 0:
            run = self.lookup(offset, length)
            if found:
                last = found[-1]
                if last.kind == run.kind and run.kind != RunKind.COMPRESSED:
                    follows = run.host == last.host + last.length if last.host or run.host else True
                    if follows and (run.kind != RunKind.DATA or (run.entry ^ last.entry) & OFLAG_COPIED == 0):
                        found[-1] = Run(last.kind, last.length + run.length, last.host, last.entry)
                        offset += run.length
                        length -= run.length
                        continue
            found.append(run)
            offset += run.length
            length -= run.length
        return found


def scatter(buffers: Sequence[memoryview], runs: list[Run], offset: int) -> Iterator[tuple[memoryview, Run, int]]:
    """Pair parts of buffers with parts of runs: `(buffer part, run advanced to it, guest offset)`."""
    queue = iter(buffers)
    buffer = next(queue)
    for run in runs:
        length, host = run.length, run.host
        while length:
            while not buffer:
                buffer = next(queue)
            step = min(length, len(buffer))
            yield buffer[:step], Run(run.kind, step, host, run.entry), offset
            buffer = buffer[step:]
            offset += step
            host += step
            length -= step
