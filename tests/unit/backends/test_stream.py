from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyhyve.backends.ioloop import IoLoop
from pyhyve.backends.net import MAX_FRAME_BYTES, NetError
from pyhyve.backends.stream import FrameDecoder, FrameError, StreamNet, scatter, skip_header
from pyhyve.backends.switch import AddressTable, FrameSwitch, connect_switch

if TYPE_CHECKING:
    from pathlib import Path

HEADER = bytes(12)


def framed(*frames: bytes) -> bytes:
    return b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=3000), max_size=20), st.integers(1, 5000))
def test_decoder_gives_back_frames_however_they_are_cut(frames: list[bytes], cut: int) -> None:
    decoder = FrameDecoder()
    data = framed(*frames)
    seen = []
    for start in range(0, len(data), cut):
        part = data[start : start + cut]
        decoder.space()[: len(part)] = part
        decoder.advance(len(part))
        seen += [bytes(frame) for frame in decoder.frames()]
    assert seen == frames


def test_decoder_always_has_room_for_the_longest_frame() -> None:
    decoder = FrameDecoder()
    frame = bytes(MAX_FRAME_BYTES)
    data = framed(*[frame] * 20)
    count = position = 0
    while position < len(data):
        space = decoder.space()
        assert space
        part = data[position : position + min(len(space), 100_000)]
        space[: len(part)] = part
        decoder.advance(len(part))
        position += len(part)
        count += sum(1 for _ in decoder.frames())
    assert count == 20


@pytest.mark.parametrize("length", [0, MAX_FRAME_BYTES + 1, 0xFFFFFFFF])
def test_decoder_refuses_length(length: int) -> None:
    decoder = FrameDecoder()
    decoder.space()[:4] = length.to_bytes(4, "big")
    decoder.advance(4)
    with pytest.raises(FrameError):
        decoder.next_frame()


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 12))
def test_skip_header_drops_bytes_from_the_front(sizes: list[int], count: int) -> None:
    data = bytes(range(sum(sizes)))
    views, start = [], 0
    for size in sizes:
        views.append(memoryview(data)[start : start + size])
        start += size
    assert b"".join(skip_header(views, count)) == data[count:]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.binary(max_size=40))
def test_scatter_fills_views_or_says_no(sizes: list[int], data: bytes) -> None:
    into = bytearray(b"\xee" * sum(sizes))
    views, start = [], 0
    for size in sizes:
        views.append(memoryview(into)[start : start + size])
        start += size
    fits = 3 + len(data) <= len(into)
    assert scatter(data, views, 3) == fits
    if fits:
        assert into[: 3 + len(data)] == bytes(3) + data


def test_stream_net_stalls_and_recovers() -> None:
    ours, theirs = socket.socketpair()
    net = StreamNet(ours)
    loop = IoLoop()
    writable: list[int] = []
    net.start(loop, lambda _queue: None, writable.append)
    packet = memoryview(HEADER + b"x" * 60_000)
    sent = 0
    while net.send(0, [packet], len(packet)):
        sent += 1
        assert sent < 1000
    assert not writable
    loop.start()
    theirs.settimeout(60)
    expected = sent * 60_004
    while expected:
        expected -= len(theirs.recv(min(expected, 1 << 20)))
    loop.stop()
    assert writable == [0]
    net.close()
    theirs.close()


def test_stream_net_survives_its_peer() -> None:
    ours, theirs = socket.socketpair()
    net = StreamNet(ours)
    theirs.sendall(framed(b"last"))
    theirs.close()
    into = memoryview(bytearray(64))
    assert net.receive(0, [into]) == 16
    assert net.receive(0, [into]) == 0
    assert net.send(0, [memoryview(HEADER + b"abc")], 15)
    assert not net.connected
    net.close()


def test_stream_net_drops_what_does_not_fit() -> None:
    ours, theirs = socket.socketpair()
    net = StreamNet(ours)
    theirs.sendall(framed(b"y" * 100, b"short"))
    into = memoryview(bytearray(64))
    assert net.receive(0, [into]) == 17
    assert bytes(into[12:17]) == b"short"
    net.close()
    theirs.close()


def test_address_table_is_bounded_and_follows_moves() -> None:
    table = AddressTable(limit=2)
    a, b, c = (bytes([2, 0, 0, 0, 0, i]) for i in range(3))
    table.learn(a, 1)
    table.learn(b, 1)
    table.learn(a, 2)
    table.learn(c, 3)
    assert (table.find(a), table.find(b), table.find(c)) == (2, None, 3)
    table.learn(b"\xff" * 6, 3)
    assert table.find(b"\xff" * 6) is None
    table.forget(3)
    assert table.find(c) is None


def receive_frame(connection: socket.socket) -> bytes:
    connection.settimeout(60)
    length = int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big")
    return connection.recv(length, socket.MSG_WAITALL)


def test_switch_floods_then_learns(tmp_path: Path) -> None:
    path = str(tmp_path / "switch")
    loop = IoLoop()
    switch = FrameSwitch(path)
    switch.start(loop)
    loop.start()
    clients = []
    for _ in range(3):
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        clients.append(client)
    first, second, third = clients
    deadline = time.monotonic() + 60
    while switch.ports < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    mac = [bytes([2, 0, 0, 0, 0, i]) for i in range(3)]
    for client, source in zip(clients, mac, strict=True):
        client.sendall(framed(b"\xff" * 6 + source + b"hello from %d" % source[5]))
    hello = {client: {receive_frame(client)[12:] for _ in range(2)} for client in clients}
    assert hello[first] == {b"hello from 1", b"hello from 2"}
    first.sendall(framed(mac[1] + mac[0] + b"private"))
    assert receive_frame(second)[12:] == b"private"
    third.settimeout(0.05)
    with pytest.raises(TimeoutError):
        third.recv(1)
    second.sendall(b"\0\0\0\0")
    second.settimeout(60)
    assert second.recv(1) == b""
    switch.close()
    loop.stop()
    assert not (tmp_path / "switch").exists()
    for client in clients:
        client.close()


def test_switch_replaces_a_stale_socket_only(tmp_path: Path) -> None:
    path = tmp_path / "switch"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    switch = FrameSwitch(str(path))
    with pytest.raises(NetError, match="another switch listens"):
        FrameSwitch(str(path))
    net = connect_switch(str(path))
    net.close()
    switch.close()
    with pytest.raises(NetError, match="is it running"):
        connect_switch(str(path))
    path.write_text("precious")
    with pytest.raises(NetError, match="not a socket"):
        FrameSwitch(str(path))
    assert path.read_text() == "precious"
