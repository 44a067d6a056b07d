"""Processes of machines: started, recognised, watched."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from pyhyve.daemon.drivers.qemu.process import MachineProcess, log_since, process_start_time

if TYPE_CHECKING:
    from pathlib import Path

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_process_is_known_by_its_start_time(tmp_path: Path) -> None:
    process, _ = MachineProcess.start(SLEEP, (), tmp_path / "log")
    try:
        assert process.start_time == process_start_time(process.pid)
        assert MachineProcess.find(process.pid, process.start_time) is not None
        assert MachineProcess.find(process.pid, process.start_time + 1) is None
        assert os.getsid(process.pid) == process.pid
    finally:
        process.signal(signal.SIGKILL)
        assert process.child is not None
        process.child.wait()
    assert not process.alive()
    assert MachineProcess.find(process.pid, process.start_time) is None


def test_end_of_a_process_is_told_with_its_status(tmp_path: Path) -> None:
    async def whole() -> int | None:
        process, offset = MachineProcess.start(
            [sys.executable, "-c", "import sys; print('last words', flush=True); sys.exit(3)"], (), tmp_path / "log"
        )
        told: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        process.watch(told.set_result)
        status = await asyncio.wait_for(told, 20)
        assert log_since(tmp_path / "log", offset) == "last words"
        return status

    assert asyncio.run(whole()) == 3


def test_end_of_a_process_found_again_is_told_without(tmp_path: Path) -> None:
    async def whole() -> None:
        started, _ = MachineProcess.start(SLEEP, (), tmp_path / "log")
        found = MachineProcess.find(started.pid, started.start_time)
        assert found is not None
        told: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        found.watch(told.set_result)
        found.signal(signal.SIGKILL)
        assert await asyncio.wait_for(told, 20) is None
        assert started.child is not None
        started.child.wait()

    asyncio.run(whole())


def test_descriptor_is_inherited(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    process, _ = MachineProcess.start(
        [sys.executable, "-c", f"import os; os.write({writer}, b'here')"], (writer,), tmp_path / "log"
    )
    os.close(writer)
    assert os.read(reader, 10) == b"here"
    os.close(reader)
    assert process.child is not None
    process.child.wait()


def test_log_has_the_command_line(tmp_path: Path) -> None:
    process, offset = MachineProcess.start(["/bin/echo", "a b"], (), tmp_path / "deep" / "log")
    assert process.child is not None
    process.child.wait()
    text = (tmp_path / "deep" / "log").read_text(encoding="utf-8")
    assert "/bin/echo 'a b'" in text
    assert log_since(tmp_path / "deep" / "log", offset) == "a b"
    assert log_since(tmp_path / "missing", 0) == ""


def test_program_that_is_missing_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        MachineProcess.start([str(tmp_path / "none")], (), tmp_path / "log")
