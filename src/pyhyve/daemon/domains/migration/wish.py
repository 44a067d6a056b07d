"""What a client wants of a migration: flags and parameters, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains.faults import invalid, invalid_argument
from pyhyve.daemon.domains.migration.spec import (
    ALL_FLAGS,
    BANDWIDTH_MAX_MIB,
    COMPRESSION_METHODS,
    STORAGE,
    MigrateFlags,
)
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.rpc.values import ParamType, TypedParam

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["MigrationWish", "unsupported_argument", "wish_from_params"]


def unsupported_argument(detail: str) -> LibvirtError:
    """An option this side cannot serve."""
    return LibvirtError(ErrorCode.ARGUMENT_UNSUPPORTED, ErrorDomain.QEMU, detail)


@dataclass(frozen=True, slots=True)
class MigrationWish:
    """Everything a client said."""

    flags: MigrateFlags
    uri: str | None = None
    name: str | None = None
    """Name on the destination."""
    document: str | None = None
    persistent_document: str | None = None
    bandwidth_mib: int = 0
    listen: str | None = None
    disks: tuple[str, ...] = ()
    """Targets of the disks to copy; none: all that can be written."""
    disks_port: int = 0
    compression: tuple[str, ...] = ()
    numbers: tuple[tuple[str, int], ...] = ()
    """Parameters of QEMU's migration."""
    tls_destination: str | None = None

    def has(self, flag: MigrateFlags) -> bool:
        """Whether any of these flags is set."""
        return bool(self.flags & flag)

    @property
    def xbzrle(self) -> bool:
        """Whether pages are sent as differences."""
        return "xbzrle" in self.compression or (self.has(MigrateFlags.COMPRESSED) and not self.compression)

    @property
    def multi_threaded(self) -> bool:
        """Whether pages are compressed by threads."""
        return "mt" in self.compression


_TEXTS: Final = {
    "migrate_uri": "uri",
    "destination_name": "name",
    "destination_xml": "document",
    "persistent_xml": "persistent_document",
    "listen_address": "listen",
    "tls.destination": "tls_destination",
}
_NUMBERS: Final = {
    "compression.mt.level": "compress-level",
    "compression.mt.threads": "compress-threads",
    "compression.mt.dthreads": "decompress-threads",
    "compression.xbzrle.cache": "xbzrle-cache-size",
    "auto_converge.initial": "cpu-throttle-initial",
    "auto_converge.increment": "cpu-throttle-increment",
    "bandwidth.postcopy": "max-postcopy-bandwidth",
    "parallel.connections": "multifd-channels",
}
_IGNORED: Final = frozenset({"graphics_uri", "disks_uri"})
_TUNED_WITH: Final = (
    (("auto_converge.initial", "auto_converge.increment"), MigrateFlags.AUTO_CONVERGE, "auto convergence"),
    (("bandwidth.postcopy",), MigrateFlags.POSTCOPY, "post-copy migration"),
    (("parallel.connections",), MigrateFlags.PARALLEL, "parallel migration"),
    (("tls.destination",), MigrateFlags.TLS, "TLS"),
)


def wish_from_params(params: Iterable[TypedParam], flags: int, *, source: bool = True) -> MigrationWish:
    """Return what parameters and flags ask for. Raises LibvirtError.

    Clients do not tell destinations about slowing the guest down (``source``: they tell the source).
    """
    given: dict[str, Any] = {}
    disks: list[str] = []
    compression: list[str] = []
    numbers: dict[str, int] = {}
    names = set()
    for param in params:
        names.add(param.field)
        if param.field in _TEXTS:
            given[_TEXTS[param.field]] = str(param.value)
        elif param.field in _NUMBERS:
            numbers[_NUMBERS[param.field]] = int(param.value)
        elif param.field == "bandwidth":
            given["bandwidth_mib"] = int(param.value)
        elif param.field == "disks_port":
            given["disks_port"] = int(param.value)
        elif param.field == "migrate_disks":
            disks.append(str(param.value))
        elif param.field == "compression":
            compression.append(str(param.value))
        elif param.field not in _IGNORED:
            raise invalid_argument(f"parameter '{param.field}' not supported", ErrorDomain.NONE)
    if "max-postcopy-bandwidth" in numbers:
        numbers["max-postcopy-bandwidth"] <<= 20
    wish = MigrationWish(
        MigrateFlags(flags & ALL_FLAGS),
        disks=tuple(disks),
        compression=tuple(compression),
        numbers=tuple(numbers.items()),
        **given,
    )
    _check(wish, names, source=source)
    return wish


def _check(wish: MigrationWish, names: set[str], *, source: bool) -> None:
    flags = wish.flags
    if flags & STORAGE == STORAGE:
        text = "Flags 'VIR_MIGRATE_NON_SHARED_DISK' and 'VIR_MIGRATE_NON_SHARED_INC' are mutually exclusive"
        raise invalid_argument(text)
    if flags & MigrateFlags.OFFLINE:
        if flags & STORAGE:
            raise invalid("offline migration cannot handle non-shared storage")
        if not flags & MigrateFlags.PERSIST_DEST:
            raise invalid("offline migration must be specified with the persistent flag set")
        if flags & MigrateFlags.TUNNELLED:
            raise invalid("tunnelled offline migration does not make sense")
    if flags & MigrateFlags.TUNNELLED:
        for flag, what in (
            (MigrateFlags.POSTCOPY, "post-copy"),
            (MigrateFlags.PARALLEL, "parallel migration"),
            (MigrateFlags.TLS, "TLS"),
        ):
            if flags & flag:
                raise unsupported_argument(f"{what} is not supported with tunnelled migration")
        if flags & STORAGE:
            raise unsupported_argument("migration of non-shared storage is not supported with tunnelled migration")
    for method in wish.compression:
        if method not in COMPRESSION_METHODS:
            raise invalid_argument(f"Unsupported compression method '{method}'")
    for parameters, flag, what in _TUNED_WITH:
        if names & set(parameters) and not flags & flag and (source or flag is not MigrateFlags.AUTO_CONVERGE):
            raise invalid_argument(f"Turn {what} on to tune it")
    if wish.bandwidth_mib > BANDWIDTH_MAX_MIB:
        detail = f"bandwidth must be less than {BANDWIDTH_MAX_MIB + 1}"
        raise LibvirtError(ErrorCode.OVERFLOW, ErrorDomain.QEMU, detail)
    if flags & MigrateFlags.ZEROCOPY:
        raise unsupported_argument("zero-copy is not supported")
    if flags & MigrateFlags.POSTCOPY_RESUME:
        raise unsupported_argument("resuming a failed post-copy migration is not supported")


def onward(params: Sequence[TypedParam], **changes: str | int | None) -> list[TypedParam]:
    """Return parameters with some of the texts and numbers replaced, as the next step is given them."""
    kept = [param for param in params if param.field not in changes]
    for name, value in changes.items():
        if isinstance(value, str):
            kept.append(TypedParam(name, ParamType.STRING, value))
        elif value is not None:
            kept.append(TypedParam(name, ParamType.ULLONG, value))
    return kept
