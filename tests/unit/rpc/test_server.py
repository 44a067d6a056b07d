"""The daemon's half against the client's half, and against bytes that mean nothing."""

from __future__ import annotations

import random

import pytest

from pyhyve.rpc.client import ClientProtocol, Failed, Pushed, Replied, StreamEnded, StreamFailed
from pyhyve.rpc.client import Pong as ClientPong
from pyhyve.rpc.client import StreamData as Downloaded
from pyhyve.rpc.client import StreamHole as DownloadedHole
from pyhyve.rpc.codec import XdrError
from pyhyve.rpc.errors import ErrorCode, ErrorMessage
from pyhyve.rpc.frames import Frame
from pyhyve.rpc.procedure import Trait
from pyhyve.rpc.procedures import procedure
from pyhyve.rpc.server import (
    Called,
    ClientViolation,
    Event,
    Pong,
    ServerProtocol,
    StreamAborted,
    StreamData,
    StreamFinished,
    StreamHole,
    _said,
)
from pyhyve.rpc.spec import MessageType, Program, Status
from pyhyve.rpc.values import Domain, Secret, TypedParam

DOMAIN = Domain("vm", bytes(16), 1)
ERROR = ErrorMessage(ErrorCode.NO_DOMAIN, 10, "no such domain")


class Pair:
    def __init__(self) -> None:
        self.client, self.server = ClientProtocol(), ServerProtocol()

    def up(self) -> list[Event]:
        return [
            event
            for data, fds in self.client.data_to_send()
            for event in self.server.receive(data + bytes(len(fds)), fds)
        ]

    def down(self) -> list[object]:
        return [
            event
            for data, fds in self.server.data_to_send()
            for event in self.client.receive(data + bytes(len(fds)), fds)
        ]

    def called(self, name: str, *values: object, fds: tuple[int, ...] = ()) -> Called:
        self.client.call(procedure(name), *values, fds=fds)
        (event,) = self.up()
        assert isinstance(event, Called)
        return event


def test_call_is_answered() -> None:
    pair = Pair()
    called = pair.called("DOMAIN_LOOKUP_BY_NAME", "vm")
    assert (called.procedure.name, called.arguments.name, pair.server.calls_waiting) == (
        "DOMAIN_LOOKUP_BY_NAME",
        "vm",
        1,
    )
    pair.server.reply(called, DOMAIN)
    (event,) = pair.down()
    assert isinstance(event, Replied)
    assert (event.result.dom, pair.server.calls_waiting) == (DOMAIN, 0)


def test_call_fails() -> None:
    pair = Pair()
    called = pair.called("DOMAIN_LOOKUP_BY_NAME", "vm")
    with pytest.raises(XdrError):
        pair.server.reply(called, "no domain")
    pair.server.fail(called, ERROR)
    assert pair.down() == [Failed(called.serial, ERROR)]
    assert pair.server.calls_waiting == 0


def test_descriptors_travel_both_ways() -> None:
    pair = Pair()
    called = pair.called("DOMAIN_CREATE_XML_WITH_FILES", "<domain/>", 0, fds=(7, 8))
    assert called.fds == (7, 8)
    pair.server.reply(called, DOMAIN, fds=[9])
    (event,) = pair.down()
    assert isinstance(event, Replied)
    assert event.fds == (9,)


def test_events_and_pings_go_both_ways() -> None:
    pair = Pair()
    row = procedure("DOMAIN_EVENT_CALLBACK_LIFECYCLE")
    pair.server.push(row, 1, DOMAIN, 2, 0)
    (event,) = pair.down()
    assert isinstance(event, Pushed)
    pair.server.ping()
    pair.client.ping()
    assert pair.down() == []
    assert pair.up() == [Pong()]
    assert pair.down() == [ClientPong()]


def test_download_ends_when_both_say_so() -> None:
    pair = Pair()
    called = pair.called("DOMAIN_SCREENSHOT", DOMAIN, 0, 0)
    pair.server.reply(called, "image/png")
    pair.server.send_stream(called.serial, b"abc")
    pair.server.send_hole(called.serial, 5)
    pair.server.send_stream(called.serial, b"")
    serial = called.serial
    assert pair.down()[1:] == [Downloaded(serial, b"abc"), DownloadedHole(serial, 5), Downloaded(serial, b"")]
    pair.client.finish_stream(serial)
    assert pair.up() == [StreamFinished(serial)]
    assert pair.server.open_streams == (serial,)
    pair.server.end_stream(serial)
    assert pair.down() == [StreamEnded(serial)]
    assert pair.server.open_streams == ()


def test_upload_is_aborted_by_the_client_or_broken_off_by_the_daemon() -> None:
    pair = Pair()
    serials = []
    for _ in range(2):
        called = pair.called("DOMAIN_OPEN_CONSOLE", DOMAIN, None, 0)
        pair.server.reply(called)
        pair.down()
        serials.append(called.serial)
    first, second = serials
    pair.client.send_stream(first, b"x")
    pair.client.send_hole(first, 3)
    pair.client.abort_stream(first)
    assert pair.up() == [StreamData(first, b"x"), StreamHole(first, 3), StreamAborted(first)]
    pair.server.fail_stream(second, ERROR)
    pair.client.send_stream(second, b"late")
    assert pair.up() == []
    assert pair.down() == [StreamFailed(second, ERROR)]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (Frame(Program.REMOTE, 9999, MessageType.CALL, 4), "unknown procedure: 9999"),
        (Frame(Program.REMOTE, 318, MessageType.CALL, 4), "unknown procedure: 318"),
        (Frame(77, 1, MessageType.CALL, 4), "Cannot find program 77 version 1"),
        (Frame(Program.REMOTE, 1, MessageType.CALL, 4, version=2), "version 2"),
        (Frame(Program.REMOTE, 23, MessageType.CALL, 4, payload=b"\xff\xff\xff\xff"), "Unable to decode"),
        (Frame(Program.REMOTE, 2, MessageType.CALL, 4, Status.CONTINUE), "status 2"),
    ],
)
def test_calls_that_cannot_be_served_are_answered_with_an_error(frame: Frame, message: str) -> None:
    server = ServerProtocol()
    assert list(server.receive(frame.encode())) == []
    ((data, _),) = server.data_to_send()
    assert (int.from_bytes(data[20:24], "big"), int.from_bytes(data[24:28], "big")) == (4, Status.ERROR)
    error = ErrorMessage.decode(data[28:])
    assert error.code == ErrorCode.RPC
    assert message in str(error.message)
    assert server.calls_waiting == 0


@pytest.mark.parametrize("kind", [MessageType.REPLY, MessageType.MESSAGE])
def test_what_a_client_may_not_send_ends_the_connection(kind: MessageType) -> None:
    with pytest.raises(ClientViolation):
        list(ServerProtocol().receive(Frame(Program.REMOTE, 1, kind, 1).encode()))


def test_mutated_calls_do_no_harm() -> None:
    client, random_numbers = ClientProtocol(), random.Random(7)
    client.call(procedure("CONNECT_GET_ALL_DOMAIN_STATS"), [DOMAIN] * 3, 0, 0)
    client.call(procedure("DOMAIN_SET_METADATA"), DOMAIN, 0, "text", None, "uri", 0)
    good = b"".join(data for data, _ in client.data_to_send())
    ended = 0
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(random_numbers.randrange(1, 4)):
            data[random_numbers.randrange(len(data))] = random_numbers.randrange(256)
        server = ServerProtocol()
        try:
            events = list(server.receive(bytes(data)))
        except ClientViolation:
            ended += 1
            continue
        assert len(events) <= 2
    assert 0 < ended < 3000


def test_closing_gives_back_descriptors() -> None:
    server = ServerProtocol()
    list(server.receive(b"\0", [8]))
    assert server.close() == [8]


def test_descriptors_of_refused_calls_are_given_back_at_once() -> None:
    server = ServerProtocol()
    frame = Frame(Program.REMOTE, 9999, MessageType.CALL_WITH_FDS, 1, fds=(5,))
    assert list(server.receive(frame.encode() + b"\0", [5])) == []
    assert server.unclaimed_fds() == [5]
    assert server.close() == []


def test_what_a_short_call_says_is_remembered_and_its_serial_is_not() -> None:
    client, server = ClientProtocol(), ServerProtocol()
    heard = []
    for id_ in (1, 2, 1, 1):
        client.call(procedure("DOMAIN_GET_INFO"), Domain("vm", bytes(16), id_))
        (data, _) = client.data_to_send()[0]
        called = server.receive_call(data)
        assert called is not None
        heard.append((called.serial, called.arguments.dom.id, called.procedure.name))
    first = heard[0][0]
    assert heard == [(first + number, id_, "DOMAIN_GET_INFO") for number, id_ in enumerate((1, 2, 1, 1))]
    assert server.calls_waiting == 4


def test_a_call_whose_arguments_can_be_changed_is_read_anew() -> None:
    client, server = ClientProtocol(), ServerProtocol()
    lists = []
    for _ in range(2):
        client.call(procedure("DOMAIN_SET_MEMORY_PARAMETERS"), DOMAIN, [TypedParam("x", 2, 1)], 0)
        called = server.receive_call(client.data_to_send()[0][0])
        assert called is not None
        lists.append(called.arguments.params)
    assert lists[0] == lists[1]
    assert lists[0] is not lists[1]


def test_an_answer_at_once_waits_for_what_was_to_be_sent_before() -> None:
    pair = Pair()
    called = pair.called("DOMAIN_GET_STATE", DOMAIN, 0)
    payload = called.procedure.ret_codec.encode(1, 2)
    pair.server.ping()
    assert pair.server.answer_now(called, payload) is None
    pair.server.data_to_send()
    data = pair.server.answer_now(called, payload)
    assert data is not None
    (answer,) = pair.client.receive(data)
    assert isinstance(answer, Replied)
    assert (answer.result.state, answer.result.reason) == (1, 2)
    assert pair.server.calls_waiting == 0


def test_what_may_bring_a_secret_is_not_remembered() -> None:
    client, server = ClientProtocol(), ServerProtocol()
    for name, values in (
        ("SECRET_SET_VALUE", (Secret(bytes(16), 0, ""), b"hidden and short", 0)),
        ("AUTH_SASL_STEP", (0, [1, 2, 3])),
        ("DOMAIN_SET_USER_PASSWORD", (DOMAIN, "root", "hidden and short", 0)),
    ):
        client.call(procedure(name), *values)
        assert server.receive_call(client.data_to_send()[0][0]) is not None
    assert not any(b"hidden" in said for said in _said)
    assert all(Trait.READ in row.traits for row, _ in _said.values())
