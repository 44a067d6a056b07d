"""The virtual socket device against a driver in Python and real Unix sockets (VIRTIO 1.2, 5.10)."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyhyve.backends.vsock import VsockError, VsockListener
from pyhyve.devices.virtio.spec import VSOCK_HEADER_BYTES, VSOCK_HOST_CID, Feature, Status, VsockOp, VsockType
from pyhyve.devices.virtio.vsock import VirtioVsock, VirtioVsockState
from pyhyve.devices.virtio.vsock_packet import BUFFER_BYTES, VsockHeader
from pyhyve.state.errors import StateError
from pyhyve.testing.virtio_driver import Segment, VirtioDriver
from pyhyve.testing.virtio_driver_transport import MiniMachine

if TYPE_CHECKING:
    from collections.abc import Iterator

CID = 5
PACKET_BYTES = 4096
GUEST_ROOM = 1 << 16


class GuestSide:
    """What a guest's kernel does with the device: packets out, packets in, buffers given back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.machine = MiniMachine()
        self.device = VirtioVsock(self.machine.memory, self.machine.loop, CID, VsockListener(path))
        self.device.start()
        self.transport = self.machine.plug_pci(self.device)
        self.driver = VirtioDriver(self.transport, self.machine.allocator)
        self.driver.start(self.transport.read_features() & ~int(Feature.RING_PACKED))
        self.buffers: dict[int, Segment] = {}
        for _ in range(16):
            self.post(self.driver.buffer(PACKET_BYTES))
        self.out = self.driver.buffer(bytes(VSOCK_HEADER_BYTES + BUFFER_BYTES + 4096))
        self.machine.loop.start()
        self.taken = 0

    def post(self, part: Segment) -> None:
        self.buffers[self.driver.submit(0, [part])] = part

    def send(self, op: int, host_port: int, guest_port: int, data: bytes = b"", **changes: int) -> None:
        header = VsockHeader(
            CID, VSOCK_HOST_CID, guest_port, host_port, len(data), VsockType.STREAM, op, 0, GUEST_ROOM, self.taken
        )
        packet = header._replace(**changes).pack() + data
        self.machine.memory.write(self.out.gpa, packet)
        self.driver.submit(1, [Segment(self.out.gpa, len(packet), is_write=False)])
        wait(lambda: self.driver.queues[1].poll() is not None)

    def receive(self, timeout_s: float = 60) -> tuple[VsockHeader, bytes]:
        deadline = time.monotonic() + timeout_s
        while (used := self.driver.queues[0].poll()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.0002)
        part = self.buffers.pop(used.token)
        data = self.driver.read(part)[: used.written_bytes]
        self.post(part)
        header = VsockHeader.parse(data)
        assert used.written_bytes == VSOCK_HEADER_BYTES + header.length
        assert (header.target_cid, header.source_cid) == (CID, VSOCK_HOST_CID)
        return header, data[VSOCK_HEADER_BYTES:]

    def is_silent(self) -> bool:
        time.sleep(0.02)
        return self.driver.queues[0].poll() is None

    def connect_from_host(self, port: int) -> tuple[socket.socket, VsockHeader]:
        """A program on the host connects to `port`; the guest accepts."""
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(60)
        client.connect(str(self.path))
        client.sendall(f"CONNECT {port}\n".encode())
        header, _ = self.receive()
        assert (header.op, header.target_port, header.type) == (VsockOp.REQUEST, port, VsockType.STREAM)
        assert header.buffer_bytes == BUFFER_BYTES
        self.send(VsockOp.RESPONSE, header.source_port, port)
        assert client.recv(100) == f"OK {header.source_port}\n".encode()
        return client, header

    def connect_from_guest(self, port: int, guest_port: int = 1234) -> socket.socket:
        """The guest connects to `port`, where a program of the host listens."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{self.path}_{port}")
            listener.listen()
            self.send(VsockOp.REQUEST, port, guest_port)
            server, _ = listener.accept()
        server.settimeout(60)
        header, _ = self.receive()
        assert (header.op, header.source_port, header.target_port) == (VsockOp.RESPONSE, port, guest_port)
        return server

    def close(self) -> None:
        self.device.close()
        self.machine.close()


def wait(condition: object) -> None:
    deadline = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.0002)


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[GuestSide]:
    guest = GuestSide(tmp_path / "v")
    yield guest
    guest.close()


def test_configuration_holds_the_guest_address(guest: GuestSide) -> None:
    assert guest.transport.read_config(0, 8) == CID


def test_host_reaches_the_guest(guest: GuestSide) -> None:
    client, offer = guest.connect_from_host(80)
    client.sendall(b"question")
    header, data = guest.receive()
    assert (header.op, data) == (VsockOp.RW, b"question")
    guest.send(VsockOp.RW, offer.source_port, 80, b"answer")
    assert client.recv(100) == b"answer"
    client.close()


def test_what_follows_the_first_line_belongs_to_the_guest(guest: GuestSide) -> None:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(guest.path))
    client.sendall(b"CONNECT 7\nearly data")
    offer, _ = guest.receive()
    guest.send(VsockOp.RESPONSE, offer.source_port, 7)
    assert guest.receive()[1] == b"early data"
    client.close()


def test_guest_reaches_the_host(guest: GuestSide) -> None:
    server = guest.connect_from_guest(22)
    guest.send(VsockOp.RW, 22, 1234, b"question")
    assert server.recv(100) == b"question"
    server.sendall(b"answer")
    assert guest.receive()[1] == b"answer"
    server.close()


def test_port_nobody_serves_is_refused(guest: GuestSide) -> None:
    guest.send(VsockOp.REQUEST, 99, 1234)
    header, _ = guest.receive()
    assert (header.op, header.source_port, header.target_port) == (VsockOp.RST, 99, 1234)


def test_guest_that_refuses_hangs_up_on_the_client(guest: GuestSide) -> None:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(60)
    client.connect(str(guest.path))
    client.sendall(b"connect 9\n")
    offer, _ = guest.receive()
    guest.send(VsockOp.RST, offer.source_port, 9)
    assert client.recv(100) == b""
    client.close()
    assert guest.is_silent(), "a reset is not answered"


@pytest.mark.parametrize("line", [b"HELLO\n", b"CONNECT x\n", b"CONNECT 4294967296\n", b"CONNECT 1 2\n", b"y" * 100])
def test_client_that_says_something_else_is_hung_up_on(guest: GuestSide, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(guest.path))
        client.sendall(line)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(10) == b""
    assert guest.is_silent()


def test_client_that_goes_before_the_answer_is_withdrawn(guest: GuestSide) -> None:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(guest.path))
    client.sendall(b"CONNECT 9\n")
    offer, _ = guest.receive()
    client.close()
    header, _ = guest.receive()
    assert (header.op, header.source_port) == (VsockOp.RST, offer.source_port)
    assert not guest.device._connections


def test_stream_of_the_host_obeys_the_guests_credit(guest: GuestSide) -> None:
    server = guest.connect_from_guest(22)
    data = random.Random(1).randbytes(5 * GUEST_ROOM)
    server.settimeout(0)
    given = server.send(data)
    received = bytearray()
    while True:
        header, part = guest.receive()
        if header.op == VsockOp.CREDIT_REQUEST:
            assert len(received) - guest.taken == GUEST_ROOM, "all the room is used, and no more"
            guest.taken = len(received)
            guest.send(VsockOp.CREDIT_UPDATE, 22, 1234)
        else:
            assert header.op in {VsockOp.RW, VsockOp.CREDIT_UPDATE}
            received += part
            if len(received) == given:
                if given == len(data):
                    break
                with contextlib.suppress(BlockingIOError):
                    given += server.send(data[given:])
    assert received == data
    server.close()


def test_stream_of_the_guest_waits_for_a_slow_program_and_is_whole(guest: GuestSide) -> None:
    server = guest.connect_from_guest(22)
    data = random.Random(2).randbytes(4 << 20)
    sent = taken = 0
    received = bytearray()
    while sent < len(data):
        room = BUFFER_BYTES - (sent - taken)
        if room >= 32768:
            guest.send(VsockOp.RW, 22, 1234, data[sent : sent + 32768])
            sent += 32768
            continue
        assert len(guest.device._connections[1234, 22].pending) <= BUFFER_BYTES
        received += server.recv(1 << 18)
        header, _ = guest.receive()
        assert header.op == VsockOp.CREDIT_UPDATE
        taken = header.taken
    guest.send(VsockOp.SHUTDOWN, 22, 1234, flags=2)
    while part := server.recv(1 << 18):
        received += part
    assert received == data
    server.close()


def test_guest_that_ignores_its_credit_is_reset(guest: GuestSide) -> None:
    server = guest.connect_from_guest(22)
    for _ in range(64):
        guest.send(VsockOp.RW, 22, 1234, bytes(64 << 10))
        if (1234, 22) not in guest.device._connections:
            break
    else:
        pytest.fail("the device keeps whatever the guest sends")
    server.close()


def test_half_closed_by_the_host_still_carries_the_guests_data(guest: GuestSide) -> None:
    server = guest.connect_from_guest(22)
    server.sendall(b"last")
    server.shutdown(socket.SHUT_WR)
    assert guest.receive()[1] == b"last"
    while (header := guest.receive()[0]).op == VsockOp.CREDIT_UPDATE:
        pass
    assert (header.op, header.flags) == (VsockOp.SHUTDOWN, 2)
    guest.send(VsockOp.RW, 22, 1234, b"reply")
    assert server.recv(100) == b"reply"
    guest.send(VsockOp.SHUTDOWN, 22, 1234, flags=3)
    assert server.recv(100) == b""
    assert guest.receive()[0].op == VsockOp.RST
    assert not guest.device._connections
    server.close()


def test_program_that_goes_leaves_the_guest_what_it_said(guest: GuestSide) -> None:
    server = guest.connect_from_guest(22)
    server.sendall(b"last words")
    server.close()
    received = b""
    ops = []
    while not ops or ops[-1] != (VsockOp.SHUTDOWN, 3):
        header, data = guest.receive()
        received += data
        ops.append((header.op, header.flags))
    assert received == b"last words"
    guest.send(VsockOp.RST, 22, 1234)
    assert not guest.device._connections


def test_guest_that_closes_hangs_up_after_its_data(guest: GuestSide) -> None:
    server = guest.connect_from_guest(22)
    guest.send(VsockOp.RW, 22, 1234, b"bye")
    guest.send(VsockOp.SHUTDOWN, 22, 1234, flags=3)
    assert server.recv(100) == b"bye"
    assert server.recv(100) == b""
    assert guest.receive()[0].op == VsockOp.RST
    server.close()


@pytest.mark.parametrize(
    "changes",
    [{"target_cid": 3}, {"type": VsockType.SEQPACKET}, {"op": 77}, {"op": VsockOp.RESPONSE}, {"op": VsockOp.RW}],
)
def test_packet_nobody_expects_is_answered_with_a_reset(guest: GuestSide, changes: dict[str, int]) -> None:
    packet = {"op": VsockOp.REQUEST, **changes}
    guest.send(packet.pop("op"), 22, 1234, **packet)
    deadline = time.monotonic() + 60
    while (used := guest.driver.queues[0].poll()) is None:
        assert time.monotonic() < deadline
    header = VsockHeader.parse(guest.driver.read(guest.buffers[used.token]))
    assert (header.op, header.target_port, header.source_port) == (VsockOp.RST, 1234, 22)


def test_packet_from_another_address_is_dropped(guest: GuestSide) -> None:
    guest.send(VsockOp.REQUEST, 22, 1234, source_cid=9)
    assert guest.is_silent()


def test_answers_wait_for_buffers_and_are_bounded(guest: GuestSide) -> None:
    while guest.driver.queues[0].poll() is not None:
        pass
    packet = VsockHeader(CID, VSOCK_HOST_CID, 1, 1, 0, 1, VsockOp.RW, 0, 0, 0).pack()
    guest.machine.memory.write(guest.out.gpa, packet)
    deadline = time.monotonic() + 60
    while not guest.device.is_blocked(1):
        assert time.monotonic() < deadline
        with contextlib.suppress(Exception):
            for _ in range(100):
                guest.driver.submit(1, [Segment(guest.out.gpa, len(packet), is_write=False)])
        time.sleep(0.02)
        while guest.driver.queues[1].poll() is not None:
            pass
    assert len(guest.device._replies) <= 256
    for _ in range(600):
        guest.receive()
        if not guest.device._replies:
            break
    wait(lambda: not guest.device.is_blocked(1))
    assert not guest.transport.read_status() & Status.NEEDS_RESET


def test_reset_hangs_up_everywhere(guest: GuestSide) -> None:
    server = guest.connect_from_guest(22)
    client, _ = guest.connect_from_host(80)
    guest.transport.write_status(0)
    assert server.recv(10) == b""
    assert client.recv(10) == b""
    assert not guest.device._connections
    guest.driver.start(guest.driver.features)
    server.close()
    client.close()


def test_many_connections_do_not_mix(guest: GuestSide) -> None:
    servers = {port: guest.connect_from_guest(port, guest_port=port + 1000) for port in range(30, 60)}
    for port, server in servers.items():
        guest.send(VsockOp.RW, port, port + 1000, str(port).encode())
        server.sendall(f"to {port}".encode())
    for port, server in servers.items():
        assert server.recv(10) == str(port).encode()
    answers = {}
    while len(answers) < len(servers):
        header, data = guest.receive()
        if header.op == VsockOp.RW:
            answers[header.source_port] = data
    assert answers == {port: f"to {port}".encode() for port in servers}
    for server in servers.values():
        server.close()


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    guest = GuestSide(tmp_path / "v")
    server = guest.connect_from_guest(22)
    client, _ = guest.connect_from_host(80)
    waiting = socket.socket(socket.AF_UNIX)
    waiting.connect(str(guest.path))
    time.sleep(0.02)
    guest.close()
    for end in (server, client, waiting):
        end.close()
    del guest
    assert len(set(Path("/proc/self/fd").iterdir()) - before) <= 1, "the list's own"
    assert not (tmp_path / "v").exists()


def test_path_in_use_is_one_line(tmp_path: Path) -> None:
    first = VsockListener(tmp_path / "v")
    with pytest.raises(VsockError, match="another program listens there"):
        VsockListener(tmp_path / "v")
    first.close()
    with pytest.raises(VsockError, match="No such file or directory"):
        VsockListener(Path("/nonexistent/v"))


def test_pause_keeps_connections_and_what_arrives_meanwhile(guest: GuestSide) -> None:
    server = guest.connect_from_guest(22)
    guest.device.suspend()
    server.sendall(b"while you slept")
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(guest.path))
    client.sendall(b"CONNECT 80\n")
    assert guest.is_silent()
    guest.device.resume()
    found = [guest.receive() for _ in range(2)]
    assert {header.op for header, _ in found} == {VsockOp.RW, VsockOp.REQUEST}
    assert b"while you slept" in {data for _, data in found}
    client.close()
    server.close()


def test_guest_of_a_restored_state_learns_that_its_connections_are_gone(guest: GuestSide) -> None:
    event = guest.driver.buffer(4)
    guest.machine.memory.write(event.gpa, b"\xff" * 4)
    guest.driver.submit(2, [event])
    guest.device.suspend()
    guest.device.load(guest.device.save())
    guest.device.resume()
    used = guest.driver.queues[2].poll()
    assert used is not None
    assert used.written_bytes == 4
    assert guest.driver.read(event) == bytes(4)
    with pytest.raises(StateError, match="the guest had the address 9, not 5"):
        guest.device.load(VirtioVsockState(cid=9))
