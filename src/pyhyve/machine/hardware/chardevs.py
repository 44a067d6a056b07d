"""Character devices by name: `-chardev`, `chardev-add` and their like."""

from __future__ import annotations

import os

from pyhyve.backends.chardev import ChardevError, NullChardev
from pyhyve.backends.chardev_descriptors import (
    LoggedChardev,
    PtyChardev,
    RingChardev,
    StreamChardev,
    SwitchedChardev,
)
from pyhyve.backends.chardev_stdio import StdioChardev
from pyhyve.machine.block.errors import ChangeError
from pyhyve.machine.identifiers import is_identifier
from pyhyve.support.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from pyhyve.backends.chardev import Chardev
    from pyhyve.backends.chardev_mux import MuxChardev
    from pyhyve.machine.hardware.descriptors import Descriptors

KINDS = ("null", "file", "pipe", "pty", "ringbuf", "socket", "stdio")
DEFAULT_RING_BYTES = 65536


@dataclass(slots=True, eq=False)
class NamedChardev:
    """A character device with a name. `user` says what uses it."""

    label: str
    kind: str
    chardev: SwitchedChardev
    description: str
    user: str = ""
    options: Mapping[str, Any] | None = None
    """The `ChardevBackend` it was opened with; None when it was opened elsewhere."""
    mux: MuxChardev | None = None
    """What shares it between a device and a monitor."""
    guest_opened: Callable[[], bool] | None = None
    """Whether a program in the guest has it open, for a device where that can be told."""

    @property
    def is_open(self) -> bool:
        """Whether a device, and where it can be told its guest, uses it (`frontend-open`)."""
        return bool(self.user) and (self.guest_opened is None or self.guest_opened())


class ChardevSet:
    """All named character devices of one machine."""

    def __init__(self, descriptors: Descriptors, quit_requested: Callable[[], None]) -> None:
        """`quit_requested` is called when people leave through the terminal (Ctrl-A x)."""
        self._descriptors = descriptors
        self._quit_requested = quit_requested
        self._entries: dict[str, NamedChardev] = {}

    def __iter__(self) -> Iterator[NamedChardev]:
        return iter(list(self._entries.values()))

    def find(self, label: str) -> NamedChardev | None:
        """The device called `label`."""
        return self._entries.get(label)

    def need(self, label: str) -> NamedChardev:
        """The device called `label`. Raises ChangeError."""
        entry = self._entries.get(label)
        if entry is None:
            msg = f"Chardev '{label}' not found"
            raise ChangeError(msg)
        return entry

    def add(self, label: str, backend: Mapping[str, Any], *, is_shared: bool = False) -> NamedChardev:
        """Open the device that `backend` (a checked `ChardevBackend`) describes. Raises ChangeError.

        `is_shared`: a monitor can use it beside a device.
        """
        if not is_identifier(label):
            msg = "Parameter 'id' expects an identifier"
            raise ChangeError(msg)
        if label in self._entries:
            msg = f"Chardev with id '{label}' already exists"
            raise ChangeError(msg)
        chardev, description = self.open(label, backend, has_escapes=not is_shared)
        mux = None
        if is_shared:
            from pyhyve.backends.chardev_mux import MuxChardev  # noqa: PLC0415 - few machines have one

            chardev = mux = MuxChardev(chardev, self._quit_requested)
        entry = NamedChardev(
            label, str(backend["type"]), SwitchedChardev(chardev), description, options=backend, mux=mux
        )
        self._entries[label] = entry
        return entry

    def adopt(self, label: str, kind: str, chardev: Chardev, description: str) -> NamedChardev:
        """Name a device that is open already."""
        entry = NamedChardev(label, kind, SwitchedChardev(chardev), description)
        self._entries[label] = entry
        return entry

    def change(self, label: str, backend: Mapping[str, Any]) -> NamedChardev:
        """Put another device behind a name that is in use. Raises ChangeError."""
        entry = self._entries.get(label)
        if entry is None:
            msg = f"Chardev '{label}' does not exist"
            raise ChangeError(msg)
        if entry.mux is not None:
            msg = "Mux device hotswap not supported yet"
            raise ChangeError(msg)
        chardev, description = self.open(label, backend)
        entry.chardev.switch(chardev)
        entry.kind, entry.description, entry.options = str(backend["type"]), description, backend
        return entry

    def remove(self, label: str) -> None:
        """Close it. Raises ChangeError while a device uses it."""
        entry = self.need(label)
        if entry.user:
            msg = f"Chardev '{label}' is busy"
            raise ChangeError(msg)
        del self._entries[label]
        entry.chardev.release()

    def claim(self, label: str, user: str) -> NamedChardev:
        """Have `user` use it. Raises ChangeError when it does not exist or is taken."""
        entry = self._entries.get(label)
        if entry is None:
            msg = f"Property '{user}.chardev' can't find value '{label}'"
            raise ChangeError(msg)
        if entry.user:
            msg = f"Property '{user}.chardev' can't take value '{label}', it's in use"
            raise ChangeError(msg)
        entry.user = user
        return entry

    def release(self, label: str) -> None:
        """Nobody uses it any more."""
        entry = self._entries.get(label)
        if entry is not None:
            entry.user, entry.guest_opened = "", None
            entry.chardev.close()

    def close(self) -> None:
        """Close all."""
        for entry in self._entries.values():
            entry.chardev.release()
        self._entries.clear()

    # -- opening ------------------------------------------------------------------------------------------------------

    def open(self, label: str, backend: Mapping[str, Any], *, has_escapes: bool = True) -> tuple[Chardev, str]:
        """A device and what a monitor shows of it; `has_escapes`: a terminal's Ctrl-A. Raises ChangeError."""
        data: Mapping[str, Any] = backend.get("data", {})
        try:
            chardev, description = self._open(label, str(backend["type"]), data, has_escapes=has_escapes)
            if "logfile" in data:
                flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if data.get("logappend") else os.O_TRUNC)
                try:
                    chardev = LoggedChardev(chardev, self._open_file(str(data["logfile"]), flags))
                except BaseException:
                    chardev.close()
                    raise
        except ChardevError as error:
            raise ChangeError(str(error)) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            where = f"Could not open '{error.filename}': " if isinstance(error, OSError) and error.filename else ""
            msg = f"Failed to add chardev '{label}': {where}{reason}"
            raise ChangeError(msg) from error
        return chardev, description

    def _open(self, label: str, kind: str, data: Mapping[str, Any], *, has_escapes: bool) -> tuple[Chardev, str]:
        match kind:
            case "stdio":
                return StdioChardev(self._quit_requested, has_escapes=has_escapes), "stdio"
            case "null":
                return NullChardev(), "null"
            case "pty":
                pty = PtyChardev()
                return pty, f"pty:{pty.name}"
            case "ringbuf":
                return RingChardev(int(data.get("size", DEFAULT_RING_BYTES))), "ringbuf"
            case "file":
                flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if data.get("append") else os.O_TRUNC)
                source = self._open_file(str(data["in"]), os.O_RDONLY | os.O_NONBLOCK) if "in" in data else None
                try:
                    return StreamChardev(self._open_file(str(data["out"]), flags), source), "file"
                except BaseException:
                    if source is not None:
                        os.close(source)
                    raise
            case "pipe":
                return self._open_pipe(str(data["device"])), "pipe"
            case "socket":
                return self._open_socket(label, data)
            case _:
                msg = f"'{kind}' is not a valid char driver name"
                raise ChangeError(msg)

    def _open_file(self, path: str, flags: int) -> int:
        """Open a path; `/dev/fdset/N` is a descriptor that was passed."""
        fd = self._descriptors.open_set(path, flags)
        if fd is not None:
            return fd
        return os.open(path, flags | os.O_CLOEXEC, 0o666)

    @staticmethod
    def _open_pipe(device: str) -> StreamChardev:
        """Two named pipes, `.in` and `.out`, or one for both."""
        if os.path.exists(f"{device}.in") and os.path.exists(f"{device}.out"):  # noqa: PTH110 - start-up has no pathlib
            source = os.open(f"{device}.in", os.O_RDWR | os.O_CLOEXEC)
            return StreamChardev(os.open(f"{device}.out", os.O_RDWR | os.O_CLOEXEC), source)
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        return StreamChardev(fd, os.dup(fd))

    def _open_socket(self, label: str, data: Mapping[str, Any]) -> tuple[Chardev, str]:
        is_server = bool(data.get("server", True))
        if is_server and data.get("wait", False):
            msg = f"chardev {label}: waiting for a client is not supported: add wait=off"
            raise ChangeError(msg)
        address = flat_address(data["addr"])
        from pyhyve.machine.hardware import chardev_sockets as sockets  # noqa: PLC0415 - few have one

        match address["type"]:
            case "fd":
                name = str(address["str"])
                return sockets.take_over(self._descriptors.take(name), name, is_server=is_server)
            case "unix":
                path = str(address["path"])
                return sockets.listen_unix(path) if is_server else sockets.connect_unix(path)
            case "inet":
                host, port = str(address["host"]), str(address["port"])
                return sockets.open_tcp(host, port, is_server=is_server)
            case kind:
                msg = f"chardev {label}: sockets of type {kind} are not supported (use unix, inet or fd)"
                raise ChangeError(msg)


def flat_address(address: Mapping[str, Any]) -> Mapping[str, Any]:
    """`SocketAddressLegacy` (members under `data`) as a `SocketAddress`; that passes as it is."""
    data = address.get("data")
    return {"type": address["type"], **data} if isinstance(data, dict) else address
