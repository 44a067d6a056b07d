from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
OUR_IMG = [sys.executable, "-c", "import sys; from pyhyve.cli.main import main; sys.exit(main())", "img"]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT / "src"), "LC_ALL": "C", "TZ": "UTC"}


def run(command: list[str], directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=directory, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )


def qemu_img(*arguments: str, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    return run(["qemu-img", *arguments], directory)


def require(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed (Debian package qemu-utils)")


@pytest.fixture(autouse=True)
def _peer() -> None:
    for program in ("qemu-img", "qemu-io", "qemu-nbd"):
        require(program)
