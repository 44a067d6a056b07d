"""Who else has a file open: what to say when an image is locked."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

_NAME_OPTIONS = (b"--name", b"-name")


def describe_holders(path: Path, proc: Path = Path("/proc")) -> str:
    """Other processes that have `path` open, as `vm1 (process 1234), …`; empty when none can be seen."""
    try:
        wanted = path.stat()
    except OSError:
        return ""
    others = [directory for directory in proc.glob("[0-9]*") if directory.name != str(os.getpid())]
    found = sorted((directory for directory in others if _has_open(directory, wanted)), key=lambda one: int(one.name))
    return ", ".join(f"{_name(directory)} (process {directory.name})" for directory in found)


def _has_open(process: Path, wanted: os.stat_result) -> bool:
    try:
        descriptors = list((process / "fd").iterdir())
    except OSError:
        return False
    for descriptor in descriptors:
        try:
            status = descriptor.stat()
        except OSError:
            continue
        if (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino):
            return True
    return False


def _name(process: Path) -> str:
    """The name a machine was given, else its program's."""
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
        for option, value in itertools.pairwise(words):
            if option in _NAME_OPTIONS and value:
                return value.split(b",")[0].removeprefix(b"guest=").decode(errors="replace")
        return (process / "comm").read_text(errors="replace").strip()
    except OSError:
        return "?"
