"""`pyhyve virsh` beside the real virsh, on the same real libvirtd: what is printed, and the exit status."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest

from pyhyve.cli.virsh import main
from tests.conformance.rpc.libvirtd_process import running_libvirtd, why_not
from tests.conformance.virsh.sessions import DIFFERENCES, SESSIONS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

reason = why_not()
pytestmark = pytest.mark.skipif(reason is not None, reason=reason or "")

VOLATILE = (
    (re.compile(r"CPU time: .*"), "CPU time"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d( [+-]\d{4})?"), "MOMENT"),
    (re.compile(r"\b1[6-9]\d{8}\b"), "SECONDS"),
)
"""What differs from one second to the next."""


class Outcome(NamedTuple):
    status: int
    out: str
    err: str

    @classmethod
    def of(cls, status: int, out: str, err: str) -> Outcome:
        for pattern, word in VOLATILE:
            out, err = pattern.sub(word, out), pattern.sub(word, err)
        return cls(status, out, err)


@pytest.fixture(scope="module")
def uri() -> Iterator[str]:
    with running_libvirtd() as socket:
        yield f"test+unix:///default?socket={socket}"


@pytest.mark.parametrize("line", SESSIONS)
def test_session_is_virshs(
    line: str, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    real = subprocess.run(
        ["virsh", "-c", uri, line], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, timeout=60
    )
    theirs = Outcome.of(real.returncode, real.stdout, real.stderr)
    status = main(["-c", uri, line])
    ours = Outcome.of(status, *capsys.readouterr())
    if line in DIFFERENCES:
        assert ours != theirs, f"no difference any more: {DIFFERENCES[line]}"
        return
    assert ours == theirs
