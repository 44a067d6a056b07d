"""Domains on QEMU: virsh on libvirtd, virsh on our daemon and our virsh on libvirtd say the same."""

# ruff: noqa: E501 - sessions as somebody would type them

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from domain_sessions import DEFINITIONS, FILES, FIRMWARE, MACHINES, ODD, SAVED
from sides import VIRSH, Side, assert_same, side_of, skip_reason

if TYPE_CHECKING:
    from collections.abc import Iterator

VOLATILE = (
    (re.compile(r"[^>\s]*/qemu/nvram/"), "NVRAM/"),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}"), "UUID"),
    (re.compile(r"CPU time: +.*"), "CPU time"),
    (re.compile(r"/dev/pts/\d+"), "PTY"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d( [+-]\d{4})?"), "MOMENT"),
    (re.compile(r"^( ?)\d+( +(?:min|min2|pc|q35) )", re.MULTILINE), r"\1ID\2"),
    (re.compile(r"Id: +\d+"), "Id"),
    (re.compile(r"-{20,}"), "RULE"),
    (re.compile(r"libvirt-\d+"), "CALL"),
    # libvirtd looks at a machine that was reset in its own time
    (re.compile(r"occupied \(\d+\.\d+s\)"), "ok"),
    # an image that QEMU has locked may take a block more
    (re.compile(r"Allocation: +\d+"), "Allocation"),
)
JUSTIFIED = {
    "define @DIR@/q35.xml; dumpxml q35; domblklist q35; domblklist q35 --details --inactive; domiflist q35": (
        "controllers that were added come in another order"
    ),
    "define @DIR@/bad4.xml": "where a document ends too early is shown, not '(null)'",
    "blockjob q35 vda; blockpull q35 vda; blockcommit q35 vda; blockcopy q35 vda @DIR@/c.qcow2; blockresize q35 vda 128M": (
        "that the domain is not running is said of all, before its images are looked at"
    ),
}
"""Sessions that differ, and why."""


def reason() -> str | None:
    absent = [name for name in ("qemu-system-x86_64", "qemu-img") if shutil.which(name) is None]
    return skip_reason() or (f"not installed: {', '.join(absent)}" if absent else None)


pytestmark = pytest.mark.skipif(reason() is not None, reason=reason() or "")


SESSIONS, NAMES = [DEFINITIONS, MACHINES, ODD, SAVED], ["definitions", "machines", "odd", "saved"]
if Path("/usr/share/qemu/firmware/60-edk2-x86_64.json").exists():  # Debian package ovmf
    SESSIONS.append(FIRMWARE)
    NAMES.append("firmware")


def with_disks(side: Side) -> Side:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", side.directory / "a.qcow2", "64M"], check=True)
    (side.directory / "b.raw").write_bytes(bytes(1 << 20))
    (side.directory / "empty.raw").write_bytes(bytes(1 << 20))
    return side


@pytest.fixture(scope="module")
def libvirtd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    with side_of("virsh-libvirtd", tmp_path_factory.mktemp("libvirtd"), FILES, VOLATILE) as side:
        yield with_disks(side)


@pytest.fixture(scope="module", params=["virsh-ours", "ours-libvirtd"])
def ours(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    with side_of(request.param, tmp_path_factory.mktemp(request.param), FILES, VOLATILE) as side:
        yield with_disks(side)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("sessions", SESSIONS, ids=NAMES)
def test_sessions_go_as_with_virsh_on_libvirtd(libvirtd: Side, ours: Side, sessions: str) -> None:
    if sessions is FIRMWARE and ours.client != VIRSH:
        pytest.skip("it is the daemon that chooses firmware")
    assert_same(libvirtd, ours, sessions, JUSTIFIED)
