"""Packed rings, which a device's `packed` property offers, with Linux as the driver."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pyhyve.devices.virtio.spec import Feature
from pyhyve.guest.console import GuestConsole

from .conftest import BOOT_TIMEOUT_S, PATIENCE
from .monitor import Monitor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyhyve.guest.builder import Guest

HOST, ADDRESS = "10.213.79.1", "10.213.79.2"
PACKED = Feature.RING_PACKED.bit_length() - 1
STREAM_TIMEOUT_S = 120


@pytest.fixture
def bridge() -> Iterator[str]:
    """An isolated network of the host's."""
    if os.geteuid() != 0:
        pytest.skip("making a network needs root")
    if shutil.which("nft") is None:
        pytest.skip("nft is not installed (apt-get install nftables)")
    name = f"phr{os.getpid()}"
    net = [sys.executable, "-m", "pyhyve", "net"]
    words = ["--mode", "isolated", "--address", f"{HOST}/24", "--no-dhcp"]
    subprocess.run([*net, "create", name, *words], check=True, capture_output=True)
    yield name
    subprocess.run([*net, "delete", name], check=True, capture_output=True)


def test_linux_takes_packed_rings_on_disk_and_card(debian_6_1: Guest, bridge: str, tmp_path: Path) -> None:
    rng = random.Random(8)
    disk, contents = tmp_path / "disk", rng.randbytes(1 << 20) * 8
    disk.write_bytes(contents)
    words = ["-accel", "tcg", "-m", "256", "-nographic", "-qmp", f"unix:{tmp_path}/qmp,server=on,wait=off"]
    words += ["-kernel", str(debian_6_1.kernel), "-initrd", str(debian_6_1.initrd)]
    words += ["-append", f"console=ttyS0 quiet pyhyve.net={ADDRESS}/24"]
    words += ["-drive", f"file={disk},format=raw,if=none,id=d"]
    words += ["-device", "virtio-blk-pci,drive=d,packed=on,num-queues=2,id=disk"]
    words += ["-netdev", f"bridge,br={bridge},id=n", "-device", "virtio-net-pci,netdev=n,packed=on,id=card"]
    words += ["-device", "virtio-rng-pci,packed=off,id=rng"]
    with GuestConsole([sys.executable, "-m", "pyhyve.cli.system", *words], patience=PATIENCE) as console:
        console.wait_ready(BOOT_TIMEOUT_S)
        monitor = Monitor(tmp_path / "qmp")
        paths = (f"/machine/peripheral/{name}" for name in ("disk", "card", "rng"))
        assert [monitor.ask("qom-get", path=path, property="packed") for path in paths] == [True, True, False]
        monitor.close()
        bits = console.run("for n in block/vda net/eth0; do cat /sys/class/$n/device/features; done").split()
        assert [text[PACKED] for text in bits] == ["1", "1"]

        assert console.run("sha256sum < /dev/vda").split()[0] == hashlib.sha256(contents).hexdigest()
        copy = "dd if=/dev/vda of=/tmp/half bs=1M count=4; dd if=/tmp/half of=/dev/vda bs=1M seek=4; sync"
        console.run(copy)
        assert console.run("echo 3 > /proc/sys/vm/drop_caches; sha256sum < /dev/vda").split()[0] == (
            hashlib.sha256(contents).hexdigest()
        )

        data = rng.randbytes(4_000_000)
        console.run("(sleep 999 | nc -l -p 5002 > /tmp/data) 2>/dev/null & sleep 1")
        with socket.create_connection((ADDRESS, 5002), STREAM_TIMEOUT_S) as connection:
            connection.sendall(data)
        console.run(f"until [ $(stat -c %s /tmp/data) = {len(data)} ]; do usleep 100000; done", STREAM_TIMEOUT_S)
        assert console.run("sha256sum < /tmp/data").split()[0] == hashlib.sha256(data).hexdigest()
        with socket.create_server((HOST, 0)) as listener:
            listener.settimeout(STREAM_TIMEOUT_S)
            console.send_line(f"nc {HOST} {listener.getsockname()[1]} < /tmp/data")
            accepted, _ = listener.accept()
            with accepted, accepted.makefile("rb") as stream:
                assert stream.read(len(data)) == data
        console.send_line("")
        console.send_line("poweroff")
        assert console.wait_end() == 0
    assert disk.read_bytes() == contents
