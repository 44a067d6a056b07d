"""Random work by both sides on the same image, compared with a flat disk and checked by qemu-img."""

from __future__ import annotations

import random
import subprocess
from typing import TYPE_CHECKING

import pytest

from pyhyve.image.contract import BackingReference, Image, ImageError
from pyhyve.image.opening import OpenSettings, create_image, open_image, parse_create_options
from tests.conformance.image.conftest import qemu_img

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 4 << 20
VARIANTS: list[dict[str, str]] = [
    {},
    {"compat": "v2"},
    {"cluster_size": "512"},
    {"cluster_size": "2M"},
    {"cluster_size": "4096", "refcount_bits": "1"},
    {"cluster_size": "1024", "refcount_bits": "64"},
    {"lazy_refcounts": "on"},
    {"extended_l2": "on"},
    {"extended_l2": "on", "cluster_size": "16k"},
    {"compression_type": "zstd"},
]


def read(image: Image) -> bytes:
    buffer = bytearray(image.size_bytes)
    image.pread_into(memoryview(buffer), 0)
    return bytes(buffer)


def assert_clean(path: Path) -> None:
    done = qemu_img("check", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def assert_same(path: Path, flat: bytearray, format_name: str) -> None:
    reference = path.with_name("flat.raw")
    reference.write_bytes(flat)
    done = qemu_img("compare", "-f", format_name, "-F", "raw", str(path), str(reference))
    assert done.returncode == 0, done.stdout + done.stderr


def our_work(path: Path, flat: bytearray, chance: random.Random, format_name: str, states: dict[str, bytes]) -> None:
    image = open_image(str(path), OpenSettings(format_name, writable=True))
    cluster = image.cluster_size_bytes or 512
    for _ in range(30):
        kind = chance.choice("wwwzdcfs")
        offset = chance.randrange(SIZE)
        length = min(SIZE - offset, chance.choice([1, 512, 4096, 70_000, 300_000]))
        if kind in "dc":
            offset = offset // cluster * cluster
            length = min(SIZE - offset, -(-length // cluster) * cluster)
        data = bytes(length)
        if kind == "w":
            data = chance.randbytes(length)
            image.pwrite(data, offset)
        elif kind == "z":
            image.write_zeroes(offset, length, unmap=chance.random() < 0.5)
        elif kind == "d" and format_name == "qcow2" and image.backing is None:
            image.discard(offset, length)
        elif kind == "c":
            data = (chance.randbytes(20) * (length // 20 + 1))[:length]
            image.write_compressed(data, offset)
        elif kind == "s" and format_name == "qcow2":
            snapshot_work(image, flat, chance, states)
            continue
        else:
            image.flush()
            continue
        flat[offset : offset + length] = data
    assert read(image) == flat
    image.close()


def snapshot_work(image: Image, flat: bytearray, chance: random.Random, states: dict[str, bytes]) -> None:
    meta = image.meta  # type: ignore[attr-defined]
    if len(states) < 2:
        name = f"s{chance.randrange(1 << 30)}"
        if meta.header.refcount_order == 0:
            with pytest.raises(ImageError, match="too narrow"):
                image.create_snapshot(name, date_ns=1_700_000_000_000_000_000)
            return
        state = chance.randbytes(chance.choice((0, 1000, 150_000)))
        image.pwrite_vm_state(state, 0)
        image.create_snapshot(name, date_ns=1_700_000_000_000_000_000, vm_state_size_bytes=len(state))
        states[name] = bytes(flat)
        return
    name = chance.choice(list(states))
    entry = image.find_snapshot(name)
    assert entry is not None
    if chance.random() < 0.5:
        image.apply_snapshot(entry)
        flat[:] = states[name]
    else:
        image.delete_snapshot(entry)
        del states[name]


def their_work(path: Path, flat: bytearray, chance: random.Random, format_name: str) -> None:
    commands = []
    for _ in range(12):
        offset = chance.randrange(SIZE // 512) * 512
        length = min(SIZE - offset, chance.choice([512, 4096, 70_144, 300_032]))
        pattern = chance.randrange(1, 255)
        if format_name == "qcow2" and chance.random() < 0.3:
            commands += ["-c", f"write -z -u {offset} {length}"]
            flat[offset : offset + length] = bytes(length)
        else:
            commands += ["-c", f"write -P {pattern} {offset} {length}"]
            flat[offset : offset + length] = bytes((pattern,)) * length
    subprocess.run(
        ["qemu-io", "-f", format_name, *commands, str(path)], check=True, stdout=subprocess.DEVNULL, timeout=60
    )


@pytest.mark.parametrize("who", ["ours", "theirs"])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_qcow2_written_in_turns_stays_right(options: dict[str, str], who: str, tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    if who == "ours":
        create_image(str(path), "qcow2", SIZE, parse_create_options("qcow2", options))
    else:
        words = ["-o", ",".join(f"{name}={value}" for name, value in options.items())] if options else []
        assert qemu_img("create", "-f", "qcow2", *words, str(path), str(SIZE)).returncode == 0
    chance, flat, states = random.Random(str(options) + who), bytearray(SIZE), dict[str, bytes]()
    for _ in range(3):
        our_work(path, flat, chance, "qcow2", states)
        assert_clean(path)
        assert_same(path, flat, "qcow2")
        their_work(path, flat, chance, "qcow2")
        with open_image(str(path)) as image:
            assert read(image) == flat
            result = image.check()
            assert (result.corruptions, result.leaks) == (0, 0)
    for name, state in states.items():
        assert qemu_img("snapshot", "-a", name, str(path)).returncode == 0
        assert_same(path, bytearray(state), "qcow2")


@pytest.mark.parametrize("format_name", ["qcow", "qcow2"])
def test_overlay_written_in_turns_stays_right(format_name: str, tmp_path: Path) -> None:
    chance = random.Random(format_name)
    base = chance.randbytes(3 << 20)
    (tmp_path / "base.raw").write_bytes(base)
    flat = bytearray(base + bytes(SIZE - len(base)))
    path = tmp_path / "disk"
    create_image(str(path), format_name, SIZE, {}, BackingReference("base.raw", "raw"))
    for _ in range(3):
        our_work(path, flat, chance, format_name, {"a": b"", "b": b""} if format_name == "qcow" else {})
        assert_same(path, flat, format_name)
        their_work(path, flat, chance, format_name)
        with open_image(str(path)) as image:
            assert read(image) == flat


def test_external_data_file_written_in_turns_stays_right(tmp_path: Path) -> None:
    path, data = tmp_path / "disk.qcow2", tmp_path / "data.raw"
    for raw in ("off", "on"):
        options = {"data_file": str(data), "data_file_raw": raw}
        create_image(str(path), "qcow2", SIZE, parse_create_options("qcow2", options))
        chance, flat = random.Random(raw), bytearray(SIZE)
        for _ in range(2):
            with open_image(str(path), OpenSettings(writable=True)) as image:
                for _ in range(20):
                    offset = chance.randrange(SIZE)
                    length = min(SIZE - offset, chance.choice([1, 4096, 70_000]))
                    part = chance.randbytes(length) if chance.random() < 0.7 else bytes(length)
                    if any(part):
                        image.pwrite(part, offset)
                    else:
                        image.write_zeroes(offset, length)
                    flat[offset : offset + length] = part
            assert_clean(path)
            assert_same(path, flat, "qcow2")
            their_work(path, flat, chance, "qcow2")
            with open_image(str(path)) as image:
                assert read(image) == flat
        if raw == "on":
            assert data.read_bytes() == flat
