"""A guest that knows nothing of us, with a screen and a keyboard: Memtest86+ from its disc."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .conftest import BOOT_TIMEOUT_S, PATIENCE
from .monitor import Monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DISC = Path("/usr/lib/memtest86+/memtest86+x64.iso")
TEXT_GPA, TEXT_BYTES = 0xB8000, 80 * 25 * 2
BLUE = b"\x00\x00\xaa"


class Screen:
    """The machine's monitor, and what is on its screen."""

    def __init__(self, monitor: Monitor, directory: Path) -> None:
        self.monitor = monitor
        self._file = directory / "cells"

    def text(self) -> str:
        self.monitor.ask("pmemsave", val=TEXT_GPA, size=TEXT_BYTES, filename=str(self._file))
        return self._file.read_bytes()[::2].decode("cp437")

    def wait(self, text: str, meanwhile: Callable[[], object] = lambda: None) -> None:
        deadline = time.monotonic() + BOOT_TIMEOUT_S * PATIENCE
        while text not in self.text():
            assert time.monotonic() < deadline, self.text()
            meanwhile()
            time.sleep(0.2)

    def press(self, key: str) -> None:
        self.monitor.ask("send-key", keys=[{"type": "qcode", "data": key}], hold_time=20)


@pytest.fixture
def memtest(tmp_path: Path) -> Iterator[Screen]:
    if not DISC.is_file():
        pytest.skip("needs the Debian package memtest86+")
    words = ["-m", "32", "-cdrom", str(DISC), "-boot", "d", "-display", "none", "-daemonize"]
    words += ["-qmp", f"unix:{tmp_path}/qmp,server=on,wait=off"]
    subprocess.run([sys.executable, "-m", "pyhyve.cli.system", *words], check=True, timeout=300)
    monitor = Monitor(tmp_path / "qmp")
    yield Screen(monitor, tmp_path)
    monitor.ask("quit")
    monitor.close()


def test_unmodified_disc_is_seen_and_typed_at(memtest: Screen, tmp_path: Path) -> None:
    memtest.wait("Memtest86+ v")
    # It looks at the keyboard now and then, and only for a while: ask until it answers.
    memtest.wait("Test selection", lambda: memtest.press("f1"))
    memtest.monitor.ask("screendump", filename=f"{tmp_path}/shot.ppm")
    head, size, depth, pixels = (tmp_path / "shot.ppm").read_bytes().split(b"\n", 3)
    assert (head, size, depth) == (b"P6", b"720 400", b"255")
    assert len(pixels) == 720 * 400 * 3
    colours = [pixels[at : at + 3] for at in range(0, len(pixels), 3)]
    assert colours.count(BLUE) > 720 * 400 // 3
    memtest.monitor.ask("screendump", filename=f"{tmp_path}/shot.png", format="png")
    assert (tmp_path / "shot.png").read_bytes().startswith(b"\x89PNG")
    said = memtest.monitor.ask("human-monitor-command", command_line=f"screendump {tmp_path}/again.ppm")
    assert said == ""
    assert (tmp_path / "again.ppm").read_bytes().startswith(b"P6")
