"""Certificates for tests, made with openssl: an authority, a server, a client, and one nobody signed."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def _openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


def make_certificates(directory: Path) -> None:
    """Fill a directory in libvirt's layout of names."""
    directory.mkdir(parents=True, exist_ok=True)

    def sign(name: str, subject: str, key: str, *, alternative: str = "", authority: str = "ca") -> None:
        request = directory / f"{name}.csr"
        _openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", directory / key, "-out", request, "-subj", subject)
        extensions = directory / f"{name}.ext"
        lines = ["basicConstraints=CA:FALSE", *([f"subjectAltName={alternative}"] if alternative else [])]
        extensions.write_text("\n".join(lines) + "\n")
        certificate, signer = directory / f"{authority}cert.pem", directory / f"{authority}key.pem"
        _openssl(
            *("x509", "-req", "-in", request, "-CA", certificate, "-CAkey", signer, "-CAcreateserial", "-days", "2"),
            *("-extfile", extensions, "-out", directory / f"{name}cert.pem"),
        )

    for authority in ("ca", "otherca"):
        key, certificate = directory / f"{authority}key.pem", directory / f"{authority}cert.pem"
        _openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN=test {authority}"),
            *("-keyout", key, "-out", certificate, "-addext", "keyUsage=keyCertSign,cRLSign"),
        )
    sign("server", "/O=pyhyve/CN=localhost", "serverkey.pem", alternative="DNS:localhost,IP:127.0.0.1")
    sign("client", "/O=pyhyve/CN=alice", "clientkey.pem")
    sign("stranger", "/O=elsewhere/CN=mallory", "strangerkey.pem", authority="otherca")
