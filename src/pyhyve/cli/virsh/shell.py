"""The shell: a connection made when first needed, what is printed where, and how verbs fail."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from pyhyve.cli.virsh.output import table_lines
from pyhyve.client import Connection, Domain, LibvirtError, Network, StoragePool, StorageVolume, connect
from pyhyve.rpc.errors import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyhyve.cli.virsh.syntax import Values

__all__ = ["Shell", "VerbFailed"]

_UUID_LENGTH: Final = 36
_FILE_LIMIT: Final = 10 << 20
"""Bytes of an XML file at most."""


class VerbFailed(Exception):  # noqa: N818 - the end of a verb, already explained
    """A verb failed. Its messages are the ``error:`` lines still to be printed."""


class Shell:
    """What verbs work with."""

    def __init__(self, uri: str | None, *, read_only: bool = False, quiet: bool = False) -> None:
        self.uri = uri
        self.read_only = read_only
        self.quiet = quiet
        self.interactive = False
        self.ended = False
        self.escape = "^]"
        self._connection: Connection | None = None

    # -- printing -----------------------------------------------------------------------------------------------------

    def print(self, text: str = "") -> None:
        """Print a line."""
        sys.stdout.write(text + "\n")

    def write(self, text: str) -> None:
        """Print without ending the line."""
        sys.stdout.write(text)

    def say(self, text: str = "") -> None:
        """Print a line for people; not with --quiet."""
        if not self.quiet:
            self.print(text)

    def hint(self, text: str) -> None:
        """Print for people without ending the line; not with --quiet."""
        if not self.quiet:
            self.write(text)

    def error(self, text: str) -> None:
        """Print a line of what went wrong."""
        sys.stdout.flush()
        sys.stderr.write(f"error: {text}\n")
        sys.stderr.flush()

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table."""
        for line in table_lines(header, rows, bare=self.quiet):
            self.print(line)

    def fact(self, name: str, value: object, width: int = 15) -> None:
        """Print a named value."""
        self.print(f"{name:<{width}} {value}")

    # -- the connection -----------------------------------------------------------------------------------------------

    @property
    def connection(self) -> Connection:
        """The connection, made now if there is none. Raises VerbFailed."""
        if self._connection is None or not self._connection.is_alive():
            self._connection = self.open(self.uri, read_only=self.read_only)
        return self._connection

    def open(self, uri: str | None, *, read_only: bool) -> Connection:
        """Connect. Raises VerbFailed."""
        try:
            return connect(uri or default_uri(), read_only=read_only)
        except LibvirtError as error:
            msg = "failed to connect to the hypervisor"
            raise VerbFailed(msg, str(error)) from error

    def reconnect(self, uri: str | None, *, read_only: bool) -> None:
        """Connect to something else. Raises VerbFailed."""
        self.close()
        self.uri, self.read_only = uri, read_only
        self._connection = self.open(uri, read_only=read_only)

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def call(self, name: str, *values: object) -> Any:  # noqa: ANN401 - a record with the answer's fields
        """Call a procedure. Raises LibvirtError."""
        return self.connection.session.call(name, *values)

    @contextlib.contextmanager
    def failing(self, text: str) -> Iterator[None]:
        """Within, an error of the daemon is preceded by that line."""
        try:
            yield
        except LibvirtError as error:
            raise VerbFailed(text, str(error)) from error

    # -- objects by what a person calls them --------------------------------------------------------------------------

    def domain(self, values: Values, name: str = "domain") -> Domain:
        """The domain of that number, UUID or name. Raises VerbFailed."""
        return self.find_domain(values.text(name))

    def find_domain(self, text: str, *, by_name: bool = True) -> Domain:
        """The domain of that number, UUID or (unless told not to) name. Raises VerbFailed."""
        connection = self.connection
        if text.isascii() and text.isdigit() and int(text) < 1 << 31:
            with _absent():
                return connection.domain_by_id(int(text))
        if (uuid := _uuid(text)) is not None:
            with _absent():
                return connection.domain_by_uuid(uuid)
        msg = f"failed to get domain '{text}'"
        if not by_name:
            raise VerbFailed(msg)
        try:
            return connection.domain(text)
        except LibvirtError as error:
            raise VerbFailed(msg, *_reason(error, ErrorCode.NO_DOMAIN)) from error

    def network(self, values: Values, name: str = "network", *, by_name: bool = True) -> Network:
        """The network of that name or UUID. Raises VerbFailed."""
        return Network(self.connection.session, self._look_up("NETWORK", "network", values.text(name), by_name).net)

    def pool(self, values: Values, name: str = "pool", *, by_name: bool = True) -> StoragePool:
        """The pool of that name or UUID. Raises VerbFailed."""
        return self.find_pool(values.text(name), by_name=by_name)

    def find_pool(self, text: str, *, by_name: bool = True) -> StoragePool:
        """The pool of that name or UUID. Raises VerbFailed."""
        return StoragePool(self.connection.session, self._look_up("STORAGE_POOL", "pool", text, by_name).pool)

    def _look_up(self, prefix: str, kind: str, text: str, by_name: bool) -> Any:  # noqa: ANN401, FBT001 - a record
        if (uuid := _uuid(text)) is not None:
            with _absent():
                return self.call(f"{prefix}_LOOKUP_BY_UUID", uuid.bytes)
        msg = f"failed to get {kind} '{text}'"
        if not by_name:
            raise VerbFailed(msg)
        try:
            return self.call(f"{prefix}_LOOKUP_BY_NAME", text)
        except LibvirtError as error:
            raise VerbFailed(msg, *_reason(error)) from error

    def look_up_filter(self, text: str) -> Any:  # noqa: ANN401 - a record
        """The network filter of that UUID or name. Raises VerbFailed."""
        return self._look_up("NWFILTER", "nwfilter", text, True).nwfilter  # noqa: FBT003 - as the parameter says

    def volume(self, values: Values, name: str = "vol", pool: str = "pool") -> StorageVolume:
        """The volume of that name, key or path, in the pool given. Raises VerbFailed."""
        return self.find_volume(values.text(name), values.get(pool), pool)

    def find_volume(self, text: str, pool_name: str | None, option: str = "pool") -> StorageVolume:
        """The volume of that name (in a pool), key or path. Raises VerbFailed."""
        session = self.connection.session
        pool = None
        if pool_name is not None:
            pool = self.find_pool(pool_name)
            if not pool.is_active():
                msg = f"pool '{pool_name}' is not active"
                raise VerbFailed(msg)
            with _absent():
                return pool.volume(text)
        reason: tuple[str, ...] = ()
        for procedure in ("STORAGE_VOL_LOOKUP_BY_KEY", "STORAGE_VOL_LOOKUP_BY_PATH"):
            try:
                found = StorageVolume(session, self.call(procedure, text).vol)
            except LibvirtError as error:
                reason = _reason(error)
                continue
            if pool is not None and found.ref.pool != pool.name:
                msg = f"Requested volume '{text}' is not in pool '{pool.name}'"
                raise VerbFailed(msg)
            return found
        hint = f", specifying --{option} might help" if pool_name is None and option else ""
        msg = f"failed to get vol '{text}'{hint}"
        raise VerbFailed(msg, *reason)


def default_uri() -> str:
    """The URI when none is given: the environment's, else the system's for root and the session's for others."""
    for variable in ("VIRSH_DEFAULT_CONNECT_URI", "LIBVIRT_DEFAULT_URI"):
        if uri := os.environ.get(variable):
            return uri
    return "qemu:///system" if os.geteuid() == 0 else "qemu:///session"


def read_file(path: str) -> str:
    """The text of an XML file. Raises VerbFailed."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - the user's own spelling, /dev/stdin included
            content = file.read(_FILE_LIMIT + 1)
    except OSError as error:
        msg = f"Failed to open file '{path}': {error.strerror}"
        raise VerbFailed(msg) from error
    if len(content) > _FILE_LIMIT:
        msg = f"Failed to read file '{path}': Value too large for defined data type"
        raise VerbFailed(msg)
    return content.decode("utf-8", "replace")


def _uuid(text: str) -> UUID | None:
    if len(text) != _UUID_LENGTH:
        return None
    try:
        return UUID(text)
    except ValueError:
        return None


@contextlib.contextmanager
def _absent() -> Iterator[None]:
    """Within, an object that does not exist is no error."""
    with contextlib.suppress(LibvirtError):
        yield


def _reason(error: LibvirtError, *quiet: int) -> tuple[str, ...]:
    return () if error.code in quiet else (str(error),)
