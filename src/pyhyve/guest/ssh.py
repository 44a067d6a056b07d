"""Keys for logging in to guests: one pair for the user, one for the guests' ssh server, made once.

They are kept in `$XDG_DATA_HOME/pyhyve/ssh` (`~/.local/share/pyhyve/ssh`). Guests that this user builds accept the
first and prove who they are with the second, so no login asks a question.
"""

from __future__ import annotations

import base64
import binascii
import os
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pyhyve.support.cache import new_directory
from pyhyve.support.errors import UserError
from pyhyve.support.files import write_atomically

KEY_TYPE = b"ssh-ed25519"
ED25519_PRIVATE_BYTES = 64
"""Seed and public key together, as both OpenSSH and dropbear store them."""
OPENSSH_MAGIC = b"openssh-key-v1\0"
HOST_ALIAS = "pyhyve-guest"
"""The name under which the guests' host key is known, whatever their addresses."""
CONNECT_TIMEOUT_S = 10


class SshKeyError(UserError):
    """The keys cannot be made or read."""


@dataclass(frozen=True, slots=True)
class SshKeys:
    """The keys in `directory`; `authorized` and `host_public` are lines as in `.pub` files."""

    directory: Path
    authorized: str
    host_public: str
    host_private: bytes
    """The server's key in dropbear's form."""

    @property
    def identity(self) -> Path:
        """The user's private key, for `ssh -i`."""
        return self.directory / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """What the client knows the server by."""
        return self.directory / "known_hosts"

    def client_configuration(self) -> list[str]:
        """Lines of ssh_config(5) that let OpenSSH log in without a question and without the user's own files."""
        return [
            f'IdentityFile "{self.identity}"',
            "IdentitiesOnly yes",
            "IdentityAgent none",
            "BatchMode yes",
            f'UserKnownHostsFile "{self.known_hosts}"',
            "GlobalKnownHostsFile /dev/null",
            f"HostKeyAlias {HOST_ALIAS}",
            "StrictHostKeyChecking yes",
            f"ConnectTimeout {CONNECT_TIMEOUT_S}",
            "LogLevel ERROR",
        ]

    def client_options(self) -> list[str]:
        """The same as options of the command `ssh`."""
        words = ["-F", "none"]
        for line in self.client_configuration():
            words += ["-o", line.replace(" ", "=", 1)]
        return words


def key_directory() -> Path:
    """Where the keys are kept; it may not exist yet."""
    configured = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification says to ignore a relative path.
    base = Path(configured) if configured.startswith("/") else Path.home() / ".local/share"
    return base / "pyhyve" / "ssh"


def _fields(data: bytes, count: int) -> tuple[list[bytes], bytes]:
    """`count` length-prefixed strings (RFC 4251, section 5) and what follows them."""
    found: list[bytes] = []
    for _ in range(count):
        (length,) = struct.unpack_from(">I", data)
        if length > len(data) - 4:
            raise ValueError
        found.append(data[4 : 4 + length])
        data = data[4 + length :]
    return found, data


def dropbear_key(openssh: str) -> bytes:
    """An unencrypted Ed25519 private key of OpenSSH (PROTOCOL.key) in the form that dropbear reads.

    Raises SshKeyError when it is something else.
    """
    try:
        data = base64.b64decode(openssh.partition("KEY-----")[2].partition("-----END")[0])
        if not data.startswith(OPENSSH_MAGIC):
            raise ValueError
        (cipher, _, _), rest = _fields(data[len(OPENSSH_MAGIC) :], 3)
        (_, private), _ = _fields(rest[4:], 2)
        (kind, _, key), _ = _fields(private[8:], 3)
        if cipher != b"none" or kind != KEY_TYPE or len(key) != ED25519_PRIVATE_BYTES:
            raise ValueError
    except (ValueError, struct.error, binascii.Error) as error:
        msg = "not an unencrypted Ed25519 key of OpenSSH"
        raise SshKeyError(msg) from error
    return struct.pack(">I", len(KEY_TYPE)) + KEY_TYPE + struct.pack(">I", len(key)) + key


def _make(directory: Path, name: str) -> None:
    """Make the pair `name` unless it is there; two processes may do so at once."""
    if (directory / name).is_file() and (directory / f"{name}.pub").is_file():
        return
    with new_directory(directory) as fresh:
        result = subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "pyhyve", "-f", str(fresh / name)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            reason = " ".join(result.stderr.split()) or f"exit status {result.returncode}"
            msg = f"ssh-keygen: {reason}"
            raise SshKeyError(msg)
        for suffix in ("", ".pub"):
            (fresh / f"{name}{suffix}").replace(directory / f"{name}{suffix}")


def ensure_keys() -> SshKeys | None:
    """The user's keys, made when missing; None where there is no `ssh-keygen` to make them.

    Raises SshKeyError when they cannot be stored or are damaged.
    """
    directory = key_directory()
    names = ("id_ed25519", "host_ed25519")
    missing = [name for name in names if not (directory / name).is_file()]
    if shutil.which("ssh-keygen") is None:
        return None
    try:
        if missing:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in missing:
            _make(directory, name)
        authorized, host_public = ((directory / f"{name}.pub").read_text().strip() for name in names)
        host_private = dropbear_key((directory / names[1]).read_text())
        known = f"{HOST_ALIAS} {' '.join(host_public.split()[:2])}\n".encode()
        known_hosts = directory / "known_hosts"
        if not known_hosts.is_file() or known_hosts.read_bytes() != known:
            write_atomically(known_hosts, known)
    except OSError as error:
        msg = f"{error.filename or directory}: {error.strerror}"
        raise SshKeyError(msg) from error
    except SshKeyError as error:
        msg = f"{directory}: {error} (remove the directory to have new keys made)"
        raise SshKeyError(msg) from error
    return SshKeys(directory, authorized, host_public, host_private)
