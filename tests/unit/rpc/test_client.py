from __future__ import annotations

import pytest

from pyhyve.rpc.client import (
    ClientProtocol,
    Event,
    Failed,
    Pong,
    ProtocolViolation,
    Pushed,
    Replied,
    StreamData,
    StreamEnded,
    StreamFailed,
    StreamHole,
)
from pyhyve.rpc.codec import XdrError, codec
from pyhyve.rpc.errors import ErrorCode, ErrorMessage
from pyhyve.rpc.frames import Frame, FrameReader
from pyhyve.rpc.procedures import procedure
from pyhyve.rpc.spec import STREAM_CHUNK, Keepalive, MessageType, Program, Status
from pyhyve.rpc.values import Domain

DOMAIN = Domain("test", bytes(16), 1)
ERROR = ErrorMessage(ErrorCode.NO_DOMAIN, 10, "no such domain")


def sent(protocol: ClientProtocol) -> list[Frame]:
    reader = FrameReader()
    return [frame for data, fds in protocol.data_to_send() for frame in reader.feed(data + bytes(len(fds)), fds)]


def received(protocol: ClientProtocol, *frames: Frame) -> list[Event]:
    return [event for frame in frames for event in protocol.receive(frame.encode() + bytes(len(frame.fds)), frame.fds)]


def reply(name: str, serial: int, *values: object) -> Frame:
    row = procedure(name)
    return Frame(row.program, row.number, MessageType.REPLY, serial, payload=row.ret_codec.encode(*values))


def opened_stream() -> tuple[ClientProtocol, int]:
    protocol = ClientProtocol()
    serial = protocol.call(procedure("DOMAIN_OPEN_CONSOLE"), DOMAIN, None, 0)
    received(protocol, reply("DOMAIN_OPEN_CONSOLE", serial))
    sent(protocol)
    return protocol, serial


def stream(serial: int, status: Status, data: bytes = b"", kind: MessageType = MessageType.STREAM) -> Frame:
    return Frame(Program.REMOTE, 201, kind, serial, status, data)


def test_calls_overlap_and_answers_find_them() -> None:
    protocol = ClientProtocol()
    first = protocol.call(procedure("CONNECT_GET_HOSTNAME"))
    second = protocol.call(procedure("DOMAIN_IS_ACTIVE"), DOMAIN)
    assert [frame.serial for frame in sent(protocol)] == [first, second] == [1, 2]
    events = received(protocol, reply("DOMAIN_IS_ACTIVE", second, 1), reply("CONNECT_GET_HOSTNAME", first, "host"))
    assert [(type(event), event.serial) for event in events if isinstance(event, Replied)] == [
        (Replied, second),
        (Replied, first),
    ]
    assert isinstance(events[1], Replied)
    assert events[1].result.hostname == "host"


def test_failed_call_carries_the_error() -> None:
    protocol = ClientProtocol()
    serial = protocol.call(procedure("DOMAIN_LOOKUP_BY_NAME"), "x")
    frame = Frame(Program.REMOTE, 23, MessageType.REPLY, serial, Status.ERROR, ERROR.encode())
    assert received(protocol, frame) == [Failed(serial, ERROR)]


def test_values_that_do_not_fit_queue_nothing() -> None:
    protocol = ClientProtocol()
    with pytest.raises(XdrError):
        protocol.call(procedure("DOMAIN_LOOKUP_BY_ID"), 2**31)
    assert protocol.data_to_send() == []


def test_descriptors_go_with_a_call_and_come_with_a_reply() -> None:
    protocol = ClientProtocol()
    serial = protocol.call(procedure("DOMAIN_CREATE_XML_WITH_FILES"), "<domain/>", 0, fds=[3])
    (frame,) = sent(protocol)
    assert (frame.type, frame.fds) == (MessageType.CALL_WITH_FDS, (3,))
    row = procedure("DOMAIN_CREATE_XML_WITH_FILES")
    payload = row.ret_codec.encode(DOMAIN)
    (event,) = received(
        protocol, Frame(row.program, row.number, MessageType.REPLY_WITH_FDS, serial, fds=(9,), payload=payload)
    )
    assert isinstance(event, Replied)
    assert event.fds == (9,)


def test_pings_are_answered_and_pongs_reported() -> None:
    protocol = ClientProtocol()
    assert received(protocol, Frame(Program.KEEPALIVE, Keepalive.PING, MessageType.MESSAGE, 0)) == []
    protocol.ping()
    assert [frame.procedure for frame in sent(protocol)] == [Keepalive.PONG, Keepalive.PING]
    assert received(protocol, Frame(Program.KEEPALIVE, Keepalive.PONG, MessageType.MESSAGE, 0)) == [Pong()]


def test_events_are_decoded_and_unknown_ones_passed_over() -> None:
    row = procedure("DOMAIN_EVENT_CALLBACK_LIFECYCLE")
    payload = row.args_codec.encode(4, DOMAIN, 2, 0)
    protocol = ClientProtocol()
    (event,) = received(protocol, Frame(row.program, row.number, MessageType.MESSAGE, 0, payload=payload))
    assert isinstance(event, Pushed)
    assert (event.procedure, event.message.dom, event.message.event) == (row, DOMAIN, 2)
    assert received(protocol, Frame(row.program, 9999, MessageType.MESSAGE, 0)) == []


def test_stream_data_holes_and_end() -> None:
    protocol, serial = opened_stream()
    hole = codec("length long, flags uint").encode(4096, 0)
    events = received(
        protocol,
        stream(serial, Status.CONTINUE, b"abc"),
        stream(serial, Status.CONTINUE, hole, MessageType.STREAM_HOLE),
        stream(serial, Status.CONTINUE),
        stream(serial, Status.OK),
        stream(serial, Status.CONTINUE, b"late"),
    )
    assert events == [
        StreamData(serial, b"abc"),
        StreamHole(serial, 4096),
        StreamData(serial, b""),
        StreamEnded(serial),
    ]


def test_stream_is_cut_into_packets_finished_or_aborted() -> None:
    protocol, serial = opened_stream()
    protocol.send_stream(serial, bytes(STREAM_CHUNK + 1))
    protocol.send_hole(serial, 10)
    protocol.finish_stream(serial)
    protocol.abort_stream(serial)
    frames = sent(protocol)
    assert [len(frame.payload) for frame in frames] == [STREAM_CHUNK, 1, 12, 0, 0]
    assert [frame.status for frame in frames[2:]] == [Status.CONTINUE, Status.OK, Status.ERROR]


def test_stream_can_fail() -> None:
    protocol, serial = opened_stream()
    assert received(protocol, stream(serial, Status.ERROR, ERROR.encode())) == [StreamFailed(serial, ERROR)]


@pytest.mark.parametrize(
    "frame",
    [
        Frame(Program.REMOTE, 1, MessageType.REPLY, 5),
        Frame(Program.REMOTE, 1, MessageType.CALL, 5),
        Frame(Program.REMOTE, 318, MessageType.MESSAGE, 0, payload=b"x"),
    ],
)
def test_what_a_daemon_may_not_send_ends_the_connection(frame: Frame) -> None:
    with pytest.raises(ProtocolViolation):
        received(ClientProtocol(), frame)


def test_closing_gives_back_descriptors() -> None:
    protocol = ClientProtocol()
    list(protocol.receive(b"\0", [8]))
    assert protocol.close() == [8]
