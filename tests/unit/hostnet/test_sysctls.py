from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyhyve.hostnet import sysctls
from pyhyve.hostnet.sysctls import IPV4_FORWARD, IPV6_FORWARD, SettingsRecord

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings in ordinary files."""
    root = tmp_path / "net"
    for name, value in {
        IPV4_FORWARD: "0",
        IPV6_FORWARD: "0",
        "ipv6/conf/eth0/accept_ra": "1",
        "ipv6/conf/eth1/accept_ra": "0",
        "ipv6/conf/lo/accept_ra": "1",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(value + "\n")
    monkeypatch.setattr(sysctls, "ROOT", root)
    return tmp_path


def test_setting_is_put_back_by_the_last_user(kernel: Path) -> None:
    path = kernel / "settings.json"
    SettingsRecord(path).acquire("a", {IPV4_FORWARD: "1"})
    SettingsRecord(path).acquire("b", {IPV4_FORWARD: "1"})
    SettingsRecord(path).release("a")
    assert sysctls.read(IPV4_FORWARD) == "1"
    SettingsRecord(path).release("b")
    assert sysctls.read(IPV4_FORWARD) == "0"
    assert not path.exists()


def test_setting_that_was_right_before_stays(kernel: Path) -> None:
    sysctls.write(IPV4_FORWARD, "1")
    record = SettingsRecord(kernel / "settings.json")
    record.acquire("a", {IPV4_FORWARD: "1"})
    record.release("a")
    assert sysctls.read(IPV4_FORWARD) == "1"


def test_setting_that_someone_changed_since_stays(kernel: Path) -> None:
    record = SettingsRecord(kernel / "settings.json")
    record.acquire("a", {"ipv6/conf/eth0/accept_ra": "2"})
    sysctls.write("ipv6/conf/eth0/accept_ra", "0")
    record.release("a")
    assert sysctls.read("ipv6/conf/eth0/accept_ra") == "0"


def test_ipv6_forwarding_keeps_router_advertisements(kernel: Path) -> None:
    assert sysctls.wanted_for_forwarding([6]) == {"ipv6/conf/eth0/accept_ra": "2", IPV6_FORWARD: "1"}
    assert sysctls.wanted_for_forwarding([4]) == {IPV4_FORWARD: "1"}


def test_setting_the_kernel_lacks_is_passed_over(kernel: Path) -> None:
    SettingsRecord(kernel / "settings.json").acquire("a", {"ipv9/forward": "1"})
    assert not (kernel / "settings.json").exists()


def test_damaged_record_counts_as_none(kernel: Path) -> None:
    (kernel / "settings.json").write_text('{"x": 1}')
    SettingsRecord(kernel / "settings.json").release("a")
