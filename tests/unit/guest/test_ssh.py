from __future__ import annotations

import base64
import shutil
import stat
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyhyve.guest import ssh
from pyhyve.guest.ssh import SshKeyError, dropbear_key, ensure_keys

if TYPE_CHECKING:
    from pathlib import Path

needs_keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")


@pytest.fixture
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path / "pyhyve" / "ssh"


def string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def openssh_key(cipher: bytes = b"none", kind: bytes = b"ssh-ed25519", key: bytes = bytes(range(64))) -> str:
    private = bytes(8) + string(kind) + string(key[32:]) + string(key) + string(b"comment")
    body = b"openssh-key-v1\0" + string(cipher) + string(b"none") + string(b"") + struct.pack(">I", 1)
    body += string(string(kind) + string(key[32:])) + string(private)
    text = base64.encodebytes(body).decode()
    return f"-----BEGIN OPENSSH PRIVATE KEY-----\n{text}-----END OPENSSH PRIVATE KEY-----\n"


def test_dropbear_key_holds_type_seed_and_public_key() -> None:
    assert dropbear_key(openssh_key()) == string(b"ssh-ed25519") + string(bytes(range(64)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-----BEGIN OPENSSH PRIVATE KEY-----\n!\n-----END OPENSSH PRIVATE KEY-----",
        openssh_key(cipher=b"aes256-ctr"),
        openssh_key(kind=b"ssh-rsa"),
        openssh_key(key=bytes(63)),
        openssh_key()[:120],
    ],
)
def test_dropbear_key_refuses_anything_else(text: str) -> None:
    with pytest.raises(SshKeyError, match="not an unencrypted Ed25519 key"):
        dropbear_key(text)


@given(st.binary(max_size=200))
def test_dropbear_key_takes_any_bytes(data: bytes) -> None:
    body = base64.b64encode(b"openssh-key-v1\0" + data).decode()
    with pytest.raises(SshKeyError):
        dropbear_key(f"-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n-----END OPENSSH PRIVATE KEY-----")


@needs_keygen
def test_keys_are_made_once_and_private(data_home: Path) -> None:
    keys = ensure_keys()
    assert keys is not None
    assert keys == ensure_keys()
    assert keys.directory == data_home
    assert stat.S_IMODE(keys.identity.stat().st_mode) == 0o600
    assert keys.known_hosts.read_text() == f"pyhyve-guest {' '.join(keys.host_public.split()[:2])}\n"


@needs_keygen
def test_host_key_in_dropbear_form_has_the_public_key_that_clients_know(data_home: Path) -> None:
    keys = ensure_keys()
    assert keys is not None
    public = base64.b64decode(keys.host_public.split()[1])
    assert keys.host_private[-32:] == public[-32:]
    derived = subprocess.run(
        ["ssh-keygen", "-y", "-f", str(data_home / "host_ed25519")], capture_output=True, text=True, check=True
    )
    assert derived.stdout.split()[:2] == keys.host_public.split()[:2]


@needs_keygen
def test_damaged_keys_say_what_to_remove(data_home: Path) -> None:
    ensure_keys()
    (data_home / "host_ed25519").write_text("nonsense")
    with pytest.raises(SshKeyError, match="remove the directory"):
        ensure_keys()


def test_without_keygen_there_are_no_keys(data_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh.shutil, "which", lambda _program: None)
    assert ensure_keys() is None
    assert not data_home.exists()
