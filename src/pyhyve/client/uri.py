"""Connection URIs: ``driver[+transport]://[host][:port]/path[?parameters]``.

Source: libvirt's documentation, "Connection URIs" and "Remote support".
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from pyhyve.client.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Target", "Tls", "parse_uri"]

TCP_PORT: Final = 16509
"""Port of unencrypted connections."""
TLS_PORT: Final = 16514
"""Port of encrypted connections."""
_OURS: Final = frozenset({"socket", "mode", "no_verify", "no_tty", "command", "netcat", "keyfile", "pkipath", "proxy"})
"""Parameters for the client; the rest is the driver's."""


@dataclass(frozen=True, slots=True)
class Tls:
    """How to encrypt: where keys and certificates are (None: the usual places), and whether to trust anybody."""

    pki: Path | None = None
    verify: bool = True


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URI leads. One of ``sockets`` (paths, to be tried in order), ``address`` and ``command`` is set."""

    name: str
    """What to ask the daemon to open."""
    sockets: tuple[Path, ...] = ()
    address: tuple[str, int] | None = None
    tls: Tls | None = None
    """Set where the connection to ``address`` is encrypted."""
    command: tuple[str, ...] = ()
    """A program whose standard input and output are the connection."""
    user: str | None = None
    """Whom to authenticate as."""


def _invalid(uri: str, reason: str) -> LibvirtError:
    return LibvirtError(ErrorCode.INVALID_ARG, f"{uri}: {reason}", ErrorDomain.URI)


def _sockets(driver: str, path: str, environment: Mapping[str, str], *, read_only: bool) -> tuple[Path, ...]:
    suffix = "-sock-ro" if read_only else "-sock"
    if path == "/session":
        runtime = environment.get("XDG_RUNTIME_DIR") or str(Path("~/.cache").expanduser())
        directory, suffix = Path(runtime) / "libvirt", "-sock"
    else:
        directory = Path("/run/libvirt")
    return (directory / f"virt{driver}d{suffix}", directory / f"libvirt{suffix}")


def parse_uri(uri: str, *, read_only: bool = False, environment: Mapping[str, str] | None = None) -> Target:
    """Find out where a URI leads; LibvirtError (INVALID_ARG) where that is nowhere we can go."""
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as error:
        raise _invalid(uri, str(error)) from error
    driver, _, transport = parts.scheme.partition("+")
    if not driver:
        raise _invalid(uri, "no connection URI (such as qemu:///system)")
    given = parse_qsl(parts.query, keep_blank_values=True)
    parameters = dict(given)
    if "name" in parameters:
        name = parameters["name"]
    else:
        rest = urlencode([(key, value) for key, value in given if key not in _OURS], quote_via=quote)
        name = f"{driver}://{parts.path}" + (f"?{rest}" if rest else "")
    transport = transport or ("tls" if parts.hostname else "unix")
    if transport == "unix":
        if parts.hostname:
            raise _invalid(uri, "a unix socket is on this host; leave the host name out")
        if socket := parameters.get("socket"):
            return Target(name, sockets=(Path(socket),))
        environment = os.environ if environment is None else environment
        return Target(name, sockets=_sockets(driver, unquote(parts.path), environment, read_only=read_only))
    user, host = parts.username, parts.hostname or "localhost"
    if transport == "tcp":
        return Target(name, address=(host, port or TCP_PORT), user=user)
    if transport == "tls":
        pki = Path(parameters["pkipath"]) if "pkipath" in parameters else None
        tls = Tls(pki, verify=parameters.get("no_verify", "0") in {"", "0"})
        return Target(name, address=(host, port or TLS_PORT), tls=tls, user=user)
    if transport == "ssh":
        command = _ssh(parameters, driver, parts.path, host, user, port, read_only=read_only)
        return Target(name, command=command, user=user)
    raise _invalid(uri, f"transport {transport!r} is none of unix, tcp, tls, ssh")


def _ssh(
    parameters: Mapping[str, str],
    driver: str,
    path: str,
    host: str,
    user: str | None,
    port: int | None,
    *,
    read_only: bool,
) -> tuple[str, ...]:
    """The program that connects to a daemon's socket on another host, with whatever that host has for it."""
    socket = parameters.get("socket") or str(_sockets(driver, path, {}, read_only=read_only)[-1])
    netcat = parameters.get("netcat", "nc")
    words = [parameters.get("command", "ssh"), "-T", "-e", "none"]
    if port is not None:
        words += ["-p", str(port)]
    if user is not None:
        words += ["-l", user]
    if "keyfile" in parameters:
        words += ["-i", parameters["keyfile"]]
    if parameters.get("no_tty", "0") not in {"", "0"}:
        words += ["-o", "BatchMode=yes"]
    if parameters.get("no_verify", "0") not in {"", "0"}:
        words += ["-o", "StrictHostKeyChecking=no"]
    remote = f"{shlex.quote(netcat)} -U {shlex.quote(socket)}"
    return (*words, "--", host, f"sh -c {shlex.quote(remote)}")
