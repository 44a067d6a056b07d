"""What real virsh says of the host through our daemon, against what it says through libvirtd."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from daemon_process import DaemonProcess, virsh

if TYPE_CHECKING:
    from pathlib import Path

TEST_URI = "test+unix:///default"


@pytest.mark.parametrize(
    "command",
    [
        "nodeinfo",
        "nodecpumap",
        "nodecpustats",
        "nodecpustats --cpu 3",
        "nodememstats",
        "freecell --all",
        "freecell 1",
        "freecell 7",
        "maxvcpus",
        "hostname",
        "version",
        "uri",
        "domcapabilities",
        "allocpages 2048 1",
        "node-memory-tune",
        "capabilities",
    ],
)
def test_test_driver_answers_as_libvirts(ours: DaemonProcess, theirs: Path, command: str) -> None:
    mine, real = virsh(ours.uri(), command), virsh(f"{TEST_URI}?socket={theirs}", command)
    uri = re.compile(r"socket=\S+")
    assert (mine.returncode, uri.sub("", mine.stdout), mine.stderr) == (
        real.returncode,
        uri.sub("", real.stdout),
        real.stderr,
    )


def test_read_only_socket_refuses_changes_by_name(ours: DaemonProcess) -> None:
    done = virsh(ours.uri(read_only=True), "allocpages 2048 1", read_only=True)
    assert done.returncode == 1
    assert "read only access prevents virNodeAllocPages" in done.stderr
    done = virsh(ours.uri(read_only=True), "nodeinfo", read_only=True)
    assert done.returncode == 0
