"""Locks and NBD against QEMU's programs."""

from __future__ import annotations

import random
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from pyhyve.image.contract import ImageLockedError
from pyhyve.image.opening import OpenSettings, create_image, open_image
from tests.conformance.image.conftest import OUR_IMG, environment, qemu_img, require, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def wait_for(path: Path) -> None:
    """Wait until somebody serves the socket."""
    deadline = time.monotonic() + 60
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                return
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.025)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    chance = random.Random(1)
    flat = bytearray(16 << 20)
    flat[1 << 20 : 3 << 20] = chance.randbytes(2 << 20)
    flat[9 << 20 : 10 << 20] = b"t" * (1 << 20)
    (tmp_path / "flat.raw").write_bytes(flat)
    create_image(str(tmp_path / "disk.qcow2"), "qcow2", len(flat))
    with open_image(str(tmp_path / "disk.qcow2"), OpenSettings(writable=True)) as image:
        image.pwrite(flat[1 << 20 : 3 << 20], 1 << 20)
        image.pwrite(flat[9 << 20 : 10 << 20], 9 << 20)
    return tmp_path / "disk.qcow2"


def test_qemu_respects_our_locks(disk: Path) -> None:
    with open_image(str(disk), OpenSettings(writable=True)):
        assert "lock" in qemu_img("info", str(disk)).stderr
        assert "lock" in qemu_img("resize", str(disk), "+1M").stderr
        assert qemu_img("info", "-U", str(disk)).returncode == 0
    with open_image(str(disk)):
        assert qemu_img("info", str(disk)).returncode == 0
        assert "lock" in qemu_img("resize", str(disk), "+1M").stderr
    assert qemu_img("resize", str(disk), "+1M").returncode == 0


def test_we_respect_the_locks_of_qemu(disk: Path) -> None:
    holder = subprocess.Popen(
        ["qemu-io", str(disk)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write(b"read 0 512\n")
        holder.stdin.flush()
        holder.stdout.readline()
        with pytest.raises(ImageLockedError):
            open_image(str(disk))
        with pytest.raises(ImageLockedError):
            open_image(str(disk), OpenSettings(writable=True))
        open_image(str(disk), OpenSettings(force_share=True)).close()
    finally:
        holder.communicate(b"quit\n", timeout=30)
    open_image(str(disk), OpenSettings(writable=True)).close()


@pytest.fixture
def machine(disk: Path) -> Iterator[None]:
    """A QEMU machine that holds the disk for writing."""
    require("qemu-system-x86_64")
    socket_path = disk.with_name("qmp.sock")
    process = subprocess.Popen(
        ["qemu-system-x86_64", "-accel", "tcg", "-m", "32", "-S", "-display", "none", "-nodefaults", "-qmp",
         f"unix:{socket_path},server=on,wait=off", "-drive", f"file={disk},format=qcow2,if=virtio"]
    )  # fmt: skip
    try:
        wait_for(socket_path)  # made after the drives are open
        yield
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.usefixtures("machine")
def test_disk_of_a_running_qemu_machine_is_left_alone(disk: Path) -> None:
    for verb in ("info", "check", "map"):
        assert "lock" in run([*OUR_IMG, verb, str(disk)]).stderr
    for words in (("resize", str(disk), "+1M"), ("snapshot", "-c", "s", str(disk)), ("commit", str(disk))):
        failed = run([*OUR_IMG, *words])
        assert failed.returncode == 1
        assert "lock" in failed.stderr
    assert run([*OUR_IMG, "info", "-U", str(disk)]).returncode == 0
    assert run([*OUR_IMG, "convert", "-U", "-O", "raw", str(disk), str(disk) + ".raw"]).returncode == 0


@pytest.mark.parametrize("writable", [True, False])
def test_qemu_machine_does_not_start_on_our_disk(disk: Path, writable: bool) -> None:
    require("qemu-system-x86_64")
    command = [
        "qemu-system-x86_64", "-accel", "tcg", "-m", "32", "-S", "-display", "none", "-nodefaults", "-monitor", "none",
        "-drive", f"file={disk},format=qcow2,if=virtio",
    ]  # fmt: skip
    with open_image(str(disk), OpenSettings(writable=writable)):
        refused = run(command)
    assert refused.returncode == 1
    assert "lock" in refused.stderr


@pytest.fixture
def their_server(disk: Path) -> Iterator[str]:
    sock = disk.with_name("theirs.sock")
    process = subprocess.Popen(["qemu-nbd", "-f", "qcow2", "-k", str(sock), "-x", "exp", "-t", str(disk)])
    try:
        wait_for(sock)
        yield f"nbd+unix:///exp?socket={sock}"
    finally:
        process.terminate()
        process.wait(60)


def test_our_client_moves_a_disk_through_qemu_nbd(their_server: str, disk: Path) -> None:
    flat, copy = disk.with_name("flat.raw"), disk.with_name("copy.raw")
    assert run([*OUR_IMG, "convert", "-O", "raw", their_server, str(copy)]).returncode == 0
    assert copy.read_bytes() == flat.read_bytes()
    assert run([*OUR_IMG, "compare", their_server, str(flat)]).returncode == 0
    # An export is there already: convert writes into it, without -n as well.
    assert run([*OUR_IMG, "convert", "-O", "raw", str(flat), their_server]).returncode == 0
    assert run([*OUR_IMG, "convert", "-n", "-O", "raw", str(flat), their_server]).returncode == 0
    assert run([*OUR_IMG, "compare", their_server, str(flat)]).returncode == 0
    with open_image(their_server, OpenSettings("raw", writable=True)) as image:
        image.pwrite(b"ours" * 100_000, 5_000_000)
        image.write_zeroes(1 << 20, 1 << 20)
        image.flush()
        buffer = bytearray(400_000)
        image.pread_into(memoryview(buffer), 5_000_000)
        assert buffer == b"ours" * 100_000
        assert sum(run.length for run in image.layer_extents(0, image.size_bytes)) == 16 << 20


def test_qemu_moves_a_disk_through_our_server(disk: Path) -> None:
    sock, copy = disk.with_name("ours.sock"), disk.with_name("copy.raw")
    process = subprocess.Popen(
        [*OUR_IMG, "serve", "-k", str(sock), "-x", "exp", "-t", str(disk)],
        env=environment(), stdout=subprocess.DEVNULL,
    )  # fmt: skip
    address = f"nbd+unix:///exp?socket={sock}"
    try:
        wait_for(sock)
        assert qemu_img("convert", "-f", "raw", "-O", "raw", address, str(copy)).returncode == 0
        assert copy.read_bytes() == disk.with_name("flat.raw").read_bytes()
        theirs = qemu_img("map", "--output", "json", "-f", "raw", address).stdout
        assert '"zero": true' in theirs
        work = ["write -P 5 1M 1M", "write -z 3M 64k", "discard 4M 1M", "flush", "read -P 5 1M 1M", "read -P 0 3M 64k"]
        words = [word for command in work for word in ("-c", command)]
        done = run(["qemu-io", "-f", "raw", *words, address])
        assert done.returncode == 0
        assert "Pattern" not in done.stdout
        assert qemu_img("info", f"nbd+unix:///other?socket={sock}").returncode == 1
    finally:
        process.terminate()
        assert process.wait(60) == 0
    assert qemu_img("check", str(disk)).returncode == 0
    assert run(["qemu-io", "-c", "read -P 5 1M 1M", str(disk)]).returncode == 0
