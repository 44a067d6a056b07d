from __future__ import annotations

import random
import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from pyhyve.image.contract import ImageError, ImageReadonlyError
from pyhyve.image.nbd.client import NbdStorage
from pyhyve.image.nbd.connection import Connection
from pyhyve.image.nbd.protocol import (
    Address,
    NbdError,
    Option,
    go_data,
    meta_data,
    option_request,
    parse_address,
    parse_go,
    parse_meta,
)
from pyhyve.image.nbd.server import NbdServer, Session
from pyhyve.image.opening import OpenSettings, create_image, open_image
from pyhyve.image.operations.compare import compare
from tests.unit.image.conftest import read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("nbd://host/name", Address("name", host="host")),
        ("nbd://host:99", Address("", host="host", port=99)),
        ("nbd://[::1]:5/x%20y", Address("x y", host="::1", port=5)),
        ("nbd+unix:///exp?socket=/run/s", Address("exp", path="/run/s")),
        ("nbd:unix:/run/s:exportname=e", Address("e", path="/run/s")),
        ("nbd:localhost:10:exportname=e", Address("e", port=10)),
    ],
)
def test_addresses(text: str, address: Any) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["nbd+unix:///x", "nbd:host", "nbd://h:99999/", "http://x"])
def test_wrong_addresses_are_refused(text: str) -> None:
    with pytest.raises(NbdError):
        parse_address(text)


class LeavingClient:
    """A connection whose client sent `words` and closed it without reading more than the greeting."""

    def __init__(self, words: bytes) -> None:
        self._words = words
        self._sent = 0

    def read(self, length: int) -> bytes:
        part, self._words = self._words[:length], self._words[length:]
        if len(part) < length:
            msg = "the peer closed the connection"
            raise NbdError(msg)
        return part

    def send(self, *_parts: bytes) -> None:
        self._sent += 1
        if self._sent > 1:
            msg = "NBD connection failed: Broken pipe"
            raise NbdError(msg)


def test_client_that_aborts_need_not_wait_for_the_answer(tmp_path: Path) -> None:
    create_image(str(tmp_path / "a"), "raw", 1 << 20)
    with open_image(str(tmp_path / "a")) as image:
        client: Any = LeavingClient((3).to_bytes(4, "big") + option_request(Option.ABORT))
        Session(client, image, "").run()


def test_tls_addresses_are_refused() -> None:
    with pytest.raises(ImageError, match="TLS is not supported"):
        open_image("nbds://127.0.0.1:1/")


def test_option_data_survives_a_round_trip() -> None:
    assert parse_go(go_data("näme")) == ("näme", (3,))
    assert parse_meta(meta_data("x", "base:allocation", "y")) == ("x", ("base:allocation", "y"))
    for parse, data in ((parse_go, go_data("x")), (parse_meta, meta_data("x", "q"))):
        for cut in range(len(data)):
            with pytest.raises(NbdError):
                parse(data[:cut])


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, bytearray, list[str]]]:
    path = str(tmp_path / "disk.qcow2")
    create_image(path, "qcow2", 4 << 20)
    flat = bytearray(4 << 20)
    image = open_image(path, OpenSettings(writable=True))
    flat[100_000:1_000_000] = random.Random(1).randbytes(900_000)
    image.pwrite(flat[100_000:1_000_000], 100_000)
    where = str(tmp_path / "s")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(where)
    listener.listen()
    errors = []
    server = NbdServer(listener, image, "disk", persistent=True)
    thread = threading.Thread(target=server.serve, args=(errors.append,))
    thread.start()
    yield f"nbd+unix:///disk?socket={where}", flat, errors
    listener.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()
    image.close()


def test_client_and_server_move_a_disk(served: tuple[str, bytearray, list[str]], tmp_path: Path) -> None:
    address, flat, _ = served
    with open_image(address, OpenSettings("raw", writable=True)) as image:
        assert read(image) == flat
        image.pwrite(b"w" * 3_000_000, 500_000)
        image.write_zeroes(600_000, 300_000)
        image.discard(1 << 20, 1 << 20)
        image.flush()
        flat[500_000:3_500_000] = b"w" * 3_000_000
        flat[600_000:900_000] = bytes(300_000)
        flat[1 << 20 : 2 << 20] = bytes(1 << 20)
        assert read(image) == flat
    (tmp_path / "flat").write_bytes(flat)
    with (
        open_image(address, OpenSettings("raw")) as image,
        open_image(str(tmp_path / "flat"), OpenSettings("raw")) as local,
    ):
        assert compare(image, local).identical
        runs = list(image.layer_extents(0, image.size_bytes))
        assert sum(run.length for run in runs) == image.size_bytes
        assert any(run.state == 1 for run in runs)


def test_unknown_export_is_refused(served: tuple[str, bytearray, list[str]]) -> None:
    address, _, _ = served
    with pytest.raises(NbdError, match="no export"):
        NbdStorage.connect(address.replace("/disk?", "/other?"), writable=False)


def test_read_only_export_refuses_writers(tmp_path: Path) -> None:
    path = str(tmp_path / "d")
    create_image(path, "raw", 4096)
    with open_image(path, OpenSettings("raw")) as image:
        ours, theirs = socket.socketpair()

        def serve() -> None:
            with pytest.raises(NbdError):
                Session(Connection(theirs), image, "").run()

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ImageReadonlyError):
            NbdStorage(Connection(ours), Address(""), "x", writable=True)
        ours.close()
        thread.join()


def talk(data: Any) -> None:
    """What a server that says `data` does to our client."""
    ours, theirs = socket.socketpair()
    theirs.sendall(data)
    theirs.shutdown(socket.SHUT_WR)
    try:
        with pytest.raises(NbdError):
            NbdStorage(Connection(ours), Address("x"), "x", writable=False)
    finally:
        ours.close()
        theirs.close()


def test_hostile_servers_are_an_error_not_a_hang() -> None:
    hello = b"NBDMAGICIHAVEOPT\0\1"
    talk(b"")
    talk(b"HTTP/1.1 400 Bad Request\r\n")
    talk(b"NBDMAGICIHAVEOPT\0\0")
    talk(hello + bytes(20))
    talk(hello + struct.pack(">QIII", 0x3E889045565A9, 8, 1, 1 << 31))
    ack = struct.pack(">QIII", 0x3E889045565A9, 8, (1 << 31) + 1, 0)
    talk(hello + ack + struct.pack(">QIIIHQH", 0x3E889045565A9, 7, 3, 12, 0, 1 << 63, 1))


def test_hostile_clients_end_their_own_session_only(served: tuple[str, bytearray, list[str]]) -> None:
    address, flat, _ = served
    path = parse_address(address).path
    chance = random.Random(2)
    for _ in range(30):
        option = Option(chance.choice(list(Option)))
        parts = [b"\0\0\0\1", option_request(option, chance.randbytes(chance.randrange(40)))]
        with socket.socket(socket.AF_UNIX) as sock, suppress(BrokenPipeError, ConnectionResetError):
            sock.connect(path)
            for part in (*parts, chance.randbytes(200)):  # the server may hang up at any of them
                sock.sendall(part)
    with open_image(address, OpenSettings("raw")) as image:
        assert read(image, 100_000, 100) == flat[100_000:100_100]
