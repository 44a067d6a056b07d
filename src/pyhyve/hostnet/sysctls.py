"""Kernel settings that networks need, remembered so that the last one to need a setting puts it back.

Source: Linux, Documentation/networking/ip-sysctl.rst.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pyhyve.hostnet.errors import explain
from pyhyve.support.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path("/proc/sys/net")
IPV4_FORWARD = "ipv4/ip_forward"
IPV6_FORWARD = "ipv6/conf/all/forwarding"


def read(name: str) -> str | None:
    """A setting below /proc/sys/net; None where this kernel has none of that name."""
    try:
        return (ROOT / name).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None


def write(name: str, value: str) -> None:
    """Change a setting. Raises HostNetError."""
    try:
        (ROOT / name).write_text(value, encoding="ascii")
    except OSError as error:
        where = str(ROOT / name)
        raise explain(where, error.errno or 0, error.strerror or str(error)) from error


def wanted_for_forwarding(versions: Iterable[int]) -> dict[str, str]:
    """Settings with which the host forwards packets of these IP versions, in the order to make them.

    A host that forwards IPv6 ignores router advertisements unless `accept_ra` is 2; interfaces that listen to them now
    shall go on.
    """
    found: dict[str, str] = {}
    kinds = set(versions)
    if 4 in kinds:
        found[IPV4_FORWARD] = "1"
    if 6 in kinds:
        if read(IPV6_FORWARD) == "0":
            for path in sorted((ROOT / "ipv6/conf").glob("*/accept_ra")):
                name = path.parent.name
                if name not in {"all", "default", "lo"} and read(f"ipv6/conf/{name}/accept_ra") == "1":
                    found[f"ipv6/conf/{name}/accept_ra"] = "2"
        found[IPV6_FORWARD] = "1"
    return found


class SettingsRecord:
    """Which settings were changed, what they were, and which networks need them, in a JSON file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, dict[str, object]] = {}
        with suppress(OSError, ValueError):
            loaded = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(loaded, dict):
                self._entries = {
                    str(name): entry
                    for name, entry in loaded.items()
                    if isinstance(entry, dict) and isinstance(entry.get("users"), list)
                }

    def acquire(self, user: str, settings: dict[str, str]) -> None:
        """Make `settings` on behalf of network `user`. Raises HostNetError."""
        for name, value in settings.items():
            before = read(name)
            if before is None:
                continue
            entry = self._entries.get(name)
            if entry is None:
                if before == value:
                    continue
                entry = {"before": before, "value": value, "users": []}
                self._entries[name] = entry
            users = entry["users"]
            if isinstance(users, list) and user not in users:
                users.append(user)
            # Remembered first: an interruption in between leaves nothing unknown.
            self._save()
            write(name, value)

    def release(self, user: str) -> None:
        """Network `user` needs nothing any more: put back what no other needs, unless someone changed it since."""
        for name in reversed(list(self._entries)):
            entry = self._entries[name]
            users = entry["users"]
            if isinstance(users, list):
                entry["users"] = users = [other for other in users if other != user]
            if not users:
                if read(name) == entry.get("value"):
                    write(name, str(entry.get("before")))
                del self._entries[name]
            self._save()

    def _save(self) -> None:
        if self._entries:
            write_atomically(self._path, json.dumps(self._entries, indent=2).encode())
        else:
            self._path.unlink(missing_ok=True)
