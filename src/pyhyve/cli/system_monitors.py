"""Where monitors are, on QEMU's command line (`-mon`, `-qmp`, `-monitor`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyhyve.cli.run import parse_number
from pyhyve.support.errors import InputError

if TYPE_CHECKING:
    from pyhyve.machine.monitor.properties import Properties


@dataclass(frozen=True, slots=True)
class MonitorSocket:
    """Where a monitor is: `address` as `stdio`, `unix:PATH` or `tcp:HOST:PORT`, or an inherited descriptor."""

    address: str
    label: str
    fd: int | None = None
    for_people: bool = False


def serve_only(given: Properties) -> None:
    """The socket is ours to listen on, and the machine does not wait for the peer. Raises InputError."""
    if not given.switch("server", default=False) or given.switch("wait", default=True):
        msg = f"{given.option}: only listening sockets are supported: add server=on,wait=off"
        raise InputError(msg)


def monitor_on(backend: dict[str, Any], name: str) -> MonitorSocket | None:
    """A monitor on a character device: the terminal or a listening socket; None for another."""
    if backend["type"] == "stdio":
        return MonitorSocket("stdio", name)
    data = backend["data"]
    if backend["type"] != "socket" or not data["server"]:
        return None
    address = data["addr"]
    match address["type"]:
        case "fd":
            text = address["data"]["str"]
            return MonitorSocket(f"fd:{text}", name, parse_number("-chardev: fd", text, int))
        case "unix":
            return MonitorSocket(f"unix:{address['data']['path']}", name)
        case _:
            return MonitorSocket(f"tcp:{address['data']['host']}:{address['data']['port']}", name)
