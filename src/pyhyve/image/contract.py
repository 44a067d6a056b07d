"""The contract every image format fulfils, and the values that cross it.

Threads: `pread_into`, `preadv`, `pwrite`, `pwritev`, `write_zeroes`, `discard` and `flush` of one image may be called
from any number of threads at once; the image orders its own metadata. Two requests in flight over the same bytes
leave either result, never a mix across a cluster's metadata. `flush` covers each write that returned before it was
called. `close`, `resize`, `check` and snapshot calls want no other call in flight. A buffer stays the caller's: it is
neither kept nor written after the call returns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from pyhyve.support.enums import IntEnum
from pyhyve.support.errors import UserError
from pyhyve.support.records import dataclass, field, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import ClassVar, Self

    from pyhyve.image.storage import Storage

SECTOR_SIZE_BYTES = 512
_MAX_ERROR_CHARACTERS = 2000
MAX_IMAGE_SIZE_BYTES = (1 << 63) - 1


class ImageError(UserError):
    """Anything that goes wrong with an image; the text is one line for the user.

    Names found in images may end up in the text: what is not printable is replaced, and the length bounded.
    """

    def __init__(self, text: str = "") -> None:
        if not text.isprintable():
            text = "".join(character if character.isprintable() else "?" for character in text)
        super().__init__(text if len(text) <= _MAX_ERROR_CHARACTERS else text[:_MAX_ERROR_CHARACTERS] + "…")


class ImageFormatError(ImageError):
    """The bytes of the image contradict its specification or a bound."""


class ImageUnsupportedError(ImageError):
    """The image or the request is valid, and refused: the text says which feature."""


class ImageLockedError(ImageError):
    """Another process holds the image in a conflicting way."""


class ImageReadonlyError(ImageError):
    """A write to an image opened for reading."""


class LayerState(IntEnum):
    """What one layer says about a range of its own."""

    UNALLOCATED = 0  # ask the backing image; zero when there is none
    ZERO = 1  # reads as zero whatever the backing image holds
    DATA = 2  # held by this layer


@dataclass(frozen=True, slots=True)
class LayerExtent:
    """A run of bytes of one layer in one state.

    `offset` is where the bytes lie, byte for byte, in the file `filename` (None when they do not: compressed, or no
    data). Other runs may have an offset too (preallocated space).
    """

    start: int
    length: int
    state: LayerState
    offset: int | None = None
    filename: str | None = None
    compressed: bool = False
    zero: bool = False  # DATA that is known to read as zero (preallocated, never written)


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of bytes as seen through the whole chain; the fields `qemu-img map` prints."""

    start: int
    length: int
    data: bool
    zero: bool
    present: bool
    depth: int
    offset: int | None = None
    filename: str | None = None
    compressed: bool = False

    @property
    def end(self) -> int:
        """First byte after the run."""
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class BackingReference:
    """What an image says about the image below it, as stored: never trusted, resolved by `opening`."""

    filename: str
    format_name: str | None = None


@dataclass(slots=True)
class CheckResult:
    """What a consistency check found; names as in `qemu-img check --output json`."""

    errors: list[str] = field(default_factory=list)
    leak_messages: list[str] = field(default_factory=list)
    corruptions: int = 0
    leaks: int = 0
    check_errors: int = 0
    corruptions_fixed: int = 0
    leaks_fixed: int = 0
    image_end_offset: int = 0
    total_clusters: int = 0
    allocated_clusters: int = 0
    fragmented_clusters: int = 0
    compressed_clusters: int = 0


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """One internal snapshot."""

    id: str
    name: str
    vm_state_size_bytes: int
    date_s: int
    date_ns: int
    vm_clock_ns: int
    icount: int | None = None
    disk_size_bytes: int = 0


class OptionType(IntEnum):
    """How the value of a creation option is written."""

    STRING = 0
    SIZE = 1
    NUMBER = 2
    BOOLEAN = 3


class CreateOption:
    """One `-o name=value` of a format; `of_file`: of the file that holds the image rather than of the format."""

    __slots__ = ("default", "help", "name", "of_file", "type")

    def __init__(
        self,
        name: str,
        type: OptionType,  # noqa: A002 - what it is called everywhere
        help: str = "",  # noqa: A002 - argparse's name
        default: str | None = None,
        *,
        of_file: bool = False,
    ) -> None:
        self.name, self.type, self.help, self.default, self.of_file = name, type, help, default, of_file


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """A new image: `storage` is empty and writable; `options` holds parsed values (str, int or bool) by name.

    `open_sibling(name)` makes or truncates another file beside the image (extent files, external data); it raises
    ImageUnsupportedError when the image is not a local file.
    """

    storage: Storage
    size_bytes: int
    options: Mapping[str, str | int | bool]
    backing: BackingReference | None
    open_sibling: Callable[[str], Storage]

    def text(self, name: str, default: str | None = None) -> str | None:
        """String option."""
        value = self.options.get(name)
        return default if value is None else str(value)

    def number(self, name: str, default: int) -> int:
        """SIZE or NUMBER option."""
        value = self.options.get(name)
        return default if value is None else int(value)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """BOOLEAN option."""
        value = self.options.get(name)
        return default if value is None else bool(value)


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """An existing image to be read: the format checks everything it takes from `storage`.

    `open_sibling(name, writable)` opens a file the image names (extents, external data), relative to the image.
    `options` are runtime options (`lazy-refcounts`, ...). `check_only` lets a damaged image open for repair.
    """

    storage: Storage
    writable: bool
    open_sibling: Callable[[str, bool], Storage]
    options: Mapping[str, str] = field(default_factory=dict)
    check_only: bool = False


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """A format as the registry knows it; each format module publishes one as `FORMAT`.

    `probe(head, filename)` scores the first bytes (up to 2048) of a file 0..100. `create` is None for formats that
    are only read; it leaves a valid image in the request's storage and returns nothing. `measure(size, data_bytes,
    options)` is optional: bytes needed and fully allocated.
    """

    name: str
    probe: Callable[[bytes, str], int]
    open: Callable[[OpenRequest], Image]
    create: Callable[[CreateRequest], None] | None = None
    options: tuple[CreateOption, ...] = ()
    supports_backing: bool = False
    supports_compressed: bool = False


class Image(ABC):
    """A virtual disk in some format. Offsets and sizes in bytes of the virtual disk.

    Subclasses set `storage` and `readonly` and implement the abstract methods; the rest works from those and may be
    replaced by something faster.
    """

    format_name: ClassVar[str]
    storage: Storage
    readonly: bool
    backing: Image | None = None
    probed = False  # set by `opening`: sector 0 of a raw image must then never start to look like another format

    @property
    @abstractmethod
    def size_bytes(self) -> int:
        """Virtual size; requests past it raise ImageError."""

    @abstractmethod
    def pread_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` (any length, byte-granular) from `offset`, through the backing chain."""

    @abstractmethod
    def pwrite(self, buffer: bytes | bytearray | memoryview, offset: int) -> None:
        """Store `buffer` at `offset`. ImageReadonlyError when opened read-only."""

    @abstractmethod
    def layer_extents(self, start: int, length: int) -> Iterator[LayerExtent]:
        """Consecutive runs that cover exactly `[start, start + length)` as this layer alone sees them."""

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Fill several buffers from consecutive bytes (a guest's scatter list)."""
        for buffer in buffers:
            self.pread_into(buffer, offset)
            offset += len(buffer)

    def pwritev(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Store several buffers at consecutive bytes."""
        for buffer in buffers:
            self.pwrite(buffer, offset)
            offset += len(buffer)

    def write_zeroes(self, offset: int, length: int, *, unmap: bool = True) -> None:
        """Make a range read as zero; with `unmap` the space may be given back."""
        del unmap
        chunk = bytes(min(length, 1 << 20))
        while length > 0:
            step = min(length, len(chunk))
            self.pwrite(memoryview(chunk)[:step], offset)
            offset += step
            length -= step

    def discard(self, offset: int, length: int) -> None:  # noqa: B027 - a hint: doing nothing is right
        """The guest no longer needs a range: a hint, reads give the old bytes or zero."""

    def write_compressed(self, buffer: bytes | memoryview, offset: int) -> None:
        """Store whole clusters compressed; ImageUnsupportedError when the format cannot."""
        self.append_compressed(self.compress(buffer, offset))

    def compress(self, buffer: bytes | memoryview, offset: int) -> list[tuple[int, memoryview, bytes]]:
        """Compress whole clusters without storing them: `(offset, plain, compressed)` each. May run in parallel."""
        del buffer, offset
        msg = f"Compression not supported for format '{self.format_name}'"
        raise ImageUnsupportedError(msg)

    def append_compressed(self, parts: list[tuple[int, memoryview, bytes]]) -> None:
        """Store what `compress` gave, in this order; the plain bytes are still needed."""
        del parts
        msg = f"Compression not supported for format '{self.format_name}'"
        raise ImageUnsupportedError(msg)

    @abstractmethod
    def flush(self) -> None:
        """Return when all completed writes are on stable storage (data first, then what refers to it)."""

    @abstractmethod
    def close(self) -> None:
        """Write back metadata, close this image and its backing chain; idempotent."""

    def resize(self, size_bytes: int) -> None:
        """Change the virtual size; new space reads as zero."""
        del size_bytes
        self.check_writable()
        msg = f"Image format driver '{self.format_name}' does not support resize"
        raise ImageUnsupportedError(msg)

    def make_empty(self) -> None:
        """Give up everything this layer holds, so that the backing image shows through."""
        self.check_writable()
        msg = f"Image format driver '{self.format_name}' cannot empty an image"
        raise ImageUnsupportedError(msg)

    def check(self, *, fix_leaks: bool = False, fix_errors: bool = False) -> CheckResult:
        """Verify the metadata; ImageUnsupportedError when the format has nothing to verify."""
        del fix_leaks, fix_errors
        msg = "This image format does not support checks"
        raise ImageUnsupportedError(msg)

    @property
    def backing_reference(self) -> BackingReference | None:
        """The image below, as stored in this one."""
        return None

    @property
    def cluster_size_bytes(self) -> int | None:
        """Allocation unit, when the format has one."""
        return None

    @property
    def allocation_unit_bytes(self) -> int | None:
        """The shortest aligned run that can be left unallocated, when that is less than a cluster."""
        return self.cluster_size_bytes

    def disk_usage_bytes(self) -> int | None:
        """Space the image's own files take on the host; None when it cannot be known."""
        return self.storage.disk_usage_bytes()

    @property
    def dirty(self) -> bool | None:
        """The image was not closed cleanly; None when QEMU does not say for this format."""
        return False

    def snapshots(self) -> Sequence[SnapshotInfo]:
        """Internal snapshots in table order."""
        return ()

    def create_snapshot(
        self, name: str, *, date_ns: int, vm_clock_ns: int = 0, vm_state_size_bytes: int = 0, icount: int | None = None
    ) -> SnapshotInfo:
        """Take an internal snapshot of the disk as it is now, durably.

        `date_ns` is the time since 1970. With `vm_state_size_bytes` the snapshot takes along what `pwrite_vm_state`
        stored, up to that size, and the disk itself is left without a machine state. Names need not be unique.
        """
        del name, date_ns, vm_clock_ns, vm_state_size_bytes, icount
        raise self._no_snapshots()

    def find_snapshot(self, wanted: str, *, by_id: bool = True, by_name: bool = True) -> SnapshotInfo | None:
        """The internal snapshot with this id or name (ids win), or None."""
        found = self.snapshots()
        for entry in found:
            if by_id and entry.id == wanted:
                return entry
        return next((entry for entry in found if by_name and entry.name == wanted), None)

    def apply_snapshot(self, snapshot: SnapshotInfo) -> None:
        """Make the disk, its size and its machine state what they were; what was written since is lost. Durable."""
        del snapshot
        raise self._no_snapshots()

    def delete_snapshot(self, snapshot: SnapshotInfo) -> None:
        """Remove an internal snapshot. Durable."""
        del snapshot
        raise self._no_snapshots()

    def select_snapshot(self, snapshot: SnapshotInfo) -> None:
        """Show an internal snapshot in place of the disk, machine state included; for images opened read-only."""
        del snapshot
        raise self._no_snapshots()

    def pwrite_vm_state(self, buffer: bytes | bytearray | memoryview, position: int) -> None:
        """Store a part of a machine state, at `position` bytes in it, for the next `create_snapshot` to keep."""
        del buffer, position
        raise self._no_snapshots()

    def pread_vm_state_into(self, buffer: memoryview, position: int) -> None:
        """Fill `buffer` from the machine state of the snapshot that was applied or selected; zero past its end."""
        del buffer, position
        raise self._no_snapshots()

    def _no_snapshots(self) -> ImageError:
        return ImageUnsupportedError(f"Image format '{self.format_name}' has no internal snapshots")

    def specific_info(self) -> Mapping[str, object] | None:
        """The `format-specific` `data` object of `qemu-img info --output json`, keys in qemu-img's order."""
        return None

    def map(self, start: int, length: int) -> Iterator[Extent]:
        """Consecutive runs over `[start, start + length)` through the chain, adjacent alike runs not merged."""
        for run in self.layer_extents(start, length):
            if run.state is not LayerState.UNALLOCATED:
                zero = run.zero or run.state is LayerState.ZERO
                yield Extent(
                    run.start, run.length, data=run.state is LayerState.DATA, zero=zero, present=True,
                    depth=0, offset=run.offset, filename=run.filename, compressed=run.compressed,
                )  # fmt: skip
                continue
            inside = 0
            if self.backing is not None:
                inside = max(0, min(run.length, self.backing.size_bytes - run.start))
            if self.backing is not None and inside:
                for below in self.backing.map(run.start, inside):
                    yield replace(below, depth=below.depth + 1)
            if inside < run.length:
                yield Extent(
                    run.start + inside, run.length - inside, data=False, zero=True, present=False, depth=0,
                    offset=None if run.offset is None else run.offset + inside, filename=run.filename,
                )  # fmt: skip

    def read_backing(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from the backing image; zero past its end or without one."""
        inside = 0
        if self.backing is not None:
            inside = max(0, min(len(buffer), self.backing.size_bytes - offset))
            if inside:
                self.backing.pread_into(buffer[:inside], offset)
        if inside < len(buffer):
            buffer[inside:] = bytes(len(buffer) - inside)

    def check_range(self, offset: int, length: int) -> None:
        """ImageError unless `[offset, offset + length)` lies inside the disk."""
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            msg = f"request at {offset:#x} of {length:#x} bytes is outside the image"
            raise ImageError(msg)

    def check_writable(self) -> None:
        """ImageReadonlyError when opened read-only."""
        if self.readonly:
            msg = "the image is open read-only"
            raise ImageReadonlyError(msg)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
