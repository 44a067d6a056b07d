"""The verbs through the command's own entry point; their output is compared with qemu-img's in tests/conformance."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from pyhyve.cli.main import run_command
from pyhyve.image.qcow2.image import Qcow2Image


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Result:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


def img(capsys: pytest.CaptureFixture[str], *words: str) -> Result:
    capsys.readouterr()
    status = run_command("img", words)
    said = capsys.readouterr()
    return Result(status, said.out, said.err)


def test_the_first_command_of_the_exercise(capsys: pytest.CaptureFixture[str]) -> None:
    made = img(capsys, "create", "-f", "qcow", "disk.img", "128M")
    assert made.status == 0
    assert made.out == "Formatting 'disk.img', fmt=qcow size=134217728\n"
    told = json.loads(img(capsys, "info", "--output", "json", "disk.img").out)
    assert (told["format"], told["virtual-size"], told["cluster-size"]) == ("qcow", 128 << 20, 4096)


def test_a_life_of_an_image(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "source.raw").write_bytes(b"data" * 100_000 + bytes(1 << 20))
    assert img(capsys, "convert", "-c", "-O", "qcow2", "source.raw", "a.qcow2").status == 0
    assert img(capsys, "compare", "source.raw", "a.qcow2").out == "Images are identical.\n"
    assert img(capsys, "snapshot", "-c", "one", "a.qcow2").status == 0
    assert "one" in img(capsys, "snapshot", "-l", "a.qcow2").out
    assert img(capsys, "resize", "a.qcow2", "+1M").out == "Image resized.\n"
    assert img(capsys, "resize", "a.qcow2", "-1M").status == 1
    assert img(capsys, "resize", "--shrink", "a.qcow2", "-512K").status == 0
    assert img(capsys, "create", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", "top.qcow2").status == 0
    assert img(capsys, "bench", "-w", "-c", "20", "-s", "64k", "--pattern", "7", "top.qcow2").status == 0
    assert img(capsys, "commit", "top.qcow2").out == "Image committed.\n"
    assert img(capsys, "rebase", "-b", "", "top.qcow2").status == 0
    assert img(capsys, "amend", "-o", "lazy_refcounts=on", "top.qcow2").status == 0
    assert img(capsys, "dd", "if=top.qcow2", "of=part.raw", "bs=4k", "count=16").status == 0
    assert (tmp_path / "part.raw").read_bytes() == b"\7" * 65536
    assert "No errors" in img(capsys, "check", "a.qcow2").out
    assert "100.00/100%" in img(capsys, "convert", "-p", "-O", "raw", "a.qcow2", "b.raw").out
    assert img(capsys, "measure", "-O", "qcow2", "--size", "1G").out.startswith("required size: 393216\n")
    assert json.loads(img(capsys, "map", "--output", "json", "b.raw").out)[0]["start"] == 0


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("info", "missing"), 1),
        (("compare", "missing", "gone"), 2),
        (("create", "-f", "nosuch", "x", "1M"), 1),
        (("create", "x"), 1),
        (("convert", "only-one"), 2),
        (("resize", "x"), 2),
        (("info", "--nonsense", "x"), 2),
        (("dd", "foo=1"), 2),
        (("convert", "-m", "99", "a", "b"), 2),
        (("convert", "-C", "--salvage", "a", "b"), 2),
        (("create", "-b", "", "-f", "qcow2", "a", "1M"), 1),
        (("create", "-u", "-b", "a", "-F", "qcow2", "-f", "qcow2", "a", "1M"), 1),
        (("rebase", "-u", "-b", "x", "-F", "nosuch", "a"), 1),
        (("rebase", "-u", "-T", "nosuch", "-b", "x", "-F", "raw", "a"), 1),
        (("convert", "-n", "-O", "raw", "--target-image-opts", "a", "driver=raw,file.filename=b"), 2),
        (("measure",), 2),
        (("rebase", "x"), 2),
        (("info", "json:{"), 1),
        (("info", "nbd://127.0.0.1:1/"), 1),
    ],
)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], status: int) -> None:
    result = img(capsys, *words)
    assert result.status == status
    assert result.err.startswith("pyhyve img")
    assert result.err.count("\n") == 1
    assert "internal error" not in result.err


def test_errors_of_new_images_name_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = img(capsys, "create", "-q", "-f", "qcow2", "-o", "cluster_size=100", "new.qcow2", "1M")
    assert wrong.err.startswith("pyhyve img: new.qcow2: Cluster size must be")
    assert img(capsys, "create", "-q", "/nodir/x", "1M").err.count("/nodir/x") == 2
    img(capsys, "create", "-q", "a.raw", "1M")
    wrong = img(capsys, "convert", "-O", "vhdx", "-o", "block_size=3M", "a.raw", "b.vhdx")
    assert wrong.err.startswith("pyhyve img: b.vhdx: error while converting vhdx: ")


def test_a_target_with_a_backing_file_is_not_zero(capsys: pytest.CaptureFixture[str]) -> None:
    img(capsys, "create", "-q", "-f", "qcow2", "base.qcow2", "1M")
    img(capsys, "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
    words = ("-n", "--target-is-zero", "-B", "base.qcow2", "-F", "qcow2", "-O", "qcow2", "base.qcow2", "top.qcow2")
    wrong = img(capsys, "convert", *words)
    assert wrong.status == 1
    assert "--target-is-zero" in wrong.err


def test_a_snapshot_is_named_by_id_or_name(capsys: pytest.CaptureFixture[str]) -> None:
    img(capsys, "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
    img(capsys, "snapshot", "-c", "one", "a.qcow2")
    for named in ("one", "1", "snapshot.id=1", "snapshot.name=one", "snapshot.id=1,snapshot.name=one"):
        assert img(capsys, "convert", "-l", named, "a.qcow2", "b.raw").status == 0, named
    for wrong in ("two", "snapshot.id=one", "snapshot.name=1", "snapshot.nonsense=1"):
        assert img(capsys, "convert", "-l", wrong, "a.qcow2", "b.raw").status == 1, wrong


def test_dd_says_when_it_skips_everything(capsys: pytest.CaptureFixture[str]) -> None:
    img(capsys, "create", "-q", "a.raw", "1M")
    told = img(capsys, "dd", "if=a.raw", "of=b.raw", "bs=1M", "skip=2")
    assert (told.status, told.err) == (0, "pyhyve img dd: a.raw: cannot skip to specified offset\n")


def test_image_without_checks_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    img(capsys, "create", "x.raw", "1M")
    assert img(capsys, "check", "x.raw").status == 63


def test_option_help_lists_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert "cluster_size=<size>" in img(capsys, "create", "-f", "qcow2", "-o", "help").out


def test_convert_says_what_failed_first(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("img", ["create", "-q", "-f", "raw", "full.raw", "1M"]) == 0
    Path("full.raw").write_bytes(b"x" * (1 << 20))
    real_close = Qcow2Image.close

    def no_space(self: Qcow2Image, *_operands: object) -> None:
        del self
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self: Qcow2Image) -> None:
        real_close(self)
        no_space(self)

    monkeypatch.setattr(Qcow2Image, "close", close)
    assert run_command("img", ["convert", "-O", "qcow2", "full.raw", "whole.qcow2"]) == 1
    assert "No space left" in capsys.readouterr().err
    monkeypatch.setattr(Qcow2Image, "pwrite", no_space)
    assert run_command("img", ["convert", "-O", "qcow2", "full.raw", "part.qcow2"]) == 1
    assert "error while writing: No space left" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "durable"),
    [
        ("create -q -f qcow2 new.img 1M", True),
        ("create -q -f qcow new.img 1M", True),
        ("convert -O qcow2 data.raw new.img", False),
        ("convert -t writeback -O qcow2 data.raw new.img", True),
        ("convert -t writeback -O raw data.raw new.img", True),
        ("dd if=data.raw of=new.img bs=64k", True),
    ],
)
def test_what_qemu_img_leaves_on_stable_storage_is_there(
    command: str, durable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("data.raw").write_bytes(b"x" * 65536)
    size_at_barrier = []

    def barrier(descriptor: int) -> None:
        size_at_barrier.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fdatasync", barrier)
    verb, *words = command.split()
    assert run_command("img", [verb, *words]) == 0
    assert bool(size_at_barrier) == durable
    if durable and "-O qcow2" not in command:
        assert size_at_barrier[-1] == Path("new.img").stat().st_size
