"""User-mode networking through passt: a guest on the host's network, with DHCP and DNS, without root.

passt gets one end of a socket pair and goes into the background once it is ready; it ends by itself when the other
end is closed, so nothing is left behind even after SIGKILL.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyhyve.backends.net import NetError
from pyhyve.backends.stream import StreamNet, widen

if TYPE_CHECKING:
    from collections.abc import Sequence

_START_TIMEOUT_S = 10.0
_NOISE = ("Failed to send", "Don't run as root", "sched_setscheduler")


@dataclass(frozen=True, slots=True)
class Forward:
    """A host port that leads to a guest port; `protocol` is `tcp` or `udp`, an empty address means all."""

    protocol: str
    host_port: int
    guest_port: int
    host_address: str = ""


def passt_command(fd: int, forwards: Sequence[Forward], program: str = "passt") -> list[str]:
    """The command line; `fd` is passt's end of the socket pair."""
    command = [program, "--quiet", "--fd", str(fd)]
    for forward in forwards:
        option = "--udp-ports" if forward.protocol == "udp" else "--tcp-ports"
        address = f"{forward.host_address}/" if forward.host_address else ""
        command += [option, f"{address}{forward.host_port}:{forward.guest_port}"]
    return command


def open_passt(forwards: Sequence[Forward] = (), *, program: str = "passt") -> StreamNet:
    """Start passt and return the card's end of its socket.

    Raises NetError when passt is missing or refuses (a port in use, no usable interface).
    """
    ours, theirs = socket.socketpair()
    widen(theirs)
    with theirs, tempfile.TemporaryFile() as log:
        try:
            result = subprocess.run(
                passt_command(theirs.fileno(), forwards, program),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                timeout=_START_TIMEOUT_S,
                check=False,
            )
        except FileNotFoundError as error:
            ours.close()
            msg = f"net user: {program} is not installed (apt install passt)"
            raise NetError(msg) from error
        except (OSError, subprocess.TimeoutExpired) as error:
            ours.close()
            msg = f"net user: {program} does not start: {error}"
            raise NetError(msg) from error
        if result.returncode:
            ours.close()
            log.seek(0)
            lines = [line for line in log.read(65536).decode(errors="replace").splitlines() if line.strip()]
            reasons = [line.strip() for line in lines if not line.startswith(_NOISE)]
            reason = reasons[-1] if reasons else f"exit status {result.returncode}"
            msg = f"net user: passt: {reason}"
            raise NetError(msg)
    return StreamNet(ours)
