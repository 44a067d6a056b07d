from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pyhyve.machine.holders import describe_holders

if TYPE_CHECKING:
    from pathlib import Path


def fake_process(proc: Path, number: int, command: bytes, *files: Path) -> None:
    directory = proc / str(number)
    (directory / "fd").mkdir(parents=True)
    (directory / "cmdline").write_bytes(command)
    (directory / "comm").write_text("program\n")
    for index, file in enumerate(files):
        (directory / "fd" / str(index)).symlink_to(file)


def test_holders_are_named_as_their_machines(tmp_path: Path) -> None:
    image, other, proc = tmp_path / "image", tmp_path / "other", tmp_path / "proc"
    image.touch()
    other.touch()
    link = tmp_path / "link"
    link.symlink_to(image)
    fake_process(proc, 30, b"pyhyve\0run\0--name\0vm1\0", other, image)
    fake_process(proc, 4, b"qemu-system-x86_64\0-name\0guest=vm2,debug-threads=on\0", image)
    fake_process(proc, 5, b"", image)
    fake_process(proc, 6, b"x\0", other, tmp_path / "gone")
    fake_process(proc, os.getpid(), b"x\0", image)
    assert describe_holders(link, proc) == "vm2 (process 4), program (process 5), vm1 (process 30)"
    assert describe_holders(tmp_path / "gone", proc) == ""


def test_processes_that_cannot_be_seen_are_left_out(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.touch()
    (tmp_path / "proc" / "7").mkdir(parents=True)
    assert describe_holders(image, tmp_path / "proc") == ""
    assert describe_holders(image) == ""
