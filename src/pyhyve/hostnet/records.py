"""What was made for each network, in files that survive a SIGKILL: written before the thing is made.

Layout of a record directory: `NAME.json` for each network, `NAME/` for its DHCP server, `.lock`, `.settings.json`.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyhyve.hostnet.dnsmasq import Files
from pyhyve.hostnet.errors import HostNetError
from pyhyve.hostnet.spec import NetworkSpec
from pyhyve.support.errors import InputError
from pyhyve.support.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT_VERSION = 1


def runtime_directory() -> Path:
    """Where this user's running things are recorded: gone after a reboot, as they are.

    `/run/pyhyve` for root; `$XDG_RUNTIME_DIR/pyhyve`, or `/tmp/pyhyve-UID`, for others. Raises HostNetError when it
    cannot be made, or belongs to someone else.
    """
    uid = os.geteuid()
    configured = os.environ.get("XDG_RUNTIME_DIR", "")
    if uid == 0:
        path = Path("/run/pyhyve")
    elif configured.startswith("/"):
        path = Path(configured, "pyhyve")
    else:
        path = Path(f"/tmp/pyhyve-{uid}")  # noqa: S108 - its owner is checked below
    try:
        path.mkdir(mode=0o755 if uid == 0 else 0o700, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        msg = f"{path}: {error.strerror}; set XDG_RUNTIME_DIR to a directory of your own"
        raise HostNetError(msg) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid or status.st_mode & 0o022:
        msg = f"{path} is not a directory of your own: remove it, or set XDG_RUNTIME_DIR"
        raise HostNetError(msg)
    return path


def network_directory() -> Path:
    """Where networks of this process's network namespace are recorded."""
    return runtime_directory() / f"net-{Path('/proc/self/ns/net').stat().st_ino}"


@dataclass(frozen=True, slots=True)
class NetworkRecord:
    """A network and what identifies the things made for it.

    A bridge is ours when it has the MAC address that was chosen before it was made. `moved` says, for each port whose
    addresses went to the bridge, what they were; `has_rules` says that packet filter rules were about to be made.
    """

    spec: NetworkSpec
    bridge_mac: str
    moved: dict[str, dict[str, Any]] = field(default_factory=dict)
    has_rules: bool = False

    def to_json(self) -> str:
        """As stored."""
        fields = {
            "version": FORMAT_VERSION,
            "spec": self.spec.to_json(),
            "bridge_mac": self.bridge_mac,
            "moved": self.moved,
            "has_rules": self.has_rules,
        }
        return json.dumps(fields, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> NetworkRecord:
        """The reverse. Raises HostNetError on anything else."""
        try:
            fields = json.loads(text)
            if fields["version"] != FORMAT_VERSION:
                msg = f"version {fields['version']}"
                raise ValueError(msg)
            spec = NetworkSpec.from_json(fields["spec"])
            return cls(spec, str(fields["bridge_mac"]), dict(fields["moved"]), bool(fields.get("has_rules", True)))
        except (ValueError, KeyError, TypeError, InputError) as error:
            msg = f"damaged record ({error})"
            raise HostNetError(msg) from error


class RecordStore:
    """The records in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from changing networks meanwhile. Raises HostNetError."""
        try:
            self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            descriptor = os.open(self.directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            msg = f"{error.filename}: {error.strerror}"
            raise HostNetError(msg) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @property
    def settings(self) -> Path:
        """Where changed kernel settings are remembered."""
        return self.directory / ".settings.json"

    def files(self, name: str) -> Files:
        """Where network `name` keeps its DHCP server's files."""
        return Files(self.directory / name)

    def _path(self, name: str) -> Path:
        return self.directory / f"{name}.json"

    def names(self) -> list[str]:
        """All networks on record."""
        if not self.directory.is_dir():
            return []
        return sorted(p.stem for p in self.directory.glob("*.json") if p.name[0] != ".")

    def load(self, name: str) -> NetworkRecord | None:
        """The record of network `name`; raises HostNetError when it is damaged."""
        try:
            text = self._path(name).read_text(encoding="utf-8")
        except (FileNotFoundError, ValueError):
            return None
        except OSError as error:
            msg = f"{self._path(name)}: {error.strerror}"
            raise HostNetError(msg) from error
        try:
            return NetworkRecord.from_json(text)
        except HostNetError as error:
            msg = f"{self._path(name)}: {error}"
            raise HostNetError(msg) from error

    def save(self, record: NetworkRecord) -> None:
        """Store; raises OSError."""
        write_atomically(self._path(record.spec.name), record.to_json().encode())

    def forget(self, name: str) -> None:
        """Remove the record of network `name` and its files."""
        shutil.rmtree(self.files(name).directory, ignore_errors=True)
        self._path(name).unlink(missing_ok=True)
