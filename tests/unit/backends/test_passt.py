from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from pyhyve.backends.net import NetError
from pyhyve.backends.passt import Forward, open_passt, passt_command

if TYPE_CHECKING:
    from pathlib import Path


def script(tmp_path: Path, body: str) -> str:
    path = tmp_path / "passt"
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_command_names_forwards() -> None:
    forwards = [Forward("tcp", 2222, 22), Forward("udp", 5353, 53, "127.0.0.1")]
    assert passt_command(7, forwards) == [
        "passt", "--quiet", "--fd", "7", "--tcp-ports", "2222:22", "--udp-ports", "127.0.0.1/5353:53",
    ]  # fmt: skip


def test_missing_program_names_the_package() -> None:
    with pytest.raises(NetError, match="apt install passt"):
        open_passt(program="/nonexistent/passt")


def test_failure_repeats_the_reason(tmp_path: Path) -> None:
    program = script(tmp_path, "echo 'Failed to bind port 22 (Permission denied)' >&2; echo >&2; exit 1")
    with pytest.raises(NetError, match=r"^net user: passt: Failed to bind port 22 \(Permission denied\)$"):
        open_passt(program=program)


def test_socket_reaches_the_program(tmp_path: Path) -> None:
    backend = open_passt(program=script(tmp_path, 'printf "\\0\\0\\0\\3abc" >&"$3"'))
    into = memoryview(bytearray(64))
    assert backend.receive(0, [into]) == 15
    assert bytes(into[:15]) == bytes(12) + b"abc"
    backend.close()
