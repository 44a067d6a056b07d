from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from pyhyve.daemon import activation
from pyhyve.daemon.activation import inherited_sockets, notify, units, write_units
from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path


def test_sockets_are_taken_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listeners = [socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX), socket.socket(), socket.socket()]
    listeners[0].bind(str(tmp_path / "s"))
    listeners[1].bind(str(tmp_path / "s-ro"))
    # Descriptors in a row, as systemd gives them.
    first = 200
    for number, listener in enumerate(listeners):
        os.dup2(listener.fileno(), first + number)
        listener.close()
    monkeypatch.setattr(activation, "_FIRST", first)
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "4", "LISTEN_FDNAMES": "a:b:x-tcp:x-tls", "OTHER": "1"}
    taken = inherited_sockets(environment)
    assert [(each.kind, each.read_only) for each in taken] == [
        ("unix", False),
        ("unix", True),
        ("tcp", False),
        ("tls", False),
    ]
    assert environment == {"OTHER": "1"}
    assert not any(os.get_inheritable(each.listener.fileno()) for each in taken)
    for each in taken:
        each.listener.close()


@pytest.mark.parametrize(
    "environment", [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "x"}]
)
def test_sockets_for_others_are_left_alone(environment: dict[str, str]) -> None:
    assert inherited_sockets(environment) == []


def test_what_is_no_socket_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = os.pipe()
    monkeypatch.setattr(activation, "_FIRST", near)
    with pytest.raises(UserError, match="is no socket"):
        inherited_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})
    os.close(near)
    os.close(far)


def test_systemd_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as endpoint:
        endpoint.bind(str(tmp_path / "n"))
        notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "n")})
        assert endpoint.recv(100) == b"READY=1"
    notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "n")})
    notify("READY=1", {})


def test_units_name_the_command_and_sockets(tmp_path: Path) -> None:
    written = {path.name: path.read_text() for path in write_units(tmp_path, "system")}
    assert written == units("system")
    assert "daemon --system" in written["pyhyve-daemon.service"]
    assert "ListenStream=/run/libvirt/virtpyhyved-sock-ro" in written["pyhyve-daemon-ro.socket"]
    session = units("session")
    assert set(session) == {"pyhyve-daemon.service", "pyhyve-daemon.socket"}
    assert "-ro" not in "".join(session.values())
