"""TLS as libvirt's clients expect it: certificates on both sides, and a byte that says "accepted"."""

from __future__ import annotations

import ssl
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.daemon.settings import TlsSettings

__all__ = ["ACCEPTED", "allowed_name", "distinguished_name", "server_context"]

ACCEPTED: Final = b"\1"
"""What a client waits for once its certificate was found good."""
_SHORT: Final = {
    "countryName": "C",
    "stateOrProvinceName": "ST",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "commonName": "CN",
    "emailAddress": "EMAIL",
    "domainComponent": "DC",
    "userId": "UID",
}
"""Names of attributes as libvirt writes them (RFC 4514)."""


def server_context(settings: TlsSettings) -> ssl.SSLContext:
    """Return a context that asks every client for a certificate. Raises UserError where a file is no good."""
    for option, path in (("ca", settings.ca), ("certificate", settings.certificate), ("key", settings.key)):
        if not Path(path).is_file():
            msg = f"tls.{option}: {path}: no such file (make certificates, or set [tls] in daemon.toml)"
            raise UserError(msg)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0  # libvirt's clients take a session ticket before that byte for the byte
    try:
        context.load_cert_chain(settings.certificate, settings.key)
        context.load_verify_locations(settings.ca)
    except (ssl.SSLError, OSError) as error:
        msg = f"cannot use {settings.certificate}, {settings.key} and {settings.ca} for TLS: {error}"
        raise UserError(msg) from error
    return context


def distinguished_name(certificate: Any) -> str:
    """Return the subject of a certificate (as :meth:`ssl.SSLSocket.getpeercert` gives it), the last part first."""
    parts = [pair for group in certificate.get("subject", ()) for pair in group]
    return ",".join(f"{_SHORT.get(name, name)}={value}" for name, value in reversed(parts))


def allowed_name(name: str, patterns: Sequence[str]) -> bool:
    """Whether a distinguished name may connect; without patterns all may."""
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
