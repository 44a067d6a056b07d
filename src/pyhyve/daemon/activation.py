"""systemd: sockets it opened, telling it that we serve, and the units.

Source: sd_listen_fds(3), sd_notify(3).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping
    from pathlib import Path

__all__ = ["Inherited", "inherited_sockets", "notify", "units", "write_units"]

_FIRST: Final = 3  # SD_LISTEN_FDS_START


@dataclass(frozen=True, slots=True)
class Inherited:
    """A listening socket systemd gave us."""

    listener: socket.socket
    kind: str
    """One of unix, tcp, tls."""
    read_only: bool


def inherited_sockets(environment: MutableMapping[str, str] | None = None) -> list[Inherited]:
    """Return the sockets systemd opened for this process, by the names in their units. Raises UserError.

    The variables are removed, so that machines started later do not take them for theirs.
    """
    given = os.environ if environment is None else environment
    process, count, names = (given.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if process != str(os.getpid()) or not count.isdigit():
        return []
    words = names.split(":") if names else []
    sockets = []
    for number in range(int(count)):
        descriptor = _FIRST + number
        name = words[number] if number < len(words) else ""
        fcntl.fcntl(descriptor, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        try:
            listener = socket.socket(fileno=descriptor)
        except OSError as error:
            msg = f"descriptor {descriptor} ({name}) from systemd is no socket: {error.strerror}"
            raise UserError(msg) from error
        unix = listener.family == socket.AF_UNIX
        path = str(listener.getsockname()) if unix else ""
        kind = "unix" if unix else ("tls" if "tls" in name else "tcp")
        sockets.append(
            Inherited(listener, kind, unix and (name.endswith(("-ro", "-ro.socket")) or path.endswith("-ro")))
        )
    return sockets


def notify(message: str, environment: Mapping[str, str] | None = None) -> None:
    """Tell systemd something, if it listens."""
    path = (os.environ if environment is None else environment).get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as endpoint:
        try:
            endpoint.sendto(message.encode(), address)
        except OSError:
            return  # nobody listens any more; nothing depends on it


_SERVICE: Final = """\
[Unit]
Description=pyhyve's libvirt-compatible daemon
Documentation=https://libvirt.org/
Requires=pyhyve-daemon.socket pyhyve-daemon-ro.socket
After=network.target pyhyve-daemon.socket pyhyve-daemon-ro.socket

[Service]
Type=notify
ExecStart={command} daemon --{instance}
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
# Machines outlive the daemon, which finds them again.
KillMode=process
LimitNOFILE=8192
TasksMax=32768

[Install]
WantedBy={target}
Also=pyhyve-daemon.socket pyhyve-daemon-ro.socket
"""
_SOCKET: Final = """\
[Unit]
Description=pyhyve's libvirt-compatible daemon: {what} socket

[Socket]
ListenStream={directory}/virtpyhyved-sock{suffix}
FileDescriptorName=pyhyve-daemon{suffix}
Service=pyhyve-daemon.service
SocketMode={mode}
RemoveOnStop=yes

[Install]
WantedBy=sockets.target
"""


def units(instance: str) -> dict[str, str]:
    """Return the units of an instance ("system" or "session"), by file name."""
    command = shutil.which("pyhyve") or f"{sys.executable} -m pyhyve"
    directory = "/run/libvirt" if instance == "system" else "%t/libvirt"
    target = "multi-user.target" if instance == "system" else "default.target"
    made = {
        "pyhyve-daemon.service": _SERVICE.format(command=command, instance=instance, target=target),
        "pyhyve-daemon.socket": _SOCKET.format(
            what="read-write", directory=directory, suffix="", mode="0660" if instance == "system" else "0600"
        ),
    }
    if instance == "system":
        made["pyhyve-daemon-ro.socket"] = _SOCKET.format(
            what="read-only", directory=directory, suffix="-ro", mode="0666"
        )
        return made
    # A user's instance has no read-only socket.
    return {name: text.replace(" pyhyve-daemon-ro.socket", "") for name, text in made.items()}


def write_units(directory: Path, instance: str) -> list[Path]:
    """Write the units into a directory; return the files. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in units(instance).items():
        path = directory / name
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written
