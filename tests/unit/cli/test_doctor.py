from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pyhyve.cli import doctor
from pyhyve.cli.doctor import Finding, State
from pyhyve.cli.main import main
from pyhyve.kvm.probe import KvmKind, KvmProbe
from pyhyve.support.errors import ExitStatus

if TYPE_CHECKING:
    from pathlib import Path


def test_json_is_one_object_with_every_check(empty_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == ExitStatus.DONE
    (line,) = capsys.readouterr().out.splitlines()
    shown = json.loads(line)
    assert shown["ok"] is True
    names = [check["name"] for check in shown["checks"]]
    assert len(names) == len(set(names))
    assert {"accel", "kvm", "llvm", "tap", "vhost", "bridge", "nft", "passt", "dnsmasq", "cache", "guests"} <= set(
        names
    )
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


@pytest.mark.parametrize(
    ("usable", "kind", "reason", "says"),
    [
        (
            True,
            KvmKind.HARDWARE,
            "/dev/kvm runs guests in hardware (SVM)",
            "takes KVM: /dev/kvm runs guests in hardware",
        ),
        (False, KvmKind.SOFTWARE, "/dev/kvm is a software flavour", "takes the emulator: /dev/kvm is a software"),
        (False, KvmKind.NONE, "no permission to open /dev/kvm: join the group kvm", "emulator: no permission to open"),
    ],
)
def test_accelerator_is_named_with_the_reason(
    usable: bool, kind: KvmKind, reason: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = KvmProbe(present=True, usable=usable, api_version=12, kind=kind, reason=reason)
    monkeypatch.setattr("pyhyve.kvm.probe.cached_probe", lambda: found)
    assert says in doctor.check_accelerator().detail
    assert doctor.check_kvm().state is (State.OK if usable else State.LIMITED)
