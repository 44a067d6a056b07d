"""On-disk structures of qcow2, named as in the specification (QEMU docs/interop/qcow2.rst). No I/O here."""

from __future__ import annotations

import struct

from pyhyve.image.contract import ImageFormatError, ImageUnsupportedError, SnapshotInfo
from pyhyve.support.enums import IntEnum
from pyhyve.support.records import dataclass, replace

MAGIC = b"QFI\xfb"
V2_HEADER_LENGTH = 72
V3_HEADER_LENGTH = 104
NEW_HEADER_LENGTH = 112
MIN_CLUSTER_BITS = 9
MAX_CLUSTER_BITS = 21
MAX_L1_SIZE_BYTES = 32 * 1024 * 1024
MAX_REFCOUNT_TABLE_SIZE_BYTES = 8 * 1024 * 1024
MAX_SNAPSHOTS = 65536
MAX_SNAPSHOT_TABLE_SIZE_BYTES = 64 * 1024 * 1024
MAX_SNAPSHOT_EXTRA_DATA_BYTES = 1024
MAX_BITMAPS = 65535
MAX_BITMAP_DIRECTORY_SIZE_BYTES = 64 * 1024 * 1024
MAX_BACKING_NAME_BYTES = 1023
MAX_EXTENSION_STRING_BYTES = 4096
SUBCLUSTERS_PER_CLUSTER = 32

OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
L1_RESERVED_MASK = 0x7F00_0000_0000_01FF
L2_RESERVED_MASK = 0x3F00_0000_0000_01FE
REFTABLE_OFFSET_MASK = 0xFFFF_FFFF_FFFF_FE00
OFLAG_COPIED = 1 << 63
OFLAG_COMPRESSED = 1 << 62
OFLAG_ZERO = 1
ALL_SUBCLUSTERS = 0xFFFF_FFFF
ALL_ZERO_SUBCLUSTERS = 0xFFFF_FFFF << 32


class Incompatible:
    """incompatible_features. Flags here are plain numbers: to combine members of an IntFlag takes a microsecond."""

    DIRTY = 1
    CORRUPT = 2
    DATA_FILE = 4
    COMPRESSION_TYPE = 8
    EXTENDED_L2 = 16


KNOWN_INCOMPATIBLE = 31


class Compatible:
    """compatible_features."""

    LAZY_REFCOUNTS = 1


class Autoclear:
    """autoclear_features."""

    BITMAPS = 1
    RAW_EXTERNAL_DATA = 2


class ExtensionType(IntEnum):
    """Header extension types."""

    END = 0
    BACKING_FORMAT = 0xE2792ACA
    FEATURE_NAME_TABLE = 0x6803F857
    BITMAPS = 0x23852875
    CRYPTO_HEADER = 0x0537BE77
    DATA_FILE = 0x44415441


class CompressionType(IntEnum):
    """compression_type."""

    ZLIB = 0
    ZSTD = 1


class RunKind:
    """State of a run of guest bytes in the tables; plain numbers for the same reason."""

    UNALLOCATED = 0
    ZERO = 1
    DATA = 2
    COMPRESSED = 3


CRYPT_NAMES = {0: "none", 1: "aes", 2: "luks"}
FEATURE_NAMES: tuple[tuple[int, int, bytes], ...] = (
    (0, 0, b"dirty bit"),
    (0, 1, b"corrupt bit"),
    (0, 2, b"external data file"),
    (0, 3, b"compression type"),
    (0, 4, b"extended L2 entries"),
    (1, 0, b"lazy refcounts"),
    (2, 0, b"bitmaps"),
    (2, 1, b"raw external data"),
)

_HEADER_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_HEADER_V3 = struct.Struct(">QQQII")
_EXTENSION = struct.Struct(">II")
_BITMAPS_EXTENSION = struct.Struct(">IIQQ")
_SNAPSHOT = struct.Struct(">QIHHIIQII")
_BITMAP_ENTRY = struct.Struct(">QIIBBHI")

# Where single header fields live, for atomic in-place updates.
L1_FIELDS_OFFSET = 36  # l1_size (4), l1_table_offset (8)
SIZE_OFFSET = 24
REFTABLE_FIELDS_OFFSET = 48  # refcount_table_offset (8), refcount_table_clusters (4)
SNAPSHOT_FIELDS_OFFSET = 60  # nb_snapshots (4), snapshots_offset (8)
INCOMPATIBLE_OFFSET = 72
AUTOCLEAR_OFFSET = 88


@dataclass(frozen=True, slots=True)
class BitmapsExtension:
    """The bitmaps header extension."""

    nb_bitmaps: int
    bitmap_directory_size: int
    bitmap_directory_offset: int


@dataclass(frozen=True, slots=True)
class Header:
    """The header with its extensions; `unknown_extensions` are kept when the header is rewritten."""

    version: int
    cluster_bits: int
    size: int
    l1_size: int
    l1_table_offset: int
    refcount_table_offset: int
    refcount_table_clusters: int
    nb_snapshots: int = 0
    snapshots_offset: int = 0
    crypt_method: int = 0
    incompatible_features: int = 0
    compatible_features: int = 0
    autoclear_features: int = 0
    refcount_order: int = 4
    header_length: int = NEW_HEADER_LENGTH
    compression_type: int = 0
    extra_fields: bytes = b""
    backing_file: str | None = None
    backing_format: str | None = None
    data_file: str | None = None
    bitmaps: BitmapsExtension | None = None
    feature_name_table: bool = True
    unknown_extensions: tuple[tuple[int, bytes], ...] = ()

    @property
    def cluster_size(self) -> int:
        """Bytes per cluster."""
        return 1 << self.cluster_bits

    @property
    def extended_l2(self) -> bool:
        """Whether L2 entries have subcluster bitmaps."""
        return bool(self.incompatible_features & Incompatible.EXTENDED_L2)

    @property
    def has_data_file(self) -> bool:
        """Whether guest clusters live in another file."""
        return bool(self.incompatible_features & Incompatible.DATA_FILE)

    @property
    def l2_entries(self) -> int:
        """Entries per L2 table."""
        return self.cluster_size // (16 if self.extended_l2 else 8)

    @property
    def l1_entries_needed(self) -> int:
        """L1 entries that cover `size`."""
        covered = self.cluster_size * self.l2_entries
        return -(-self.size // covered)

    @property
    def vm_state_offset(self) -> int:
        """Where a machine state starts in the space that the L1 table maps: behind the disk."""
        return self.l1_entries_needed * self.cluster_size * self.l2_entries


def parse_header(data: bytes, file_size: int) -> Header:
    """Parse and bound the header; `data` is the start of the file (at least the first cluster, if there is one).

    Raises ImageFormatError for contradictions, ImageUnsupportedError for encryption and unknown features.
    """
    if len(data) < V2_HEADER_LENGTH or data[:4] != MAGIC:
        msg = "Image is not in qcow2 format"
        raise ImageFormatError(msg)
    (
        _magic, version, backing_offset, backing_size, cluster_bits, size, crypt, l1_size, l1_offset, reftable_offset,
        reftable_clusters, nb_snapshots, snapshots_offset,
    ) = _HEADER_V2.unpack_from(data)  # fmt: skip
    if version not in {2, 3}:
        msg = f"Unsupported qcow2 version {version}"
        raise ImageUnsupportedError(msg)
    if not MIN_CLUSTER_BITS <= cluster_bits <= MAX_CLUSTER_BITS:
        msg = f"Unsupported cluster size: 2^{cluster_bits}"
        raise ImageFormatError(msg)
    incompatible = compatible = autoclear = compression = 0
    order, header_length, extra = 4, V2_HEADER_LENGTH, b""
    if version == 3:
        if len(data) < V3_HEADER_LENGTH:
            msg = "qcow2 header too short"
            raise ImageFormatError(msg)
        incompatible, compatible, autoclear, order, header_length = _HEADER_V3.unpack_from(data, V2_HEADER_LENGTH)
        if header_length < V3_HEADER_LENGTH:
            msg = "qcow2 header too short"
            raise ImageFormatError(msg)
        if header_length > 1 << cluster_bits or header_length % 8 or header_length > len(data):
            msg = "qcow2 header exceeds cluster size"
            raise ImageFormatError(msg)
        if header_length > V3_HEADER_LENGTH:
            compression = data[V3_HEADER_LENGTH]
            extra = data[V3_HEADER_LENGTH + 1 : header_length].rstrip(b"\0")
    header = Header(
        version, cluster_bits, size, l1_size, l1_offset, reftable_offset, reftable_clusters, nb_snapshots,
        snapshots_offset, crypt, incompatible, compatible, autoclear, order, header_length, compression, extra,
        feature_name_table=False,
    )  # fmt: skip
    header = _parse_extensions(header, data, backing_offset or len(data), incompatible)
    _check_features(header)
    if backing_offset:
        if backing_size > min(MAX_BACKING_NAME_BYTES, (1 << cluster_bits) - header_length):
            msg = "Backing file name too long"
            raise ImageFormatError(msg)
        if backing_offset + backing_size > min(1 << cluster_bits, len(data)):
            msg = "Invalid backing file offset"
            raise ImageFormatError(msg)
        name = data[backing_offset : backing_offset + backing_size].decode("utf-8", "surrogateescape")
        header = replace(header, backing_file=name or None)
    _check_bounds(header, file_size)
    return header


def _parse_extensions(header: Header, data: bytes, end: int, incompatible: int) -> Header:
    offset = header.header_length
    end = min(end, header.cluster_size, len(data))
    unknown: list[tuple[int, bytes]] = []
    found: dict[str, object] = {}  # all at once below: a copy of the header for each would be felt in long chains
    while offset + _EXTENSION.size <= end:
        kind, length = _EXTENSION.unpack_from(data, offset)
        offset += _EXTENSION.size
        if kind == ExtensionType.END:
            break
        if length > end - offset:
            msg = "Header extension too large"
            raise ImageFormatError(msg)
        body = data[offset : offset + length]
        offset += (length + 7) & ~7
        if kind == ExtensionType.BACKING_FORMAT:
            if length > 15:
                msg = f"backing file format name too long ({length} bytes)"
                raise ImageFormatError(msg)
            found["backing_format"] = body.decode("utf-8", "surrogateescape") or None
        elif kind == ExtensionType.FEATURE_NAME_TABLE:
            found["feature_name_table"] = True
            _refuse_unknown(incompatible, body)
        elif kind == ExtensionType.DATA_FILE:
            if length > MAX_EXTENSION_STRING_BYTES:
                msg = "external data file name too long"
                raise ImageFormatError(msg)
            found["data_file"] = body.decode("utf-8", "surrogateescape") or None
        elif kind == ExtensionType.BITMAPS:
            if length != _BITMAPS_EXTENSION.size:
                msg = "bitmaps_ext: Invalid extension length"
                raise ImageFormatError(msg)
            count, reserved, size, where = _BITMAPS_EXTENSION.unpack(body)
            if header.autoclear_features & Autoclear.BITMAPS:
                if reserved or not 1 <= count <= MAX_BITMAPS:
                    msg = "bitmaps_ext: invalid number of bitmaps or reserved field"
                    raise ImageFormatError(msg)
                if where % header.cluster_size or not where or size > MAX_BITMAP_DIRECTORY_SIZE_BYTES:
                    msg = "bitmaps_ext: invalid bitmap directory offset or size"
                    raise ImageFormatError(msg)
                found["bitmaps"] = BitmapsExtension(count, size, where)
        elif kind != ExtensionType.CRYPTO_HEADER:
            unknown.append((kind, body))
    if unknown:
        found["unknown_extensions"] = tuple(unknown)
    return replace(header, **found) if found else header  # type: ignore[arg-type]  # each is what its field wants


def _refuse_unknown(incompatible: int, table: bytes = b"") -> None:
    unknown = incompatible & ~KNOWN_INCOMPATIBLE
    if not unknown:
        return
    names = []
    for at in range(0, len(table) - 47, 48):
        kind, bit = table[at], table[at + 1]
        if kind == 0 and bit < 64 and unknown >> bit & 1:
            unknown &= ~(1 << bit)
            names.append(table[at + 2 : at + 48].rstrip(b"\0").decode("utf-8", "replace"))
    if unknown:
        names.append(f"Unknown incompatible feature: {unknown:x}")
    msg = f"Unsupported qcow2 feature(s): {', '.join(names)}"
    raise ImageUnsupportedError(msg)


def _check_features(header: Header) -> None:
    _refuse_unknown(header.incompatible_features)
    if header.crypt_method:
        name = CRYPT_NAMES.get(header.crypt_method)
        msg = f"qcow2 encryption ({name or header.crypt_method}) is not supported"
        raise ImageUnsupportedError(msg)
    if header.refcount_order > 6:
        msg = "Reference count entry width too large; may not exceed 64 bits"
        raise ImageFormatError(msg)
    has_type = bool(header.incompatible_features & Incompatible.COMPRESSION_TYPE)
    if has_type != (header.compression_type != 0):
        msg = "qcow2: Compression type incompatible feature bit must be set if and only if the type is not zlib"
        raise ImageFormatError(msg)
    if header.compression_type not in {CompressionType.ZLIB, CompressionType.ZSTD}:
        msg = f"qcow2: unknown compression type: {header.compression_type}"
        raise ImageUnsupportedError(msg)
    if header.extended_l2 and header.cluster_bits < 14:
        msg = "extended L2 entries need clusters of at least 16 KiB"
        raise ImageFormatError(msg)
    if header.autoclear_features & Autoclear.RAW_EXTERNAL_DATA and not header.has_data_file:
        msg = "the raw external data bit is set without an external data file"
        raise ImageFormatError(msg)


def _check_bounds(header: Header, file_size: int) -> None:
    cluster = header.cluster_size
    if header.size >= 1 << 63:
        msg = "Image size is too big"
        raise ImageFormatError(msg)
    table_bytes = header.refcount_table_clusters * cluster
    if table_bytes > MAX_REFCOUNT_TABLE_SIZE_BYTES:
        msg = "Reference count table too large"
        raise ImageFormatError(msg)
    if not header.refcount_table_clusters:
        msg = "Image does not contain a reference count table"
        raise ImageFormatError(msg)
    _check_table("Reference count table", header.refcount_table_offset, table_bytes, cluster)
    if header.l1_size * 8 > MAX_L1_SIZE_BYTES:
        msg = "Active L1 table too large"
        raise ImageFormatError(msg)
    if header.l1_entries_needed * 8 > MAX_L1_SIZE_BYTES:
        msg = "Image is too big"
        raise ImageFormatError(msg)
    if header.l1_size < header.l1_entries_needed:
        msg = "L1 table is too small"
        raise ImageFormatError(msg)
    _check_table("Active L1 table", header.l1_table_offset, header.l1_size * 8, cluster)
    if header.l1_table_offset + header.l1_size * 8 > max(file_size, cluster) + cluster:
        msg = "Active L1 table is outside the file"
        raise ImageFormatError(msg)
    if header.nb_snapshots > MAX_SNAPSHOTS:
        msg = "Snapshot table too large"
        raise ImageFormatError(msg)
    if header.nb_snapshots:
        _check_table("Snapshot table", header.snapshots_offset, 1, cluster)


def _check_table(name: str, offset: int, length: int, cluster: int) -> None:
    if offset % cluster or (not offset and length) or offset + length >= 1 << 63:
        msg = f"{name} offset invalid"
        raise ImageFormatError(msg)


def build_header(header: Header) -> bytes:
    """The header, its extensions and the backing file name; ImageFormatError when they do not fit in a cluster."""
    backing = (header.backing_file or "").encode("utf-8", "surrogateescape")
    extensions: list[tuple[int, bytes]] = []
    if header.backing_format and header.backing_file:
        extensions.append((ExtensionType.BACKING_FORMAT, header.backing_format.encode("utf-8", "surrogateescape")))
    if header.data_file and header.has_data_file:
        extensions.append((ExtensionType.DATA_FILE, header.data_file.encode("utf-8", "surrogateescape")))
    if header.version >= 3 and header.feature_name_table:
        table = b"".join(bytes((kind, bit)) + name.ljust(46, b"\0") for kind, bit, name in FEATURE_NAMES)
        extensions.append((ExtensionType.FEATURE_NAME_TABLE, table))
    if header.bitmaps is not None:
        fields = header.bitmaps
        body = _BITMAPS_EXTENSION.pack(
            fields.nb_bitmaps, 0, fields.bitmap_directory_size, fields.bitmap_directory_offset
        )
        extensions.append((ExtensionType.BITMAPS, body))
    extensions.extend(header.unknown_extensions)
    length = V2_HEADER_LENGTH if header.version == 2 else max(header.header_length, NEW_HEADER_LENGTH)
    tail = bytearray()
    for kind, body in extensions:
        tail += _EXTENSION.pack(kind, len(body)) + body + bytes(-len(body) % 8)
    tail += _EXTENSION.pack(ExtensionType.END, 0)
    backing_offset = length + len(tail) if backing else 0
    fixed = _HEADER_V2.pack(
        MAGIC, header.version, backing_offset, len(backing), header.cluster_bits, header.size, header.crypt_method,
        header.l1_size, header.l1_table_offset, header.refcount_table_offset, header.refcount_table_clusters,
        header.nb_snapshots, header.snapshots_offset,
    )  # fmt: skip
    if header.version >= 3:
        fixed += _HEADER_V3.pack(
            header.incompatible_features, header.compatible_features, header.autoclear_features,
            header.refcount_order, length,
        )  # fmt: skip
        fixed += bytes((header.compression_type,)) + header.extra_fields
        fixed = fixed.ljust(length, b"\0")
    whole = fixed + bytes(tail) + backing
    if len(whole) > header.cluster_size or len(backing) > MAX_BACKING_NAME_BYTES:
        msg = "Header, extensions and backing file name do not fit in the first cluster"
        raise ImageFormatError(msg)
    return whole


@dataclass(frozen=True, slots=True)
class SnapshotEntry:
    """One entry of the snapshot table."""

    l1_table_offset: int
    l1_size: int
    id: str
    name: str
    date_s: int
    date_ns: int
    vm_clock_ns: int
    vm_state_size: int
    disk_size: int
    icount: int | None
    extra_data: bytes = b""

    def info(self) -> SnapshotInfo:
        """As the contract describes snapshots."""
        return SnapshotInfo(
            self.id, self.name, self.vm_state_size, self.date_s, self.date_ns, self.vm_clock_ns, self.icount,
            self.disk_size,
        )  # fmt: skip


def parse_snapshot_table(data: bytes, count: int, disk_size: int) -> tuple[SnapshotEntry, ...]:
    """Entries from the table's bytes; `disk_size` stands in for entries without one."""
    entries: list[SnapshotEntry] = []
    offset = 0
    for _ in range(count):
        offset = (offset + 7) & ~7
        if offset + _SNAPSHOT.size > len(data):
            msg = "Snapshot table is truncated or too large"
            raise ImageFormatError(msg)
        l1_offset, l1_size, id_size, name_size, date_s, date_ns, clock, vm_state, extra_size = _SNAPSHOT.unpack_from(
            data, offset
        )
        offset += _SNAPSHOT.size
        if extra_size > MAX_SNAPSHOT_EXTRA_DATA_BYTES:
            msg = "Too much extra metadata in a snapshot table entry"
            raise ImageFormatError(msg)
        if offset + extra_size + id_size + name_size > len(data):
            msg = "Snapshot table is truncated or too large"
            raise ImageFormatError(msg)
        extra = data[offset : offset + extra_size]
        offset += extra_size
        if extra_size >= 8:
            vm_state = int.from_bytes(extra[:8], "big")
        size = int.from_bytes(extra[8:16], "big") if extra_size >= 16 else disk_size
        icount = int.from_bytes(extra[16:24], "big") if extra_size >= 24 else None
        id_text = data[offset : offset + id_size].decode("utf-8", "surrogateescape")
        offset += id_size
        name = data[offset : offset + name_size].decode("utf-8", "surrogateescape")
        offset += name_size
        if l1_size * 8 > MAX_L1_SIZE_BYTES or size >= 1 << 63:
            msg = f"Snapshot '{id_text}': L1 table or disk size too large"
            raise ImageFormatError(msg)
        entries.append(
            SnapshotEntry(l1_offset, l1_size, id_text, name, date_s, date_ns, clock, vm_state, size, icount, extra[24:])
        )
    return tuple(entries)


def build_snapshot_table(entries: tuple[SnapshotEntry, ...]) -> bytes:
    """The bytes of a snapshot table."""
    table = bytearray()
    for entry in entries:
        table += bytes(-len(table) % 8)
        extra = entry.vm_state_size.to_bytes(8, "big") + entry.disk_size.to_bytes(8, "big")
        extra += (entry.icount if entry.icount is not None else (1 << 64) - 1).to_bytes(8, "big") + entry.extra_data
        id_bytes = entry.id.encode("utf-8", "surrogateescape")
        name = entry.name.encode("utf-8", "surrogateescape")
        table += _SNAPSHOT.pack(
            entry.l1_table_offset, entry.l1_size, len(id_bytes), len(name), entry.date_s, entry.date_ns,
            entry.vm_clock_ns, min(entry.vm_state_size, 0xFFFF_FFFF), len(extra),
        )  # fmt: skip
        table += extra + id_bytes + name
    return bytes(table)


class BitmapFlag:
    """Flags of a bitmap directory entry."""

    IN_USE = 1
    AUTO = 2
    EXTRA_DATA_COMPATIBLE = 4


@dataclass(frozen=True, slots=True)
class BitmapEntry:
    """One entry of the bitmap directory."""

    bitmap_table_offset: int
    bitmap_table_size: int
    flags: int
    type: int
    granularity_bits: int
    name: str
    extra_data: bytes


def parse_bitmap_directory(data: bytes, extension: BitmapsExtension) -> tuple[BitmapEntry, ...]:
    """Entries of the bitmap directory, bounded by its size."""
    entries: list[BitmapEntry] = []
    offset = 0
    for _ in range(extension.nb_bitmaps):
        if offset + _BITMAP_ENTRY.size > len(data):
            msg = "Bitmap directory is truncated"
            raise ImageFormatError(msg)
        where, count, flags, kind, granularity, name_size, extra_size = _BITMAP_ENTRY.unpack_from(data, offset)
        start = offset + _BITMAP_ENTRY.size
        end = start + extra_size + name_size
        if end > len(data) or count * 8 > MAX_L1_SIZE_BYTES or not 9 <= granularity <= 31:
            msg = "Bitmap directory entry is invalid"
            raise ImageFormatError(msg)
        name = data[start + extra_size : end].decode("utf-8", "surrogateescape")
        entries.append(BitmapEntry(where, count, flags, kind, granularity, name, data[start : start + extra_size]))
        offset = (end + 7) & ~7
    return tuple(entries)


def build_bitmap_directory(entries: tuple[BitmapEntry, ...]) -> bytes:
    """The bytes of a bitmap directory."""
    data = bytearray()
    for entry in entries:
        name = entry.name.encode("utf-8", "surrogateescape")
        data += _BITMAP_ENTRY.pack(
            entry.bitmap_table_offset, entry.bitmap_table_size, entry.flags, entry.type, entry.granularity_bits,
            len(name), len(entry.extra_data),
        )  # fmt: skip
        data += entry.extra_data + name
        data += bytes(-len(data) % 8)
    return bytes(data)
