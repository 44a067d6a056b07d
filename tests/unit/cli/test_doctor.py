from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pyhyve.cli import doctor
from pyhyve.cli.doctor import Finding, State
from pyhyve.cli.main import main
from pyhyve.support.errors import ExitStatus

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_json_is_one_object_with_every_check(empty_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == ExitStatus.DONE
    (line,) = capsys.readouterr().out.splitlines()
    shown = json.loads(line)
    assert shown["ok"] is True
    names = [check["name"] for check in shown["checks"]]
    assert len(names) == len(set(names))
    assert {"kvm", "llvm", "tap", "bridge", "nft", "passt", "dnsmasq", "cache", "guests"} <= set(names)
    assert all(check["state"] in set(State) and check["detail"] for check in shown["checks"])


def test_missing_program_names_its_package() -> None:
    found = doctor.check_program("no-such-program", "some-package", "for tests")()
    assert found.state is State.MISSING
    assert found.fix.endswith("apt-get install some-package")


def test_cache_that_cannot_be_written_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert doctor.check_cache().state is State.LIMITED


def test_broken_need_is_exit_status_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (lambda: Finding("llvm", State.BROKEN, "gone", "get [it]"),))
    assert main(["doctor"]) == ExitStatus.FAILED
    shown = capsys.readouterr().out
    assert "broken" in shown
    assert "→ get [it]" in shown
