"""Frames on stream sockets against those who defined the format: QEMU's `-netdev stream`, and passt."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from pyhyve.backends.ioloop import IoLoop
from pyhyve.backends.net import NetError
from pyhyve.backends.passt import Forward, open_passt
from pyhyve.backends.switch import FrameSwitch, connect_switch

if TYPE_CHECKING:
    from pathlib import Path

    from pyhyve.backends.stream import StreamNet

MAC = bytes.fromhex("525400123456")
HEADER = bytes(12)


def receive(net: StreamNet, seconds: float = 60) -> bytes:
    """The next frame, without header."""
    into = memoryview(bytearray(70000))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        length = net.receive(0, [into])
        if length:
            return bytes(into[12:length])
        time.sleep(0.002)
    msg = "no frame arrived"
    raise TimeoutError(msg)


def send(net: StreamNet, frame: bytes) -> None:
    data = memoryview(HEADER + frame)
    assert net.send(0, [data], len(data))


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86 is not installed")
def test_frames_pass_through_qemu_between_two_switches(tmp_path: Path) -> None:
    loop = IoLoop("switches")
    switches = [FrameSwitch(str(tmp_path / name)) for name in ("a", "b")]
    for switch in switches:
        switch.start(loop)
    loop.start()
    arguments = ["qemu-system-x86_64", "-machine", "none", "-display", "none", "-nodefaults", "-monitor", "none"]
    for name in ("a", "b"):
        arguments += ["-netdev", f"stream,id=n{name},addr.type=unix,addr.path={tmp_path / name}"]
        arguments += ["-netdev", f"hubport,id=h{name},hubid=0,netdev=n{name}"]
    qemu = subprocess.Popen(arguments, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while min(switch.ports for switch in switches) < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        nets = [connect_switch(switch.path) for switch in switches]
        while min(switch.ports for switch in switches) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        for size in (60, 1514, 9014, 65000):
            frame = b"\xff" * 6 + MAC + b"\x08\x06" + bytes(n & 0xFF for n in range(size - 14))
            send(nets[0], frame)
            assert receive(nets[1]) == frame
            send(nets[1], frame[::-1])
            assert receive(nets[0]) == frame[::-1]
        for net in nets:
            net.close()
    finally:
        qemu.terminate()
        qemu.wait()
        for switch in switches:
            switch.close()
        loop.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.skipif(shutil.which("passt") is None, reason="passt is not installed")
def test_passt_answers_dhcp_and_forwards_a_port() -> None:
    port = free_port()
    try:
        net = open_passt([Forward("tcp", port, 22, "127.0.0.1")])
    except NetError as error:
        pytest.skip(f"passt does not run here: {error}")
    bootp = bytes((1, 1, 6, 0)) + b"pyhv" + bytes(20) + MAC + bytes(10 + 64 + 128)
    options = b"\x63\x82\x53\x63" + bytes((53, 1, 1, 255))
    payload = (bootp + options).ljust(300, b"\0")
    udp = b"\0\x44\0\x43" + (len(payload) + 8).to_bytes(2, "big") + b"\0\0" + payload
    ip = bytes((0x45, 0)) + (len(udp) + 20).to_bytes(2, "big") + bytes((0, 0, 0, 0, 64, 17, 0, 0)) + bytes(4)
    ip += b"\xff" * 4
    total = sum(int.from_bytes(ip[n : n + 2], "big") for n in range(0, 20, 2))
    checksum = ~(total % 0xFFFF) & 0xFFFF
    ip = ip[:10] + checksum.to_bytes(2, "big") + ip[12:]
    send(net, b"\xff" * 6 + MAC + b"\x08\0" + ip + udp)
    while True:
        frame = receive(net)
        if frame[12:14] == b"\x08\0" and frame[23] == 17 and frame[34:36] == b"\0\x43":
            break
    assert frame[42] == 2
    assert frame[46:50] == b"pyhv"
    address = frame[58:62]
    assert address != bytes(4)
    with socket.create_connection(("127.0.0.1", port), timeout=60):
        while True:
            frame = receive(net)
            if frame[12:14] == b"\x08\0" and frame[23] == 6:
                break
        assert frame[30:34] == address
        assert int.from_bytes(frame[36:38], "big") == 22
    net.close()
