from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyhyve.image.contract import BackingReference, ImageError, ImageLockedError, ImageUnsupportedError
from pyhyve.image.filename import parse_image_options, parse_reference, resolve_relative
from pyhyve.image.opening import (
    MAX_CHAIN_DEPTH,
    OpenSettings,
    create_image,
    open_image,
    open_overlay,
    open_reference,
    parse_create_options,
    parse_size,
)
from pyhyve.image.registry import FORMAT_NAMES, find_format, probe_format
from tests.unit.image.conftest import read

if TYPE_CHECKING:
    from typing import Any


@pytest.mark.parametrize(
    ("head", "name"),
    [(b"", "raw"), (b"QFI\xfb\0\0\0\1", "qcow"), (b"QFI\xfb\0\0\0\2", "qcow2"), (b"QFI\xfb\0\0\0\3", "qcow2"),
     (b"QFI\xfb\0\0\0\0", "raw"), (b"LUKS\xba\xbe\0\1", "luks"), (b"\0" * 2048, "raw")],
)  # fmt: skip
def test_probe_knows_signatures(head: Any, name: str) -> None:
    assert probe_format(head, "disk") == name


def test_unknown_format_is_refused() -> None:
    assert "qcow2" in FORMAT_NAMES
    with pytest.raises(ImageUnsupportedError, match="nosuch"):
        find_format("nosuch")


def test_encryption_is_refused_by_its_name(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    create_image(path, "qcow2", 1 << 20)
    for options, said in (
        ("driver=qcow2,encrypt.format=luks,encrypt.key-secret=s", "encryption is not supported"),
        ("driver=luks,key-secret=s", "not in LUKS format"),
    ):
        with pytest.raises(ImageError, match=said):
            open_reference(parse_image_options(f"{options},file.filename={path}"), OpenSettings())
    Path(path).write_bytes(b"LUKS\xba\xbe" + bytes(4096))
    with pytest.raises(ImageUnsupportedError, match="cryptsetup"):
        open_reference(parse_image_options(f"driver=luks,key-secret=s,file.filename={path}"), OpenSettings())


def test_luks_is_refused_not_read_as_raw(tmp_path: Path) -> None:
    (tmp_path / "l").write_bytes(b"LUKS\xba\xbe\0\1" + bytes(2000))
    with pytest.raises(ImageUnsupportedError, match="LUKS"):
        open_image(str(tmp_path / "l"))


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("512", 512), ("1k", 1024), ("1K", 1024), ("1.5M", 3 << 19), ("2G", 2 << 30), ("10b", 10), ("0x10", 16)],
)
def test_sizes_are_parsed(text: str, size: Any) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "1X", "-1", "1e9e", "9E", "1..5M", "k"])
def test_wrong_sizes_are_refused(text: str) -> None:
    with pytest.raises(ImageError):
        parse_size(text)


@pytest.mark.parametrize(
    ("name", "beside", "expected"),
    [("base", "dir/top", "dir/base"), ("/abs", "dir/top", "/abs"), ("file:base", "d/t", "base"),
     ("nbd://h/x", "d/t", "nbd://h/x"), ("base", "top", "base")],
)  # fmt: skip
def test_backing_names_count_from_the_overlay(name: str, beside: Any, expected: Any) -> None:
    assert resolve_relative(name, beside) == expected


def test_relative_name_beside_a_network_image_is_refused() -> None:
    with pytest.raises(ImageError, match="relative"):
        resolve_relative("base", "nbd://host/x")


def test_json_and_option_names() -> None:
    found = parse_reference('json:{"driver":"qcow2","file":{"driver":"file","filename":"a"}}')
    assert (found.driver, found.location) == ("qcow2", "a")
    found = parse_image_options("driver=raw,file.filename=a,,b,offset=512")
    assert (found.driver, found.location, found.options) == ("raw", "a,b", {"offset": "512"})
    found = parse_image_options("driver=nbd,server.type=inet,server.host=h,server.port=1,export=x")
    assert found.location.startswith("nbd://h:1/")
    for wrong in ("json:{", "json:[]", "json:" + '{"a":' * 30 + "1" + "}" * 30, 'json:{"driver":"qcow2"}'):
        with pytest.raises(ImageError):
            parse_reference(wrong)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("driver=qcow2,read-only=on", "read-only"),
        ("driver=qcow2,file.read-only=on", "read-only"),
        ("driver=qcow2,force-share=on", "force-share=on can only be used with read-only images"),
        ("driver=qcow2,nonsense=1", "'qcow2' does not support the option 'nonsense'"),
        ("driver=raw,lazy-refcounts=on", "'raw' does not support the option 'lazy-refcounts'"),
        ("driver=qcow2,file.nonsense=1", "'file' doesn't support the option 'nonsense'"),
        ("driver=qcow2,lazy-refcounts=maybe", "expects 'on' or 'off'"),
        ("driver=qcow2,overlap-check=some", "must be one of all, cached, constant, none"),
        ("driver=qcow2,l2-cache-size=1x", "l2-cache-size"),
        ("driver=raw,size=1000", "not a multiple of 512"),
    ],
)
def test_named_options_are_obeyed_or_refused(tmp_path: Path, options: str, said: str) -> None:
    path = str(tmp_path / "a")
    create_image(path, "qcow2", 1 << 20)
    reference = parse_image_options(f"{options},file.filename={path}")
    with pytest.raises(ImageError, match=re.escape(said)):
        open_reference(reference, OpenSettings(writable=True))


def test_named_options_that_only_tune_are_accepted(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    create_image(path, "qcow2", 1 << 20)
    tuned = "lazy-refcounts=on,overlap-check=all,cache-clean-interval=3,discard=unmap,detect-zeroes=on,node-name=n"
    reference = parse_image_options(f"driver=qcow2,{tuned},file.aio=threads,file.locking=on,file.filename={path}")
    open_reference(reference, OpenSettings(writable=True)).close()


def test_named_locking_and_sharing_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = "nbd.img"  # a file all the same
    create_image(path, "qcow2", 1 << 20)
    with open_image(path, OpenSettings(writable=True)):
        with pytest.raises(ImageLockedError):
            open_reference(parse_image_options(f"driver=qcow2,file.filename={path}"), OpenSettings())
        for option in ("force-share=on", "file.force-share=on", "file.locking=off"):
            reference = parse_image_options(f"driver=qcow2,{option},file.filename={path}")
            open_reference(reference, OpenSettings()).close()


def test_tls_of_a_network_image_is_refused_before_anything_is_sent() -> None:
    reference = parse_image_options("driver=nbd,host=127.0.0.1,port=1,tls-creds=t")
    with pytest.raises(ImageUnsupportedError, match="TLS"):
        open_reference(reference, OpenSettings())


def chain(tmp_path: Path, depth: Any) -> str:
    create_image(str(tmp_path / "0.qcow2"), "qcow2", 1 << 20)
    for number in range(1, depth):
        below = BackingReference(f"{number - 1}.qcow2", "qcow2")
        create_image(str(tmp_path / f"{number}.qcow2"), "qcow2", 1 << 20, {}, below)
    return str(tmp_path / f"{depth - 1}.qcow2")


def test_long_chain_reads_through(tmp_path: Path) -> None:
    top = chain(tmp_path, 60)
    with open_image(str(tmp_path / "0.qcow2"), OpenSettings(writable=True)) as base:
        base.pwrite(b"deep", 70_000)
    with open_image(top) as image:
        assert read(image, 70_000, 4) == b"deep"
        assert {extent.depth for extent in image.map(0, 1 << 20)} == {59}


def test_chain_without_end_is_refused(tmp_path: Path) -> None:
    create_image(str(tmp_path / "a"), "qcow2", 1 << 20, {}, BackingReference("b", "qcow2"))
    create_image(str(tmp_path / "b"), "qcow2", 1 << 20, {}, BackingReference("a", "qcow2"))
    with pytest.raises(ImageError, match="loop"):
        open_image(str(tmp_path / "a"))


def test_chain_too_deep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="deeper"):
        open_image(chain(tmp_path, MAX_CHAIN_DEPTH + 2))


def test_missing_backing_file_is_one_line(tmp_path: Path) -> None:
    create_image(str(tmp_path / "a"), "qcow2", 1 << 20, {}, BackingReference("gone", "raw"))
    with pytest.raises(ImageError) as caught:
        open_image(str(tmp_path / "a"))
    assert "gone" in str(caught.value)
    assert "\n" not in str(caught.value)
    open_image(str(tmp_path / "a"), OpenSettings(with_backing=False)).close()


def test_new_image_never_takes_the_place_of_its_backing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    create_image("base", "qcow2", 1 << 20)
    os.link("base", "link")
    Path("dir").mkdir()
    before = Path("base").read_bytes()
    for name, backing in (("base", "base"), ("./base", "base"), ("dir/../base", "base"), ("link", "base"),
                          ("base", f"file:{tmp_path}/base"), ("file:base", "link")):  # fmt: skip
        with pytest.raises(ImageError, match="same filename"):
            create_image(name, "qcow2", 1 << 20, {}, BackingReference(backing, "qcow2"))
    assert Path("base").read_bytes() == before
    create_image("dir/base", "qcow2", 1 << 20, {}, BackingReference("../base", "qcow2"))


def test_safe_probing_never_follows_what_a_guest_wrote(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s" * 4096)
    create_image(str(tmp_path / "guest.raw"), "qcow2", 4096, {}, BackingReference("secret", "raw"))  # a guest's trick
    create_image(str(tmp_path / "top"), "qcow2", 4096, {}, BackingReference("guest.raw"))
    with pytest.raises(ImageUnsupportedError, match="not recorded"):
        open_image(str(tmp_path / "top"), OpenSettings(safe_probing=True))
    create_image(str(tmp_path / "top2"), "qcow2", 4096, {}, BackingReference("guest.raw", "raw"))
    with open_image(str(tmp_path / "top2"), OpenSettings(safe_probing=True)) as image:
        assert read(image, 0, 4) == b"QFI\xfb"


def test_throw_away_overlay_leaves_the_image_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "disk")
    create_image(path, "qcow2", 1 << 20)
    with open_image(path, OpenSettings(writable=True)) as image:
        image.pwrite(b"kept", 0)
    before = (tmp_path / "disk").read_bytes()
    with open_overlay(path, OpenSettings(), str(tmp_path)) as overlay:
        overlay.pwrite(b"gone" * 30_000, 2)
        assert read(overlay, 0, 6) == b"kegone"
        overlay.flush()
    assert (tmp_path / "disk").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["disk"]


def test_locks_keep_a_second_writer_out(tmp_path: Path) -> None:
    path = str(tmp_path / "disk")
    create_image(path, "qcow2", 1 << 20)
    with open_image(path, OpenSettings(writable=True)):
        with pytest.raises(ImageLockedError, match="write"):
            open_image(path, OpenSettings(writable=True))
        with pytest.raises(ImageLockedError):
            open_image(path)
        open_image(path, OpenSettings(force_share=True)).close()
        code = f"from pyhyve.image.opening import *; open_image({path!r})"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {
            "PYTHONPATH": os.pathsep.join(sys.path)}, check=False)  # fmt: skip
        assert "ImageLockedError" in other.stderr
    with open_image(path), open_image(path), pytest.raises(ImageLockedError):
        open_image(path, OpenSettings(writable=True))


def test_options_get_their_types() -> None:
    parsed = parse_create_options("qcow2", {"cluster_size": "4k", "lazy_refcounts": "on", "refcount_bits": "8"})
    assert parsed == {"cluster_size": 4096, "lazy_refcounts": True, "refcount_bits": 8}
    for wrong in ({"lazy_refcounts": "maybe"}, {"refcount_bits": "many"}, {"cluster_size": "big"}):
        with pytest.raises(ImageError):
            parse_create_options("qcow2", wrong)


@pytest.mark.parametrize("name", ["ftp://x/y", "nosuch:thing"])
def test_unknown_protocol_is_refused(name: str) -> None:
    with pytest.raises(ImageUnsupportedError, match="protocol"):
        open_image(name)


def test_names_from_images_cannot_break_the_line() -> None:
    assert str(ImageError("bad\nname\x1b[2J\udcff")) == "bad?name?[2J?"
    assert len(str(ImageError("x" * 100_000))) < 3000
