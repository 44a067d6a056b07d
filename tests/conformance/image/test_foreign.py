"""Formats of other hypervisors against qemu-img and qemu-io, both ways."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from pyhyve.cli.main import main
from pyhyve.image.contract import BackingReference, ImageFormatError, ImageUnsupportedError
from pyhyve.image.opening import OpenSettings, create_image, open_image, parse_create_options
from tests.unit.image import foreign_images
from tests.unit.image.foreign_images import log_entry, put_log

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
    ("vmdk", {"compat6": "on", "adapter_type": "lsilogic", "toolsversion": "9"}),
    ("vmdk", {"hwversion": "10"}),
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
        assert mine == theirs, verb


@pytest.mark.parametrize(
    ("format_name", "options"),
    [*CASES, ("vmdk", {"subformat": "streamOptimized"}), ("vmdk", {"adapter_type": "buslogic"})],
)
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
    # Text descriptors differ in length: qemu-img writes content IDs without leading zeroes.
    sizes = [sorted((p.name, p.stat().st_size // 4096) for p in disk.parent.iterdir()) for disk in (mine, theirs)]
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


@pytest.mark.parametrize("compress", [False, True])
def test_stream_optimized_disks_both_ways(compress: Any, tmp_path: Path, capsys: Any) -> None:
    source, mine, theirs, back = (tmp_path / name for name in ("source", "mine.vmdk", "theirs.vmdk", "back"))
    data = bytearray(SIZE + 512)
    data[: 1 << 20] = random.Random(6).randbytes(1 << 20)
    data[5 << 20 : 7 << 20] = b"compressible" * ((2 << 20) // 12 + 1)
    data[-100:] = bytes(range(100))
    data = data[: SIZE + 512]
    source.write_bytes(data)
    rest = ["-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", *(["-c"] if compress else []), str(source)]
    assert main(["img", "convert", *rest, str(mine)]) == 0
    qemu("qemu-img", "convert", *rest, str(theirs))
    same("vmdk", mine, source)
    for path in (mine, theirs):
        assert_described_alike(capsys, "vmdk", path)
        assert main(["img", "convert", "-O", "raw", str(path), str(back)]) == 0
        assert back.read_bytes() == data
    with open_image(str(theirs), OpenSettings(writable=True)) as image:
        scribble(image, data, 7)
        assert content(image) == data
    source.write_bytes(data)
    same("vmdk", theirs, source)


def test_vmdk_parents_both_ways(tmp_path: Path, capsys: Any) -> None:
    base, mine, theirs, raw = (tmp_path / name for name in ("base.vmdk", "mine.vmdk", "theirs.vmdk", "raw"))
    qemu("qemu-img", "create", "-q", "-f", "vmdk", str(base), str(SIZE))
    flat = bytearray(SIZE)
    with open_image(str(base), OpenSettings("vmdk", writable=True)) as image:
        scribble(image, flat, 8)
    create = ["create", "-q", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk"]
    assert main(["img", *create, str(mine)]) == 0
    subprocess.run(["qemu-img", *create, str(theirs)], check=True, cwd=tmp_path)
    raw.write_bytes(flat)
    for path, seed in ((mine, 9), (theirs, 10)):
        same("vmdk", path, raw)
        own = bytearray(flat)
        with open_image(str(path), OpenSettings("vmdk", writable=True)) as image:
            scribble(image, own, seed)
        raw.write_bytes(own)
        same("vmdk", path, raw)
        assert_described_alike(capsys, "vmdk", path)
        raw.write_bytes(flat)


def test_vmdk_overlay_is_committed_as_by_qemu(tmp_path: Path) -> None:
    for tool in ("ours", "qemu"):
        (tmp_path / tool).mkdir()
        base, top = tmp_path / tool / "base.vmdk", tmp_path / tool / "top.vmdk"
        qemu("qemu-img", "create", "-q", "-f", "vmdk", str(base), str(SIZE))
        qemu("qemu-img", "create", "-q", "-f", "vmdk", "-b", str(base), "-F", "vmdk", str(top))
        qemu("qemu-io", "-f", "vmdk", "-c", "write -P 5 1M 3M", str(top))
    assert main(["img", "commit", "-q", str(tmp_path / "ours" / "top.vmdk")]) == 0
    qemu("qemu-img", "commit", "-q", str(tmp_path / "qemu" / "top.vmdk"))
    qemu("qemu-img", "compare", *(str(tmp_path / tool / "base.vmdk") for tool in ("ours", "qemu")))


def test_vmdk_parent_that_changed_is_noticed(tmp_path: Path) -> None:
    base, top = tmp_path / "base.vmdk", tmp_path / "top.vmdk"
    create_image(str(base), "vmdk", SIZE)
    create_image(str(top), "vmdk", SIZE, {}, BackingReference("base.vmdk", "vmdk"))
    with open_image(str(base), OpenSettings("vmdk", writable=True)) as image:
        image.pwrite(b"x", 0)
    with open_image(str(top)) as image, pytest.raises(ImageFormatError, match="content ID"):
        image.pread_into(memoryview(bytearray(1)), 0)
    assert subprocess.run(["qemu-img", "convert", "-O", "raw", top, tmp_path / "raw"], check=False).returncode


LOG_OFFSET, LOG_LENGTH, BAT_OFFSET = 1 << 20, 1 << 20, 2 << 20  # where both tools put them

WRAPPED = LOG_LENGTH - 8192


@pytest.mark.parametrize("position", [0, 8192, WRAPPED], ids=["start", "inside", "wrapped"])
def test_vhdx_log_is_replayed_as_by_qemu(position: Any, tmp_path: Path) -> None:
    path, mine, theirs = tmp_path / "disk", tmp_path / "mine", tmp_path / "theirs"
    qemu("qemu-img", "create", "-q", "-f", "vhdx", "-o", "block_size=1M", str(path), str(SIZE))
    qemu("qemu-io", "-f", "vhdx", "-c", "write -P 3 0 2M", str(path))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(BAT_OFFSET)
        bat = file.read(4096)
        file.seek(BAT_OFFSET)
        file.write(bytes(4096))
    guid = random.Random(4).randbytes(16)
    data = random.Random(5).randbytes(4096)
    first = log_entry(guid, 7, position, [(BAT_OFFSET, bat), (size - 8192, data)], size)
    second = log_entry(guid, 8, position, [(size - 16384, 4096), (size - 4096, data)], size)
    put_log(path, position, first + second, guid)
    shutil.copy(path, mine)
    shutil.copy(path, theirs)
    with pytest.raises(ImageUnsupportedError, match="log that needs to be replayed"):
        open_image(str(mine), OpenSettings("vhdx"))
    assert main(["img", "check", "-q", "-r", "all", "-f", "vhdx", str(mine)]) == 0
    subprocess.run(["qemu-img", "check", "-r", "all", "-f", "vhdx", str(theirs)], check=True, capture_output=True)
    if position != WRAPPED:  # QEMU 7.2 takes the second entry for the whole sequence when it comes first in the log
        assert mine.read_bytes()[BAT_OFFSET:] == theirs.read_bytes()[BAT_OFFSET:]
    with open_image(str(mine)) as image:
        found = content(image)
    assert found[: 2 << 20] == b"\3" * ((2 << 20) - 16384) + bytes(4096) + b"\3" * 4096 + data + data


def test_vhdx_log_of_another_guid_or_damaged_is_not_replayed(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    create_image(str(path), "vhdx", SIZE)
    guid = random.Random(4).randbytes(16)
    size = path.stat().st_size
    stale = log_entry(bytes(range(16)), 7, 0, [(BAT_OFFSET, b"\xff" * 4096)], size)
    damaged = bytearray(log_entry(guid, 8, len(stale), [(BAT_OFFSET, b"\xff" * 4096)], size))
    damaged[-5] ^= 1
    put_log(path, 0, stale + damaged, guid)
    with open_image(str(path), OpenSettings("vhdx", writable=True)) as image:
        assert not any(content(image))
    qemu("qemu-img", "check", "-f", "vhdx", str(path))


def patterned() -> bytes:
    """1.2 MiB with noise, text and holes."""
    data = bytearray(1_200_128)
    data[:100_000] = random.Random(1).randbytes(100_000)
    data[300_000:500_000] = b"text " * 40_000
    data[-512:] = random.Random(2).randbytes(512)
    return bytes(data)


READ_ONLY = {
    "cloop": ("cloop", lambda data: foreign_images.cloop(data, 65536)),
    "cloop-4k": ("cloop", lambda data: foreign_images.cloop(data, 4096)),
    "dmg-plist": ("dmg", lambda data: foreign_images.dmg(data, (1, 0x80000005))),
    "dmg-resources": ("dmg", lambda data: foreign_images.dmg(data, (0x80000005, 1), resource_fork=True)),
    "vmdk-stream-of-vmware": ("vmdk", foreign_images.stream_optimized),
}


@pytest.mark.parametrize("case", READ_ONLY)
def test_built_images_read_as_by_qemu(case: Any, tmp_path: Path, capsys: Any) -> None:
    format_name, build = READ_ONLY[case]
    path, raw = tmp_path / "disk", tmp_path / "raw"
    path.write_bytes(build(patterned()))
    with open_image(str(path), OpenSettings(format_name)) as image:
        found = content(image)
    assert found.rstrip(b"\0") == patterned().rstrip(b"\0")
    qemu("qemu-img", "convert", "-f", format_name, "-O", "raw", str(path), str(raw))
    assert raw.read_bytes() == found
    for verb in ("info", "map"):
        words = (verb, "-f", format_name, "--output", "json", str(path))
        theirs, mine = json.loads(qemu("qemu-img", *words)), ours(capsys, *words)
        assert mine == theirs


def test_esx_snapshot_extents_read_as_by_qemu(tmp_path: Path, capsys: Any) -> None:
    path, raw, data = tmp_path / "disk.vmdk", tmp_path / "raw", patterned()
    (tmp_path / "disk-delta.vmdk").write_bytes(foreign_images.cowd(data))
    path.write_text(
        '# Disk DescriptorFile\nversion=1\nCID=00000001\nparentCID=ffffffff\ncreateType="vmfsSparse"\n'
        f'RW {len(data) // 512} VMFSSPARSE "disk-delta.vmdk"\n'
    )
    raw.write_bytes(data)
    qemu("qemu-img", "compare", "-f", "vmdk", "-F", "raw", str(path), str(raw))
    with open_image(str(path)) as image:
        assert content(image) == data
    assert_described_alike(capsys, "vmdk", path)


def test_appliance_disk_is_converted(tmp_path: Path) -> None:
    box, raw, theirs = tmp_path / "box.ova", tmp_path / "raw", tmp_path / "theirs.vmdk"
    raw.write_bytes(patterned())
    qemu("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", str(raw), str(theirs))
    box.write_bytes(foreign_images.ova({"box-disk1.vmdk": theirs.read_bytes()}))
    assert main(["img", "convert", "-O", "qcow2", str(box), str(tmp_path / "box.qcow2")]) == 0
    qemu("qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(tmp_path / "box.qcow2"), str(raw))
