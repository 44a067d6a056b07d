"""Formats of other hypervisors against qemu-img and qemu-io, both ways."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from pyhyve.cli.main import main
from pyhyve.image.opening import OpenSettings, create_image, open_image, parse_create_options

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from pyhyve.image.contract import Image

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img (qemu-utils) is not installed")

SIZE = 20 << 20
CASES = [
    ("vdi", {}),
    ("vdi", {"static": "on"}),
    ("vpc", {}),
    ("vpc", {"force_size": "on"}),
    ("vpc", {"subformat": "fixed"}),
    ("vpc", {"subformat": "fixed", "force_size": "on"}),
    ("parallels", {}),
    ("parallels", {"cluster_size": "64k"}),
    ("vhdx", {}),
    ("vhdx", {"subformat": "fixed"}),
    ("vhdx", {"block_size": "1M"}),
    ("vhdx", {"log_size": "2M"}),
    ("vhdx", {"block_state_zero": "off"}),
    ("vhdx", {"subformat": "fixed", "block_state_zero": "off"}),
    ("vmdk", {}),
    ("vmdk", {"subformat": "monolithicSparse", "zeroed_grain": "on"}),
    ("vmdk", {"subformat": "monolithicFlat"}),
    ("vmdk", {"subformat": "twoGbMaxExtentSparse"}),
    ("vmdk", {"subformat": "twoGbMaxExtentFlat"}),
    ("vmdk", {"compat6": "on", "adapter_type": "lsilogic", "hwversion": "10", "toolsversion": "9"}),
]
each_case = pytest.mark.parametrize(
    ("format_name", "options"), CASES, ids=["-".join((name, *options.values())) for name, options in CASES]
)
# What each side makes up on its own.
PRIVATE = {"actual-size", "cid", "filename", "dirty-flag"}


def qemu(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout


def same(format_name: str, path: Path, raw: Path) -> None:
    """qemu-img agrees that the image holds what the raw file holds, and finds no error in it."""
    qemu("qemu-img", "compare", "-f", format_name, "-F", "raw", str(path), str(raw))
    if format_name != "vpc":
        found = json.loads(qemu("qemu-img", "check", "-f", format_name, "--output", "json", str(path)))
        assert not found.get("corruptions")
        assert not found.get("leaks")
        assert not found["check-errors"]


def content(image: Image) -> bytes:
    data = bytearray(image.size_bytes)
    image.pread_into(memoryview(data), 0)
    return bytes(data)


def scribble(image: Image, flat: bytearray, seed: int) -> None:
    """Random writes of all kinds."""
    rng = random.Random(seed)
    for _ in range(25):
        length = min(rng.choice([1, 512, 4096, 65536, 300_000, 3 << 20]), len(flat))
        offset = rng.randrange(len(flat) - length + 1)
        if rng.random() < 0.5:
            offset &= ~0xFFFF
        if rng.random() < 0.2:
            image.write_zeroes(offset, length)
            flat[offset : offset + length] = bytes(length)
        else:
            data = rng.randbytes(length)
            image.pwrite(data, offset)
            flat[offset : offset + length] = data
        if rng.random() < 0.1:
            image.flush()


def ours(capsys: Any, *words: str) -> Any:
    capsys.readouterr()
    status = main(["img", *words])
    found = capsys.readouterr()
    assert status == 0, found.err
    return json.loads(found.out)


def comparable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items() if key not in PRIVATE}
    return [comparable(item) for item in value] if isinstance(value, list) else value


def assert_described_alike(capsys: Any, format_name: str, path: Path) -> None:
    """`info`, `map` and `check` print the same JSON for the same file."""
    for verb in ("info", "map", *(() if format_name == "vpc" else ("check",))):
        words = (verb, "-f", format_name, "--output", "json", str(path))
        theirs = json.loads(qemu("qemu-img", *words))
        mine = ours(capsys, *words)
        if verb == "info":
            dirty_known = "dirty-flag" in theirs
            mine = {key: item for key, item in mine.items() if key != "dirty-flag" or dirty_known}
        assert mine == theirs, verb


@each_case
def test_new_images_are_alike(format_name: Any, options: Any, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    mine, theirs = tmp_path / "a" / "disk", tmp_path / "b" / "disk"
    words = ",".join(f"{name}={value}" for name, value in options.items())
    assert main(["img", "create", "-q", "-f", format_name, *(["-o", words] if words else []), str(mine), "20M"]) == 0
    qemu("qemu-img", "create", "-q", "-f", format_name, *(["-o", words] if words else []), str(theirs), "20M")
    infos = [
        json.loads(qemu("qemu-img", "info", "-f", format_name, "--output", "json", str(p))) for p in (mine, theirs)
    ]
    assert comparable(infos[0]) == comparable(infos[1])
    sizes = [sorted((p.name, p.stat().st_size) for p in directory.parent.iterdir()) for directory in (mine, theirs)]
    assert sizes[0] == sizes[1]
    for path in (mine, theirs):
        assert_described_alike(capsys, format_name, path)


@each_case
def test_our_writes_to_their_image(format_name: Any, options: Any, tmp_path: Path, capsys: Any) -> None:
    path, raw = tmp_path / "disk", tmp_path / "raw"
    words = ",".join(f"{name}={value}" for name, value in options.items())
    qemu("qemu-img", "create", "-q", "-f", format_name, *(["-o", words] if words else []), str(path), str(SIZE))
    with open_image(str(path), OpenSettings(format_name, writable=True)) as image:
        flat = bytearray(image.size_bytes)
        scribble(image, flat, 1)
        assert content(image) == flat
    raw.write_bytes(flat)
    same(format_name, path, raw)
    assert_described_alike(capsys, format_name, path)
    with open_image(str(path), OpenSettings(format_name, writable=True)) as image:
        scribble(image, flat, 2)
    raw.write_bytes(flat)
    same(format_name, path, raw)


@each_case
def test_their_writes_to_our_image(format_name: Any, options: Any, tmp_path: Path, capsys: Any) -> None:
    path, raw = tmp_path / "disk", tmp_path / "raw"
    create_image(str(path), format_name, SIZE, parse_create_options(format_name, options))
    size = json.loads(qemu("qemu-img", "info", "-f", format_name, "--output", "json", str(path)))["virtual-size"]
    with raw.open("wb") as file:
        file.truncate(size)
    rng = random.Random(3)
    commands: list[str] = []
    for _ in range(20):
        length = rng.choice([512, 4096, 65536, 300_032, 3 << 20])
        offset = rng.randrange((size - length) // 512) * 512
        verb = f"write -P {rng.randrange(1, 256)}" if rng.random() < 0.8 else "write -z"
        commands += ["-c", f"{verb} {offset} {length}"]
    for target, target_format in ((path, format_name), (raw, "raw")):
        qemu("qemu-io", "-f", target_format, *commands, str(target))
    with open_image(str(path), OpenSettings(format_name)) as image:
        assert content(image) == raw.read_bytes()
    assert_described_alike(capsys, format_name, path)
    flat = bytearray(raw.read_bytes())
    with open_image(str(path), OpenSettings(format_name, writable=True)) as image:
        scribble(image, flat, 4)
    raw.write_bytes(flat)
    same(format_name, path, raw)


@each_case
def test_conversion_both_ways(format_name: Any, options: Any, tmp_path: Path) -> None:
    source, mine, theirs, back = (tmp_path / name for name in ("source", "mine", "theirs", "back"))
    rng = random.Random(5)
    data = bytearray(SIZE)
    for at in (0, 1 << 20, 5 << 20, SIZE - (1 << 16)):
        data[at : at + 65536] = rng.randbytes(65536)
    source.write_bytes(data)
    words = ",".join(f"{name}={value}" for name, value in options.items())
    rest = ["-f", "raw", "-O", format_name, *(["-o", words] if words else []), str(source)]
    assert main(["img", "convert", *rest, str(mine)]) == 0
    same(format_name, mine, source)
    qemu("qemu-img", "convert", *rest, str(theirs))
    assert main(["img", "convert", "-f", format_name, "-O", "raw", str(theirs), str(back)]) == 0
    got = back.read_bytes()
    assert got[:SIZE] == data
    assert not any(got[SIZE:])
