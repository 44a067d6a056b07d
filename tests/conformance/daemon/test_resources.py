"""Networks, storage and secrets: virsh on libvirtd, virsh on our daemon and our virsh on libvirtd say the same."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from resource_sessions import DEVICES, FILES, NETWORKS, POOLS, SECRETS
from sides import Side, assert_same, side_of, skip_reason

if TYPE_CHECKING:
    from collections.abc import Iterator

VOLATILE = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}"), "UUID"),
    (re.compile(r"\n  <mac address='52:54:00:[0-9a-f:]{8}'/>"), "MAC"),
    # libvirtd says so of images it has looked at again since it made them
    (re.compile(r"\n    <compat>.*\n.*\n    <features/>"), ""),
    (re.compile(r"<(atime|mtime|ctime|btime)>.*"), "TIME"),
    # how full the host's own file system is
    (re.compile(r"<(capacity|allocation|available) unit='bytes'>\d{10,}<"), "ROOM"),
    (re.compile(r"[\d.]+ [GT]iB +[\d.]+ [GT]iB( +[\d.]+ [GT]iB)?"), "ROOM"),
    (re.compile(r"(Capacity|Allocation|Available): +[\d.]+ [GT]iB"), "ROOM"),
    # images of ours take less: no refcounts are kept for what is not there
    (re.compile(r"<allocation unit='bytes'>\d{6}<"), "IMAGE"),
    (re.compile(r"(file +[\d.]+ [GM]iB +|Allocation: +)\d+\.\d\d KiB"), "IMAGE"),
    (re.compile(r"-{20,}"), "RULE"),
    (re.compile(r"/usr/bin/mount|/bin/mount"), "mount"),
)
JUSTIFIED = {
    "pool-capabilities": "pools of disk, iscsi, scsi and mpath are libvirt's alone",
    "vol-wipe a p1; vol-wipe a p1 --algorithm random": "libvirtd needs the program scrub for that, we do not",
}
"""Sessions that differ, and why."""


pytestmark = pytest.mark.skipif(skip_reason() is not None, reason=skip_reason() or "")


@pytest.fixture(scope="module")
def libvirtd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    with side_of("virsh-libvirtd", tmp_path_factory.mktemp("libvirtd"), FILES, VOLATILE) as side:
        yield side


@pytest.fixture(scope="module", params=["virsh-ours", "ours-libvirtd"])
def ours(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    with side_of(request.param, tmp_path_factory.mktemp(request.param), FILES, VOLATILE) as side:
        yield side


@pytest.mark.parametrize(
    "sessions", [POOLS, NETWORKS, SECRETS, DEVICES], ids=["pools", "networks", "secrets", "devices"]
)
def test_sessions_go_as_with_virsh_on_libvirtd(libvirtd: Side, ours: Side, sessions: str) -> None:
    assert_same(libvirtd, ours, sessions, JUSTIFIED)
