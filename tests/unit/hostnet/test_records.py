from __future__ import annotations

import os
import stat
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from pyhyve.hostnet import dnsmasq, records
from pyhyve.hostnet.errors import HostNetError
from pyhyve.hostnet.networks import Networks
from pyhyve.hostnet.records import NetworkRecord, RecordStore
from pyhyve.hostnet.spec import NetworkSpec, PortForward, SpecError, TapSpec, default_range, host_interface

if TYPE_CHECKING:
    from pathlib import Path

    from pyhyve.hostnet.dnsmasq import Files

SPEC = NetworkSpec("lab", "lab0", addresses=(host_interface("10.7.0.1/24"),), taps=(TapSpec("t0", 7),))


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    found = RecordStore(tmp_path / "records")
    with found.locked():
        pass
    return found


def test_record_survives(store: RecordStore) -> None:
    record = NetworkRecord(SPEC, "52:54:00:11:22:33", {"eth0": {"addresses": ["10.1.1.1/24"], "routes": []}})
    store.save(record)
    assert store.names() == ["lab"]
    assert store.load("lab") == record


def test_forwards_that_clash_are_refused_and_read_from_records_of_before(store: RecordStore) -> None:
    spec = replace(SPEC, forwards=tuple(PortForward("tcp", 1, ip_address(f"10.7.0.{n}"), 1) for n in (2, 3)))
    with pytest.raises(SpecError, match="tcp port 1 of the host leads to one place only"):
        Networks(store.directory).create(spec)
    assert store.names() == []
    record = NetworkRecord(spec, "52:54:00:11:22:33")
    store.save(record)
    assert store.load("lab") == record


def test_forget_removes_record_and_files(store: RecordStore) -> None:
    store.save(NetworkRecord(SPEC, "52:54:00:11:22:33"))
    store.files("lab").directory.mkdir()
    store.files("lab").leases.write_text("x")
    store.forget("lab")
    store.forget("lab")
    assert store.names() == []
    assert store.load("lab") is None
    assert [path.name for path in store.directory.iterdir()] == [".lock"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 2}', '{"version": 1, "spec": {}}', "null"])
def test_damaged_record_is_one_clear_error(text: str, store: RecordStore) -> None:
    (store.directory / "lab.json").write_text(text)
    with pytest.raises(HostNetError, match="damaged record"):
        store.load("lab")


def test_settings_and_lock_are_no_networks(store: RecordStore) -> None:
    store.settings.write_text("{}")
    assert store.names() == []


def test_runtime_directory_of_a_user_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records.os, "geteuid", os.getuid)
    if os.getuid() == 0:
        pytest.skip("root's runtime directory is /run/pyhyve")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    path = records.runtime_directory()
    assert path == tmp_path / "pyhyve"
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_runtime_directory_of_someone_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyhyve").mkdir()
    monkeypatch.setattr(records.os, "geteuid", lambda: os.getuid() + 1)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(HostNetError, match="not a directory of your own"):
        records.runtime_directory()


def test_services_that_do_not_start_leave_those_of_before(store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    before = replace(SPEC, dhcp=(default_range(SPEC.addresses[0]),))
    store.save(NetworkRecord(before, "52:54:00:11:22:33"))
    started: list[NetworkSpec] = []

    def start(spec: NetworkSpec, _files: Files) -> None:
        started.append(spec)
        if spec.served:
            msg = "dnsmasq on lab0: bad port"
            raise HostNetError(msg)

    monkeypatch.setattr(dnsmasq, "start", start)
    monkeypatch.setattr(dnsmasq, "stop", lambda _files: None)
    networks, wrong = Networks(store.directory), replace(before, served=(("srv-host", "_a._b,h,0"),))
    with pytest.raises(HostNetError, match="bad port"):
        networks.change_services(wrong)
    assert started == [wrong, before]
    assert networks._store.load("lab") == NetworkRecord(before, "52:54:00:11:22:33")
    networks.change_services(SPEC)
    assert networks._store.load("lab") == NetworkRecord(SPEC, "52:54:00:11:22:33")
