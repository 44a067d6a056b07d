"""A small share of tests/endurance: the daemon at work, and killed."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.endurance.daemon import DaemonUnderTest, kill, work
from tests.endurance.scale import Scale

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EMULATOR = shutil.which("qemu-system-x86_64") or ""
pytestmark = pytest.mark.skipif(not EMULATOR, reason="no qemu-system-x86_64 (Debian package qemu-system-x86)")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonUnderTest]:
    under_test = DaemonUnderTest(tmp_path / "root")
    under_test.start()
    yield under_test
    under_test.stop()


def test_cycles_leave_nothing_behind(daemon: DaemonUnderTest) -> None:
    assert work(daemon, 12, 4, EMULATOR) == []


def test_killed_daemon_loses_nothing(daemon: DaemonUnderTest) -> None:
    assert kill(daemon, 3, EMULATOR, seed=1) == []


def test_many_domains_outlive_daemons_and_start_by_themselves(daemon: DaemonUnderTest) -> None:
    scale = Scale(daemon, 40, 4, EMULATOR)
    scale.run()
    assert scale.problems == []
