"""The verbs side by side with qemu-img: same commands in the same order, same status, same output, same mapping."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.image.conftest import OUR_IMG, environment, run

COMMANDS = Path(__file__).with_name("commands.txt")
SETUP = """
qemu-img create -f qcow2 e.qcow2 4M
qemu-io -c 'write -P 1 0 100k' -c 'write -P 2 1M 64k' e.qcow2
qemu-img create -f qcow2 -b e.qcow2 -F qcow2 f.qcow2 6M
qemu-io -c 'write -z 1M 64k' -c 'write -P 3 3M 10k' f.qcow2
qemu-img convert f.qcow2 g.raw
qemu-img create -f qcow -b e.qcow2 -F qcow2 y4.qcow
qemu-io -c 'write -P 9 2M 3k' y4.qcow
qemu-img create -f qcow2 -o preallocation=metadata y5.qcow2 1M
qemu-img create -f qcow2 -o preallocation=metadata,extended_l2=on y3.qcow2 1M
qemu-io -c 'write -P 9 100k 3k' y3.qcow2
qemu-img create -f qcow2 -o data_file=dd.raw,data_file_raw=on y2.qcow2 1M
qemu-img convert -c -O qcow2 -o compression_type=zstd g.raw z.qcow2
qemu-img bitmap --add z.qcow2 b0
qemu-img create -f raw x.raw 1000
qemu-img snapshot -c s1 e.qcow2
qemu-io -c 'write -P 7 64k 64k' e.qcow2
"""
# What depends on the host, the clock, or on how a file system counts blocks.
VOLATILE_KEYS = {"actual-size", "date-sec", "date-nsec"}
VOLATILE_TEXT = re.compile(r"disk size.*|Run completed.*|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


def stable(text: str) -> Any:
    """Output without what may differ; JSON as values."""
    try:
        value = json.loads(text)
    except ValueError:
        return VOLATILE_TEXT.sub("", text)

    def strip(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: strip(part) for key, part in item.items() if key not in VOLATILE_KEYS}
        return [strip(part) for part in item] if isinstance(item, list) else item

    return strip(value)


def play(tool: list[str], directory: Path) -> list[tuple[str, int, Any]]:
    """Run all commands in a fresh directory."""
    directory.mkdir()
    for line in SETUP.strip().splitlines():
        subprocess.run(
            shlex.split(line), cwd=directory, env=environment(), check=True, stdout=subprocess.DEVNULL, timeout=60
        )
    results = []
    for line in COMMANDS.read_text().splitlines():
        done = run([*tool, *shlex.split(line)], directory)
        if done.returncode:
            assert done.stderr.count("\n") <= 2, f"{line}: {done.stderr}"
            assert "Traceback" not in done.stderr
            assert "internal error" not in done.stderr
        results.append((line, done.returncode, stable(done.stdout)))
    return results


@pytest.mark.timeout(1200)
def test_every_command_gives_what_qemu_img_gives(tmp_path: Path) -> None:
    theirs = play(["qemu-img"], tmp_path / "theirs")
    ours = play(OUR_IMG, tmp_path / "ours")
    differences = [(mine, other) for mine, other in zip(ours, theirs, strict=True) if mine != other]
    assert differences == []
