from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.host.sleep import HostSleep

if TYPE_CHECKING:
    from pathlib import Path


def sysfs(root: Path, states: str) -> Path:
    (root / "power").mkdir()
    (root / "power/state").write_text(states)
    (root / "class/rtc/rtc0").mkdir(parents=True)
    (root / "class/rtc/rtc0/wakealarm").write_text("")
    return root


def test_host_sleeps_after_the_answer_and_is_woken(tmp_path: Path) -> None:
    async def run() -> None:
        host = HostSleep(sysfs(tmp_path, "freeze mem disk\n"), 0.0)
        host.begin(0, 90)
        assert (tmp_path / "power/state").read_text() == "freeze mem disk\n"
        with pytest.raises(LibvirtError, match="already in progress"):
            host.begin(0, 90)
        assert host.task is not None
        await host.task

    asyncio.run(run())
    assert (tmp_path / "class/rtc/rtc0/wakealarm").read_text() == "+90"
    assert (tmp_path / "power/state").read_text() == "mem"


@pytest.mark.parametrize(
    ("target", "duration", "message"),
    [(0, 90, "Suspend-to-RAM"), (2, 90, "Hybrid-Suspend"), (1, 59, "too short"), (7, 90, "unknown suspend target")],
)
def test_host_that_cannot_sleep_says_so(tmp_path: Path, target: int, duration: int, message: str) -> None:
    with pytest.raises(LibvirtError, match=message):
        HostSleep(sysfs(tmp_path, "disk")).begin(target, duration)
    assert (tmp_path / "class/rtc/rtc0/wakealarm").read_text() == ""


def test_host_without_power_states_cannot_sleep(tmp_path: Path) -> None:
    with pytest.raises(LibvirtError, match="Suspend-to-Disk"):
        HostSleep(tmp_path).begin(1, 60)
