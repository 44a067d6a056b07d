from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.daemon import bulk
from pyhyve.daemon.bulk import Lease, Received, Sent, receive_packets, send_packets
from pyhyve.daemon.dispatch import procedure
from pyhyve.rpc.client import StreamData as ReceivedData
from pyhyve.rpc.client import StreamEnded
from pyhyve.rpc.frames import FrameReader
from pyhyve.rpc.procedures import BY_NAME
from pyhyve.rpc.spec import STREAM_CHUNK, MessageType, Status
from tests.unit.daemon.socket_client import SocketClient

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from pyhyve.daemon.daemon import Daemon
    from pyhyve.daemon.dispatch import Call
    from pyhyve.daemon.streams import Stream

    WithDaemon = Callable[[Callable[[Daemon], Awaitable[None]]], None]

HEADER = struct.pack(">IIIiIII", 0, 0x20008086, 1, 209, MessageType.STREAM, 7, Status.CONTINUE)


def packet(payload: bytes, header: bytes = HEADER) -> bytes:
    return struct.pack(">I", len(header) + len(payload)) + header[4:] + payload


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    near.settimeout(0)
    far.settimeout(60)
    with near, far:
        yield near, far


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def taken(
    pair: tuple[socket.socket, socket.socket], data: bytes, file: int, limit: int | None = None, pending: bytes = b""
) -> Received:
    """What receiving makes of bytes that are all there, and of a client that goes then."""
    near, far = pair
    far.sendall(data)
    return receive_packets(Lease(near), HEADER, file, 0, limit, (), pending)


def test_packets_are_written_one_behind_the_other_wherever_they_are_cut(tmp_path: Path) -> None:
    rng = random.Random(2)
    pieces = [rng.randbytes(rng.choice((1, 3, 27, 28, 29, 1000, 70000))) for _ in range(60)]
    stream = b"".join(map(packet, pieces))
    for cut in sorted(rng.sample(range(1, 100), 4)):
        near, far = socket.socketpair()
        near.settimeout(0)
        descriptor = os.open(tmp_path / f"file-{cut}", os.O_RDWR | os.O_CREAT)
        offset, pending, sent = 0, b"", 0
        with near, far:
            while sent < len(stream):
                some = stream[sent : sent + rng.choice((cut, 5000, 100_000))]
                far.sendall(some)
                sent += len(some)
                received = receive_packets(Lease(near), HEADER, descriptor, offset, None, (), pending)
                assert (received.fds, received.lost, received.error) == ((), False, None)
                offset, pending = received.offset, received.rest
        assert pending == b""
        assert os.pread(descriptor, 1 << 23, 0) == b"".join(pieces)
        os.close(descriptor)


@pytest.mark.parametrize(
    "foreign",
    [
        packet(b"x", HEADER[:20] + struct.pack(">II", 8, Status.CONTINUE)),  # another stream's
        packet(b"", HEADER[:24] + struct.pack(">I", Status.OK)),
        packet(b"", HEADER),  # all was sent
        packet(b"ping", struct.pack(">IIIiIII", 0, 0x6B656570, 1, 1, MessageType.MESSAGE, 0, 0)),
        b"\0\0\0\4" + bytes(40),
        b"\xff" * 40,
    ],
)
def test_what_is_something_else_comes_back_whole(
    pair: tuple[socket.socket, socket.socket], file: int, foreign: bytes
) -> None:
    received = taken(pair, packet(b"abc") + foreign + packet(b"def"), file)
    assert received == Received(3, foreign + packet(b"def"))
    assert os.pread(file, 10, 0) == b"abc"


def test_a_packet_beyond_the_limit_comes_back_unwritten(pair: tuple[socket.socket, socket.socket], file: int) -> None:
    received = taken(pair, packet(b"abc") + packet(b"def"), file, limit=5)
    assert received == Received(3, packet(b"def"))
    assert os.pread(file, 10, 0) == b"abc"


def test_pieces_come_before_what_is_received(pair: tuple[socket.socket, socket.socket], file: int) -> None:
    near, far = pair
    far.sendall(packet(b"ghi")[4:])
    pieces = [b"abc"] * 700 + [b"def"]
    received = receive_packets(Lease(near), HEADER, file, 5, None, pieces, packet(b"ghi")[:4])
    assert received == Received(5 + 3 * 702)
    assert os.pread(file, 9999, 0) == bytes(5) + b"".join(pieces) + b"ghi"


def test_pieces_that_cannot_be_written_are_an_error(pair: tuple[socket.socket, socket.socket]) -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    received = receive_packets(Lease(pair[0]), HEADER, descriptor, 0, None, [b"abc"], b"pending")
    os.close(descriptor)
    assert isinstance(received.error, OSError)
    assert received.rest == b"pending"


def test_of_a_packet_half_taken_in_the_rest_becomes_a_packet(
    pair: tuple[socket.socket, socket.socket], file: int
) -> None:
    received = taken(pair, packet(bytes(1000))[:500], file)
    assert received.offset == 500 - len(HEADER)
    frames = list(FrameReader().feed(received.rest + bytes(1000 - received.offset)))
    assert [(frame.serial, len(frame.payload)) for frame in frames] == [(7, 1000 - received.offset)]


def test_descriptors_that_come_between_packets_come_back(pair: tuple[socket.socket, socket.socket], file: int) -> None:
    near, far = pair
    ends = os.pipe()
    far.sendall(packet(b"abc"))
    socket.send_fds(far, [packet(b"de")[:10]], ends)
    first = receive_packets(Lease(near), HEADER, file, 0, None, (), b"")
    # One call of the kernel's may take both in, or two.
    assert first.rest.endswith(packet(b"de")[:10])
    assert len(first.fds) == 2
    for fd in (*first.fds, *ends):
        os.close(fd)


def test_a_client_that_goes_is_noticed_with_its_last_words(
    pair: tuple[socket.socket, socket.socket], file: int
) -> None:
    near, far = pair
    far.sendall(packet(b"abc") + HEADER[:9])
    far.close()
    assert receive_packets(Lease(near), HEADER, file, 0, None, (), b"") == Received(3, HEADER[:9], lost=True)


def test_what_a_full_disk_does_not_take_is_an_error_and_the_conversation_goes_on(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    data = packet(bytes(5000)) + packet(bytes(200))[:100]
    received = taken(pair, data, descriptor)
    os.close(descriptor)
    assert received.error is not None
    # The packets are gone, but for what of the last is still to come.
    assert [len(frame.payload) for frame in FrameReader().feed(received.rest + bytes(200 - (100 - 28)))] == [128]


def test_a_file_is_sent_in_packets_of_the_usual_size(pair: tuple[socket.socket, socket.socket], file: int) -> None:
    near, far = pair
    content = os.urandom(STREAM_CHUNK + 1000)
    os.pwrite(file, content, 0)
    bulk.widen(near)
    near.settimeout(60)
    sent = send_packets(Lease(near), HEADER, file, 10, len(content))
    assert (sent.offset, sent.rest.tobytes(), sent.lost, sent.ended) == (len(content), b"", False, False)
    near.shutdown(socket.SHUT_WR)
    frames = list(FrameReader().feed(b"".join(iter(lambda: far.recv(1 << 20), b""))))
    assert [len(frame.payload) for frame in frames] == [STREAM_CHUNK, 990]
    assert b"".join(frame.payload for frame in frames) == content[10:]


def test_a_client_that_does_not_read_costs_a_thread_no_more_than_its_patience(
    pair: tuple[socket.socket, socket.socket], file: int
) -> None:
    near, far = pair
    content = os.urandom(3 << 20)
    os.pwrite(file, content, 0)
    sent = send_packets(Lease(near), HEADER, file, 0, len(content))
    assert sent.rest
    near.setblocking(True)
    near.shutdown(socket.SHUT_WR)
    got = b"".join(iter(lambda: far.recv(1 << 20), b"")) + sent.rest
    frames = list(FrameReader().feed(got))
    assert b"".join(frame.payload for frame in frames) == content[: sent.offset]


def test_sending_ends_with_the_file_and_with_the_client(pair: tuple[socket.socket, socket.socket], file: int) -> None:
    near, far = pair
    os.pwrite(file, b"abc", 0)
    assert send_packets(Lease(near), HEADER, file, 3, 9).ended
    far.close()
    assert send_packets(Lease(near), HEADER, file, 0, 3).lost
    assert send_packets(Lease(near, wanted=True), HEADER, file, 0, 3) == Sent(0)


# -- with an event loop -----------------------------------------------------------------------------------------------


def replace_handler(handlers: dict[tuple[int, int], Any], name: str, body: Callable[[Stream], Awaitable[None]]) -> None:
    row = BY_NAME[name]
    del handlers[row.program, row.number]

    @procedure(name)
    def handler(call: Call, _: Any) -> None:
        call.stream(body)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


VOLUME = ("pool", "volume", "/key")


def test_an_upload_with_other_calls_in_between_arrives_whole(
    with_daemon: WithDaemon, handlers: dict[tuple[int, int], Any], file: int
) -> None:
    async def body(stream: Stream) -> None:
        offset = 0
        while piece := await stream.read():
            assert isinstance(piece, bytes)
            offset = await stream.store(piece, file, offset, None)

    async def work(daemon: Daemon) -> None:
        replace_handler(handlers, "STORAGE_VOL_UPLOAD", body)
        client = SocketClient(daemon)
        await client.call("CONNECT_OPEN", "test:///default", 0)
        serial = await client.call("STORAGE_VOL_UPLOAD", VOLUME, 0, 0, 0)
        rng = random.Random(4)
        sent = bytearray()
        for number in range(80):
            data = rng.randbytes(rng.choice((10, 3000, 60000, 200_000)))
            sent += data
            client.protocol.send_stream(serial, data)
            if number % 5 == 0:
                await client.call("CONNECT_GET_LIB_VERSION")
            await client.flush()
        client.protocol.finish_stream(serial)
        await client.flush()
        await client.read_until(lambda event: isinstance(event, StreamEnded) and event.serial == serial)
        assert os.pread(file, len(sent) + 1, 0) == sent
        client.socket.close()

    with_daemon(work)


def test_a_download_with_other_calls_in_between_arrives_whole(
    with_daemon: WithDaemon, handlers: dict[tuple[int, int], Any], file: int
) -> None:
    content = random.Random(6).randbytes(9 << 20)
    os.pwrite(file, content, 0)

    async def body(stream: Stream) -> None:
        offset, end = 0, len(content)
        while offset < end:
            offset = await stream.send_file(file, offset, end)

    async def work(daemon: Daemon) -> None:
        replace_handler(handlers, "STORAGE_VOL_DOWNLOAD", body)
        client = SocketClient(daemon)
        await client.call("CONNECT_OPEN", "test:///default", 0)
        serial = await client.call("STORAGE_VOL_DOWNLOAD", VOLUME, 0, 0, 0)
        got = bytearray()
        while True:
            event = await client.read_until(lambda event: isinstance(event, ReceivedData) and event.serial == serial)
            if not event.data:
                break
            got += event.data
            if len(got) % 7 == 0:
                await client.call("CONNECT_GET_LIB_VERSION")
        assert got == content
        client.socket.close()

    with_daemon(work)


@pytest.mark.parametrize("name", ["STORAGE_VOL_UPLOAD", "STORAGE_VOL_DOWNLOAD"])
def test_a_client_that_goes_in_the_middle_leaves_nothing(
    with_daemon: WithDaemon, handlers: dict[tuple[int, int], Any], file: int, name: str
) -> None:
    os.ftruncate(file, 64 << 20)
    ended = asyncio.Event()

    async def body(stream: Stream) -> None:
        try:
            offset = 0
            while name.endswith("DOWNLOAD"):
                offset = await stream.send_file(file, 0, 64 << 20)
            while piece := await stream.read():
                assert isinstance(piece, bytes)
                offset = await stream.store(piece, file, offset, None)
        finally:
            ended.set()

    async def work(daemon: Daemon) -> None:
        replace_handler(handlers, name, body)
        before = descriptors()
        client = SocketClient(daemon)
        await client.call("CONNECT_OPEN", "test:///default", 0)
        serial = await client.call(name, VOLUME, 0, 0, 0)
        if name.endswith("UPLOAD"):
            client.protocol.send_stream(serial, bytes(1 << 20))
            await client.flush()
        else:
            await client.read_until(lambda event: isinstance(event, ReceivedData))
        client.socket.close()
        await ended.wait()
        for _ in range(1000):
            if descriptors() <= before:
                break
            await asyncio.sleep(0.01)
        assert descriptors() <= before
        assert not daemon.connections

    with_daemon(work)
