from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING, Self

import pytest

from pyhyve.kvm.ioctls import KvmError
from pyhyve.kvm.probe import KvmKind, probe

if TYPE_CHECKING:
    from pathlib import Path


def test_no_device_says_what_to_load(tmp_path: Path) -> None:
    found = probe(str(tmp_path / "kvm"))
    assert (found.present, found.usable, found.kind) == (False, False, KvmKind.NONE)
    assert "load kvm_intel or kvm_amd" in found.reason


def test_a_file_that_is_no_kvm_is_not_usable(tmp_path: Path) -> None:
    path = tmp_path / "kvm"
    path.write_bytes(b"")
    found = probe(str(path))
    assert (found.present, found.usable, found.kind) == (True, False, KvmKind.NONE)
    assert "\n" not in found.reason


def test_no_permission_names_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kvm"
    path.write_bytes(b"")

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr("grp.getgrgid", lambda _gid: type("Group", (), {"gr_name": "kvm"}))
    assert "join the group kvm" in probe(str(path)).reason


def test_the_host_is_probed_quickly_and_consistently() -> None:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("no usable /dev/kvm on this host")
    started = time.process_time()
    found = probe()
    assert time.process_time() - started < 2  # some milliseconds; an emulated host is slower
    assert found.present
    assert found.api_version == 12
    assert found.usable == (found.kind is KvmKind.HARDWARE)
    if os.environ.get("PYHYVE_KVM_REAL"):
        assert found.kind is KvmKind.HARDWARE


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (errno.EBUSY, "another hypervisor holds the processor's virtualization"),
        (errno.ENOMEM, "too little memory"),
        (errno.EMFILE, "too many open files"),
        (errno.EINVAL, "KVM_CREATE_VM: Invalid argument"),
    ],
)
def test_host_that_is_busy_or_too_small_says_so(
    code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Busy:
        api_version = 12

        def __init__(self, _path: str) -> None:
            pass

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def check(self, _capability: object) -> int:
            return 1

        def create_vm(self) -> None:
            raise KvmError(code, f"KVM_CREATE_VM: {os.strerror(code)}")

    path = tmp_path / "kvm"
    path.touch()
    monkeypatch.setattr("pyhyve.kvm.probe.KvmSystem", Busy)
    found = probe(str(path))
    assert (found.present, found.usable, found.kind) == (True, False, KvmKind.NONE)
    assert found.reason.startswith(f"{path} opens but KVM_CREATE_VM: ")
    assert says in found.reason
