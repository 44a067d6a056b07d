"""Getting a connected socket for a target: unix, TCP, TLS, or a program such as ssh."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.client.uri import Target, Tls

__all__ = ["VERIFIED", "dial", "tls_context"]

VERIFIED: Final = b"\1"
"""What the daemon sends once it has looked at our certificate."""
_SYSTEM_PKI: Final = (Path("/etc/pki/CA/cacert.pem"), Path("/etc/pki/libvirt"))


def dial(target: Target, timeout_s: float | None) -> socket.socket:
    """Return a connected socket. Raises OSError (of which ssl.SSLError is one) or ValueError."""
    if target.command:
        return _spawn(target.command, timeout_s)
    if target.address is None:
        return _unix(target, timeout_s)
    connected = socket.create_connection(target.address, timeout_s)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if target.tls is None:
        return connected
    try:
        encrypted = tls_context(target.tls).wrap_socket(connected, server_hostname=target.address[0])
        if encrypted.recv(1) != VERIFIED:
            encrypted.close()
            msg = "the daemon does not accept our certificate"
            raise ConnectionRefusedError(msg)
    except BaseException:
        connected.close()
        raise
    return encrypted


def _unix(target: Target, timeout_s: float | None) -> socket.socket:
    for path in target.sockets:
        endpoint = socket.socket(socket.AF_UNIX)
        endpoint.settimeout(timeout_s)
        try:
            endpoint.connect(str(path))
        except FileNotFoundError:
            endpoint.close()
        except BaseException:
            endpoint.close()
            raise
        else:
            return endpoint
    msg = f"no daemon listens on {' or '.join(map(str, target.sockets))}"
    raise FileNotFoundError(msg)


def _spawn(command: tuple[str, ...], timeout_s: float | None) -> socket.socket:
    """Run a program with its standard input and output as the other end of a socket pair."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        process = subprocess.Popen(command, stdin=its.fileno(), stdout=its.fileno(), start_new_session=True)
    except BaseException:
        ours.close()
        raise
    finally:
        its.close()
    # It ends when our end of the pair is closed; somebody has to take note, or it stays as a zombie.
    threading.Thread(target=process.wait, daemon=True, name=f"{command[0]} of a connection").start()
    ours.settimeout(timeout_s)
    return ours


def _files(tls: Tls) -> Iterator[tuple[Path, Path, Path]]:
    """Where the authority's certificate, ours, and its key may be (libvirt's documentation, "TLS setup")."""
    if tls.pki is not None:
        yield tls.pki / "cacert.pem", tls.pki / "clientcert.pem", tls.pki / "clientkey.pem"
        return
    if os.geteuid() != 0:
        own = Path("~/.pki/libvirt").expanduser()
        yield own / "cacert.pem", own / "clientcert.pem", own / "clientkey.pem"
    authority, directory = _SYSTEM_PKI
    yield authority, directory / "clientcert.pem", directory / "private" / "clientkey.pem"


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Return how to encrypt. Raises OSError where there are no certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for authority, certificate, key in _files(tls):
        if not authority.exists():
            continue
        context.load_verify_locations(authority)
        if certificate.exists() and key.exists():
            context.load_cert_chain(certificate, key)
        break
    else:
        if tls.verify:
            tried = " or ".join(str(files[0]) for files in _files(tls))
            msg = f"no certificate of an authority in {tried}"
            raise FileNotFoundError(msg)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
