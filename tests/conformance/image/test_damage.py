"""One flipped bit in the metadata: our check finds what qemu-img's finds, and our repair satisfies it."""

from __future__ import annotations

import json
import random
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.image.opening import OpenSettings, open_image
from tests.conformance.image.conftest import OUR_IMG, qemu_img, run

if TYPE_CHECKING:
    from pathlib import Path

FLIPS = 12
UNREPAIRABLE = ("exceeding the end of the file", "reserved bits", "not cluster aligned", "not properly aligned")


def make_image(path: Path, options: str) -> bytes:
    qemu_img("create", "-f", "qcow2", "-o", options, str(path), "4M")
    work = ["write -P 1 0 300k", "write -c -P 3 1M 64k", "write -P 2 2M 100k"]
    words = [word for command in work for word in ("-c", command)]
    subprocess.run(["qemu-io", *words, str(path)], stdout=subprocess.DEVNULL, check=True, timeout=60)
    with open_image(str(path), OpenSettings(writable=True)) as image:
        # At a moment of its own: which bits are flipped depends on the bytes there are.
        image.create_snapshot("s", date_ns=1_700_000_000_123_456_789)
    subprocess.run(["qemu-io", "-c", "write -P 5 0 100k", str(path)], stdout=subprocess.DEVNULL, check=True, timeout=60)
    return path.read_bytes()


def flipped(good: bytes, chance: random.Random) -> bytes:
    """A copy with one bit changed in a cluster that looks like a table."""
    size = 1 << int.from_bytes(good[20:24], "big")
    tables = [at for at in range(size, len(good), size) if size // 2 < good[at : at + size].count(0) < size]
    table = chance.choice(tables)
    place = chance.choice([at for at in range(table, min(len(good), table + size)) if good[at]])
    data = bytearray(good)
    data[place] ^= 1 << chance.randrange(8)
    return bytes(data)


def facts(output: str) -> dict[str, Any]:
    """The JSON report; how often one corrupted table is counted may differ, whether it is may not."""
    found: dict[str, Any] = json.loads(output)
    found["corruptions"] = bool(found.get("corruptions"))
    return found


@pytest.mark.parametrize(
    "options", ["cluster_size=65536", "cluster_size=4096", "cluster_size=4096,refcount_bits=8", "extended_l2=on"]
)
def test_check_agrees_about_damage(options: str, tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    good, chance = make_image(path, options), random.Random(options)
    for _ in range(FLIPS):
        path.write_bytes(flipped(good, chance))
        theirs = qemu_img("check", "--output", "json", str(path))
        ours = run([*OUR_IMG, "check", "--output", "json", str(path)])
        assert ours.returncode == theirs.returncode, (ours.stdout, ours.stderr, theirs.stdout, theirs.stderr)
        assert facts(ours.stdout) == facts(theirs.stdout)
        run([*OUR_IMG, "check", "-r", "all", str(path)])
        after = qemu_img("check", str(path))
        if after.returncode:
            assert any(reason in after.stderr for reason in UNREPAIRABLE), after.stdout + after.stderr
