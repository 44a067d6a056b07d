"""The client against a daemon that says what the test tells it to."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.client import LibvirtError, connect
from pyhyve.rpc.errors import ErrorCode, ErrorMessage
from pyhyve.rpc.frames import Frame, FrameReader
from pyhyve.rpc.procedures import BY_NUMBER, procedure
from pyhyve.rpc.spec import Keepalive, MessageType, Program, Status
from pyhyve.rpc.values import Domain, StatsRecord, TypedParam

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VM = Domain("vm", bytes(range(16)), 3)


class Daemon:
    """Answers each procedure with the values set for it; an ErrorMessage fails it; bytes are sent as they are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, Any] = {"AUTH_LIST": ([0],), "CONNECT_SUPPORTS_FEATURE": (1,)}
        self.extra: dict[str, list[Frame]] = {}
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.on_stream: Callable[[Frame], list[Frame]] = lambda frame: []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(1)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    @property
    def uri(self) -> str:
        return f"qemu:///system?socket={self.path}"

    def serve(self) -> None:
        near, _ = self.listener.accept()
        reader = FrameReader()
        with near:
            while data := near.recv(65536):
                for frame in reader.feed(data):
                    for answer in self.answer(frame):
                        near.sendall(answer if isinstance(answer, bytes) else answer.encode())

    def answer(self, frame: Frame) -> Iterator[Frame | bytes]:
        if frame.program == Program.KEEPALIVE:
            self.calls.append((Keepalive(frame.procedure).name, ()))
            return
        row = BY_NUMBER[frame.program, frame.procedure]
        if frame.type is MessageType.STREAM:
            yield from self.on_stream(frame)
            return
        self.calls.append((row.name, tuple(row.args_codec.decode(frame.payload))))
        yield from self.extra.get(row.name, [])
        values = self.answers.get(row.name, ())
        if isinstance(values, bytes):
            yield values
        elif isinstance(values, ErrorMessage):
            yield Frame(row.program, row.number, MessageType.REPLY, frame.serial, Status.ERROR, values.encode())
        else:
            payload = row.ret_codec.encode(*values)
            yield Frame(row.program, row.number, MessageType.REPLY, frame.serial, payload=payload)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path / "s")
    yield made
    made.listener.close()
    made.thread.join(60)


def test_opening_authenticates_then_opens_then_closes(daemon: Daemon) -> None:
    with connect(daemon.uri) as connection:
        assert connection.is_alive()
    assert [name for name, _ in daemon.calls] == [
        "AUTH_LIST",
        "CONNECT_SUPPORTS_FEATURE",
        "CONNECT_OPEN",
        "CONNECT_CLOSE",
    ]
    assert daemon.calls[2][1] == ("qemu:///system", 0)
    assert not connection.is_alive()


def test_read_only_is_said_when_opening(daemon: Daemon) -> None:
    connect(daemon.uri, read_only=True).close()
    assert daemon.calls[2][1] == ("qemu:///system", 1)


def test_polkit_is_used_where_offered(daemon: Daemon) -> None:
    daemon.answers |= {"AUTH_LIST": ([1, 2],), "AUTH_POLKIT": (1,)}
    connect(daemon.uri).close()
    assert "AUTH_POLKIT" in [name for name, _ in daemon.calls]


def test_password_asked_for_and_not_given_is_said(daemon: Daemon) -> None:
    daemon.answers["AUTH_LIST"] = ([1],)
    with pytest.raises(LibvirtError, match="name and password, and none were given") as caught:
        connect(daemon.uri)
    assert caught.value.code == ErrorCode.AUTH_FAILED


def test_errors_carry_code_and_message(daemon: Daemon) -> None:
    daemon.answers["DOMAIN_LOOKUP_BY_NAME"] = ErrorMessage(ErrorCode.NO_DOMAIN, 10, "Domain not found")
    with connect(daemon.uri) as connection, pytest.raises(LibvirtError, match=r"^Domain not found$") as caught:
        connection.domain("x")
    assert (caught.value.code, caught.value.domain) == (42, 10)


def test_domains_answer_as_tuples(daemon: Daemon) -> None:
    daemon.answers |= {
        "CONNECT_LIST_ALL_DOMAINS": ([VM], 1),
        "DOMAIN_GET_INFO": (1, 2048, 1024, 2, 99),
        "CONNECT_GET_ALL_DOMAIN_STATS": ([StatsRecord(VM, [TypedParam("a", 6, 1), TypedParam("b", 7, "x")])],),
    }
    with connect(daemon.uri) as connection:
        (domain,) = connection.list_all_domains()
        assert (domain.name, domain.id, domain.uuid.bytes) == ("vm", 3, VM.uuid)
        assert domain.info() == (1, 2048, 1024, 2, 99)
        assert connection.domain_stats([domain]) == [(domain, {"a": True, "b": "x"})]
        with pytest.raises(LibvirtError, match="do not fit") as caught:
            domain.set_memory(-1)
        assert caught.value.code == ErrorCode.INVALID_ARG
        assert connection.is_alive()


def test_events_are_kept_and_pings_answered_during_calls(daemon: Daemon) -> None:
    row = procedure("DOMAIN_EVENT_CALLBACK_LIFECYCLE")
    payload = row.args_codec.encode(1, VM, 2, 0)
    daemon.extra["CONNECT_GET_HOSTNAME"] = [
        Frame(row.program, row.number, MessageType.MESSAGE, 0, payload=payload),
        Frame(Program.KEEPALIVE, Keepalive.PING, MessageType.MESSAGE, 0),
    ]
    daemon.answers["CONNECT_GET_HOSTNAME"] = ("h",)
    daemon.answers["CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY"] = (1,)
    with connect(daemon.uri) as connection:
        assert connection.watch_domains() == 1
        assert connection.hostname() == "h"
        event = connection.next_event(5)
        assert event is not None
        assert event.message.dom == VM
        assert connection.next_event(0) is None
    assert ("PONG", ()) in daemon.calls


def test_stream_is_read_to_its_end(daemon: Daemon) -> None:
    row = procedure("DOMAIN_SCREENSHOT")

    def part(serial: int, status: Status, data: bytes = b"") -> Frame:
        return Frame(row.program, row.number, MessageType.STREAM, serial, status, data)

    daemon.answers["CONNECT_LIST_ALL_DOMAINS"] = ([VM], 1)
    daemon.answers["DOMAIN_SCREENSHOT"] = ("image/png",)
    daemon.on_stream = lambda frame: [part(frame.serial, Status.OK)]
    answer = daemon.answer

    def answer_and_stream(frame: Frame) -> Iterator[Frame | bytes]:
        yield from answer(frame)
        if (frame.procedure, frame.type) == (row.number, MessageType.CALL):
            yield from (part(frame.serial, Status.CONTINUE, data) for data in (b"ab", b"cd", b""))

    daemon.answer = answer_and_stream  # type: ignore[method-assign]
    with connect(daemon.uri) as connection:
        mime, stream = connection.list_all_domains()[0].screenshot()
        with stream:
            assert (mime, stream.read_all(10)) == ("image/png", b"abcd")
        _, stream = connection.list_all_domains()[0].screenshot()
        with pytest.raises(ValueError, match="more than 3"), stream:
            stream.read_all(3)


@pytest.mark.parametrize(
    "rubbish", [b"\0\0\0\1", b"\xff" * 64, Frame(Program.REMOTE, 59, MessageType.REPLY, 99).encode()]
)
def test_rubbish_ends_the_connection_with_one_line(daemon: Daemon, rubbish: bytes) -> None:
    daemon.answers["CONNECT_GET_HOSTNAME"] = rubbish
    connection = connect(daemon.uri)
    with pytest.raises(LibvirtError, match="the connection to the daemon is lost") as caught:
        connection.hostname()
    assert "\n" not in str(caught.value)
    assert not connection.is_alive()
    with pytest.raises(LibvirtError):
        connection.hostname()


def test_silence_ends_at_the_timeout(daemon: Daemon) -> None:
    daemon.answers["CONNECT_GET_HOSTNAME"] = b""
    with pytest.raises(LibvirtError, match="timed out"):
        connect(daemon.uri, timeout_s=0.2).hostname()


def test_no_daemon_is_an_error_that_names_the_socket(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(LibvirtError, match=f"no daemon listens on {tmp_path}/none"):
        connect(f"qemu:///system?socket={tmp_path}/none")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
