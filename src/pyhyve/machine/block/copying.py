"""Jobs that move data between the layers of a disk, or to another disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.backends.block import BlockError
from pyhyve.image.contract import BackingReference, ImageError, LayerState
from pyhyve.image.operations.chain import change_backing, read_padded
from pyhyve.machine.block.attach import drained
from pyhyve.machine.block.errors import ChangeError
from pyhyve.machine.block.job import Job, JobCancelledError
from pyhyve.machine.block.tracking import GRANULARITY_BYTES, DirtyChunks, RangeLock, TrackedBackend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.image.contract import Extent, Image
    from pyhyve.machine.block.attach import Attachment
    from pyhyve.machine.block.node import BlockNode
    from pyhyve.machine.block.services import BlockServices

_CHUNK_BYTES = 1 << 20
_IDLE_S = 0.05


def _pieces(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Start and length of steps over a range that end at whole chunks."""
    while start < end:
        step = min(_CHUNK_BYTES - start % _CHUNK_BYTES, end - start)
        yield start, step
        start += step


def _is_zero(data: memoryview) -> bool:
    return not any(data[:64]) and bytes(data) == bytes(len(data))


def _copy(source: Image, target: Image, start: int, length: int, buffer: memoryview) -> None:
    """Copy a range; zeroes become zeroes."""
    length = min(length, source.size_bytes - start, target.size_bytes - start)
    if length <= 0:
        return
    part = buffer[:length]
    read_padded(source, part, start)
    if _is_zero(part):
        target.write_zeroes(start, length)
    else:
        target.pwrite(part, start)


class StreamJob(Job):
    """Copies what lies between `node` and `base` into `node`, which is then on `base` directly."""

    kind = "stream"

    def __init__(
        self, services: BlockServices, name: str, options: dict[str, Any], node: BlockNode, base: BlockNode | None
    ) -> None:
        super().__init__(name, options, services.jobs.tell)
        self._services = services
        self._node = node
        self._base = base
        self.nodes = (node,)
        self._backing_text = options.get("backing-file")
        self._ranges = RangeLock()
        self._attachments = [found for found in services.above(node) if found.node is node]
        self.total = node.need_image().size_bytes
        for attachment in self._attachments:
            attachment.wrap(lambda inner: TrackedBackend(inner, self._ranges))

    def work(self) -> None:
        """Copy what the layers between hold, a piece at a time."""
        image = self._node.need_image()
        depth = len(list(self._node.chain())) if self._base is None else list(self._node.chain()).index(self._base)
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        at = 0
        while at < image.size_bytes:
            extent = next(iter(image.map(at, image.size_bytes - at)))
            end = min(extent.end, image.size_bytes)
            wanted = extent.present and 0 < extent.depth < depth
            for start, length in _pieces(at, end):
                if wanted:
                    self._copy_piece(image, start, length, buffer)
                self.advance(length)
            at = max(end, at + 1)

    def _copy_piece(self, image: Image, start: int, length: int, buffer: memoryview) -> None:
        """What the layer itself does not hold by now."""
        with self._ranges.hold(start, length):
            for run in list(image.layer_extents(start, length)):
                if run.state is LayerState.UNALLOCATED:
                    part = buffer[: run.length]
                    image.pread_into(part, run.start)
                    image.pwrite(part, run.start)

    def finish(self) -> None:
        """Put the image on its new base."""
        node, base = self._node, self._base
        image = node.need_image()
        reference = None
        if base is not None:
            reference = BackingReference(self._backing_text or base.filename, base.driver)
        with drained(self._services.above(node)):
            image.flush()
            change_backing(image, reference)
            relink(self._services, node, base)

    def clean(self) -> None:
        """Let writes go straight to the image again."""
        for attachment in self._attachments:
            attachment.unwrap()


def relink(services: BlockServices, node: BlockNode, base: BlockNode | None) -> None:
    """Have `node` be on `base`; disks on top are drained by the caller."""
    before = node.backing
    if before is base:
        return
    if base is not None:
        services.graph.hold(base, node.name)
    node.backing = base
    node.need_image().backing = None if base is None else base.need_image()
    node.options = {**node.options, "backing": None if base is None else base.name}
    if before is not None:
        services.graph.release(before, node.name)


class CommitJob(Job):
    """Writes what `top` and the layers below it hold into `base`; what was on `top` is then on `base`."""

    kind = "commit"

    def __init__(
        self, services: BlockServices, name: str, options: dict[str, Any], top: BlockNode, base: BlockNode
    ) -> None:
        super().__init__(name, options, services.jobs.tell)
        self._services = services
        self._top = top
        self._base = base
        self.nodes = (top, base)
        self._backing_text = options.get("backing-file")
        self._overlay = next(node for node in services.graph if node.backing is top)
        self.total = top.need_image().size_bytes
        self._was_readonly = base.need_image().readonly
        services.graph.make_writable(base, services.above(base))

    def work(self) -> None:
        """Copy the layers' data down."""
        top, base = self._top.need_image(), self._base.need_image()
        depth = list(self._top.chain()).index(self._base)
        if base.size_bytes < top.size_bytes:
            base.resize(top.size_bytes)
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        for extent in list(top.map(0, top.size_bytes)):
            for start, length in _pieces(extent.start, extent.end):
                if extent.present and extent.depth < depth:
                    _copy(top, base, start, length, buffer)
                self.advance(length)
        base.flush()

    def finish(self) -> None:
        """Put the layer above on the base."""
        overlay, base = self._overlay, self._base
        reference = BackingReference(self._backing_text or base.filename, base.driver)
        above = self._services.above(overlay)
        if overlay.need_image().readonly:
            self._services.graph.make_writable(overlay, above)
        with drained(above):
            change_backing(overlay.need_image(), reference)
            relink(self._services, overlay, base)


class MirrorJob(Job):
    """Copies a disk to `target` and keeps both alike until it is completed: the disk is `target` from then on."""

    def __init__(
        self,
        services: BlockServices,
        name: str,
        options: dict[str, Any],
        source: BlockNode,
        attachment: Attachment | None,
        target: BlockNode,
        *,
        sync: str,
        kind: str = "mirror",
    ) -> None:
        self.kind = kind
        super().__init__(name, options, services.jobs.tell)
        self._services = services
        self._source = source
        self._attachment = attachment
        self._target = target
        self.nodes = (source, target)
        self._sync = sync
        self._ranges = RangeLock()
        self._dirty = DirtyChunks()
        self._depth = 1 if sync == "top" else 1 << 30
        if kind == "commit":
            self._depth = list(source.chain()).index(target)
        self.total = source.need_image().size_bytes
        services.graph.hold(target, f"job {name}")
        if attachment is not None:
            attachment.wrap(lambda inner: TrackedBackend(inner, self._ranges, after=self._dirty.mark))

    def work(self) -> None:
        """The whole disk once, then what was written meanwhile, until it is to end."""
        source, target = self._source.need_image(), self._target.need_image()
        if target.size_bytes < source.size_bytes:
            if self.kind != "commit":
                msg = f"the target is smaller than the disk ({target.size_bytes} and {source.size_bytes} bytes)"
                raise ChangeError(msg)
            target.resize(source.size_bytes)
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        if self._sync != "none":
            for extent in list(source.map(0, source.size_bytes)):
                for start, length in _pieces(extent.start, extent.end):
                    if self._is_wanted(extent):
                        with self._ranges.hold(start, length):
                            _copy(source, target, start, length, buffer)
                    self.advance(length)
        else:
            self.done = self.total
        self._follow(buffer)

    def _is_wanted(self, extent: Extent) -> bool:
        if self._sync == "full" and self.kind == "mirror":
            return True
        return extent.present and extent.depth < self._depth

    def _follow(self, buffer: memoryview) -> None:
        while True:
            if self._copy_dirty(buffer) and not self._dirty:
                self.be_ready()
            if self.wants_completion or self.ends_softly:
                return
            self.breathe(_IDLE_S)

    def _copy_dirty(self, buffer: memoryview) -> bool:
        """Copy chunks that were written; whether there are none any more."""
        source, target = self._source.need_image(), self._target.need_image()
        for _ in range(1024):
            start = self._dirty.take()
            if start is None:
                return True
            length = min(GRANULARITY_BYTES, source.size_bytes - start)
            if length > 0:
                with self._ranges.hold(start, length):
                    _copy(source, target, start, length, buffer)
                self.total += length
                self.advance(length)
        return False

    def finish(self) -> None:
        """With the disk at rest, copy the last writes, and switch over if that was asked for."""
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        attachment = self._attachment
        with drained([] if attachment is None else [attachment]):
            while (start := self._dirty.take()) is not None:
                length = self._source.need_image().size_bytes - start
                _copy(
                    self._source.need_image(), self._target.need_image(), start, min(GRANULARITY_BYTES, length), buffer
                )
            self._target.need_image().flush()
            if self.wants_completion and attachment is not None:
                attachment.is_wrapped = False
                attachment.switch(self._target)

    def clean(self) -> None:
        """Let writes go straight to the disk again."""
        if self._attachment is not None:
            self._attachment.unwrap()
        self._services.graph.release(self._target, f"job {self.name}")


class BackupJob(Job):
    """Copies a disk as it was when the job began to `target`: what the guest overwrites is copied before."""

    kind = "backup"

    def __init__(
        self,
        services: BlockServices,
        name: str,
        options: dict[str, Any],
        source: BlockNode,
        attachment: Attachment | None,
        target: BlockNode,
    ) -> None:
        super().__init__(name, options, services.jobs.tell)
        self._services = services
        self._source = source
        self._attachment = attachment
        self._target = target
        self.nodes = (source, target)
        self._sync = str(options["sync"])
        self._ranges = RangeLock()
        self._copied: set[int] = set()
        self.total = source.need_image().size_bytes
        if target.need_image().size_bytes < self.total:
            msg = "Source and target image have different sizes"
            raise ChangeError(msg)
        services.graph.hold(target, f"job {name}")
        if attachment is not None:
            attachment.wrap(lambda inner: TrackedBackend(inner, self._ranges, before=self._save))

    def _save(self, start: int, length: int) -> None:
        """Copy what is about to be overwritten; the range is held."""
        buffer = memoryview(bytearray(GRANULARITY_BYTES))
        try:
            for at in range(start, start + length, GRANULARITY_BYTES):
                self._copy_chunk(at, buffer)
        except (ImageError, OSError) as error:
            raise BlockError(5, f"backup: {error}") from error

    def _copy_chunk(self, start: int, buffer: memoryview) -> None:
        if start not in self._copied:
            _copy(self._source.need_image(), self._target.need_image(), start, GRANULARITY_BYTES, buffer)
            self._copied.add(start)

    def work(self) -> None:
        """Everything, chunk by chunk; with sync=none, wait for the end."""
        source = self._source.need_image()
        buffer = memoryview(bytearray(GRANULARITY_BYTES))
        if self._sync == "none":
            self.done = self.total
            while not self.ends_softly:
                self.breathe(_IDLE_S)
            raise JobCancelledError
        only_top = self._sync == "top"
        for extent in list(source.map(0, source.size_bytes)):
            if only_top and not (extent.present and extent.depth == 0):
                self.advance(extent.length)
                continue
            first = extent.start // GRANULARITY_BYTES * GRANULARITY_BYTES
            for start in range(first, extent.end, GRANULARITY_BYTES):
                with self._ranges.hold(start, GRANULARITY_BYTES):
                    self._copy_chunk(start, buffer)
                self.advance(min(GRANULARITY_BYTES, self.total - self.done))
        self._target.need_image().flush()

    def clean(self) -> None:
        """Let writes go straight to the disk again."""
        if self._attachment is not None:
            self._attachment.unwrap()
        self._services.graph.release(self._target, f"job {self.name}")
