"""User-creatable objects: `-object`, `object-add` and `object-del`."""

from __future__ import annotations

import base64
import binascii
import os
import string
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyhyve.backends.ioloop import IoLoop
from pyhyve.machine.block.errors import ChangeError, ChangeKind
from pyhyve.machine.identifiers import is_identifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MEMORY_BACKENDS = ("memory-backend-ram", "memory-backend-memfd", "memory-backend-file")
RNG_BACKENDS = ("rng-builtin", "rng-random")
KINDS = ("iothread", *MEMORY_BACKENDS, *RNG_BACKENDS, "secret")
_MAX_SECRET_BYTES = 1 << 16
_BASE64 = (string.ascii_letters + string.digits + "+/=\n").encode()
_NUMA = ("host-nodes", "policy")


@dataclass(slots=True, eq=False)
class UserObject:
    """An object; `users` says what needs it.

    `value` is what it is for: a secret's bytes, a source of randomness, a thread's loop.
    """

    kind: str
    name: str
    options: Mapping[str, Any]
    value: Any = None
    fd: int = -1
    users: list[str] = field(default_factory=list)

    @property
    def path(self) -> str:
        """Its place in the QOM tree."""
        return f"/objects/{self.name}"

    def close(self) -> None:
        """Close what it holds; nothing uses it any more."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        if isinstance(self.value, IoLoop):
            self.value.stop()


class ObjectSet:
    """All objects of one machine."""

    def __init__(self) -> None:
        self._objects: dict[str, UserObject] = {}

    def __iter__(self) -> Iterator[UserObject]:
        return iter(list(self._objects.values()))

    def find(self, name: str) -> UserObject | None:
        """The object called `name`."""
        return self._objects.get(name)

    def add(self, options: Mapping[str, Any]) -> UserObject:
        """Make what `options` (checked `ObjectOptions`) describe. Raises ChangeError."""
        kind, name = str(options["qom-type"]), str(options["id"])
        if not is_identifier(name):
            msg = "Parameter 'id' expects an identifier"
            raise ChangeError(msg)
        if name in self._objects:
            msg = f"attempt to add duplicate property '{name}' to object (type 'container')"
            raise ChangeError(msg)
        made = UserObject(kind, name, options)
        if kind == "secret":
            made.value = _secret(options)
        elif kind == "rng-random":
            path = str(options.get("filename", "/dev/urandom"))
            made.fd = _open_random(path)
            made.value = _reader(made.fd)
        elif kind == "rng-builtin":
            made.value = os.urandom
        elif kind in MEMORY_BACKENDS:
            _check_memory(options)
        elif kind == "iothread":
            made.value = IoLoop(name)
            made.value.start()
        self._objects[name] = made
        return made

    def remove(self, name: str) -> None:
        """`object-del`. Raises ChangeError when it does not exist or is needed."""
        found = self._objects.get(name)
        if found is None:
            msg = f"object '{name}' not found"
            raise ChangeError(msg)
        if found.users:
            msg = f"object '{name}' is in use, can not be deleted"
            raise ChangeError(msg)
        del self._objects[name]
        found.close()

    def claim(self, name: str, kinds: tuple[str, ...], user: str, property_name: str) -> UserObject:
        """Have `user` use an object of one of these kinds. Raises ChangeError."""
        found = self._objects.get(name)
        if found is None or found.kind not in kinds:
            if found is None:
                msg = f"Device '{name}' not found"
                raise ChangeError(msg, ChangeKind.NOT_FOUND)
            msg = f"Invalid parameter type for '{property_name}'"
            raise ChangeError(msg)
        found.users.append(user)
        return found

    def release(self, name: str, user: str) -> None:
        """`user` needs it no longer."""
        found = self._objects.get(name)
        if found is not None and user in found.users:
            found.users.remove(user)

    def close(self) -> None:
        """Close what objects hold."""
        for made in self._objects.values():
            made.close()
        self._objects.clear()


def _secret(options: Mapping[str, Any]) -> bytes:
    for key in ("keyid", "iv"):
        if key in options:
            msg = f"secret {options['id']}: {key} is not supported: write it without encryption, or into a file"
            raise ChangeError(msg)
    if ("data" in options) == ("file" in options):
        msg = (
            "'file' and 'data' are mutually exclusive"
            if "data" in options
            else "Either 'file' or 'data' must be provided"
        )
        raise ChangeError(msg)
    if "data" in options:
        raw = str(options["data"]).encode()
    else:
        path = str(options["file"])
        try:
            raw = Path(path).read_bytes()
        except OSError as error:
            msg = f"Unable to read {path}: {error.strerror}"
            raise ChangeError(msg) from error
    if len(raw) > _MAX_SECRET_BYTES:
        msg = f"secret {options['id']}: more than {_MAX_SECRET_BYTES} bytes"
        raise ChangeError(msg)
    if options.get("format") == "base64":
        if raw.strip(_BASE64):
            msg = "Base64 data contains invalid characters"
            raise ChangeError(msg)
        try:
            raw = base64.b64decode(raw)
        except binascii.Error as error:
            msg = f"secret {options['id']}: {error}"
            raise ChangeError(msg) from error
    return raw


def _open_random(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        msg = f"Could not open '{path}': {error.strerror}"
        raise ChangeError(msg) from error


def _reader(fd: int) -> Callable[[int], bytes]:
    """Bytes of `fd`; the host's generator fills in what it does not have at once."""

    def read(count: int) -> bytes:
        try:
            data = os.read(fd, count)
        except OSError:
            data = b""
        return data + os.urandom(count - len(data))

    return read


def _check_memory(options: Mapping[str, Any]) -> None:
    for key in _NUMA:
        if key in options and options[key] not in ("default", []):
            msg = f"{options['qom-type']}: {key} is not supported"
            raise ChangeError(msg)
    if not options.get("size"):
        msg = "property 'size' of memory backend doesn't take value '0'"
        raise ChangeError(msg)
