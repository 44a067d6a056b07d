from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.daemon.connection import BACKLOG_MAX, CALLS_MAX, UNREAD_MAX
from pyhyve.daemon.dispatch import Call, Encoded, procedure
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.streams import INCOMING_MAX, Hole, Stream
from pyhyve.rpc.client import Failed, Replied, StreamData, StreamEnded, StreamFailed, StreamHole
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.rpc.frames import Frame
from pyhyve.rpc.procedures import BY_NAME
from pyhyve.rpc.spec import MessageType, Program
from tests.unit.daemon.conversation import Conversation, settle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pyhyve.daemon.daemon import Daemon

    WithDaemon = Callable[[Callable[[Daemon], Awaitable[None]]], None]

pytestmark = pytest.mark.usefixtures("handlers")
URI = "test:///default"


def register(handlers: dict[tuple[int, int], Any], name: str, handler: Any) -> None:
    row = BY_NAME[name]
    handlers.pop((int(row.program), row.number), None)
    procedure(name)(handler)


def opened(daemon: Daemon, *, flags: int = 0, read_only: bool = False) -> Conversation:
    client = Conversation(daemon, read_only=read_only)
    client.call("CONNECT_OPEN", URI, flags)
    assert client.connection.opened
    return client


def test_a_client_opens_asks_and_closes(with_daemon: WithDaemon) -> None:
    async def work(daemon: Daemon) -> None:
        client = Conversation(daemon)
        assert client.call("AUTH_LIST").types == [0]
        assert client.call("CONNECT_GET_TYPE").message == "internal error: connection not open"
        assert client.call("CONNECT_OPEN", "vbox:///session", 0).message == (
            "no connection driver available for 'vbox:///session'"
        )
        client.call("CONNECT_OPEN", URI, 0)
        assert client.call("CONNECT_GET_TYPE").type == "TEST"
        assert client.call("CONNECT_OPEN", URI, 0).message == "internal error: connection already open"
        client.call("CONNECT_CLOSE")
        assert not client.connection.opened

    with_daemon(work)


def test_a_procedure_without_handler_is_not_supported(
    with_daemon: WithDaemon, handlers: dict[tuple[int, int], Any]
) -> None:
    async def work(daemon: Daemon) -> None:
        row = BY_NAME["DOMAIN_MIGRATE_PREPARE"]
        handlers.pop((int(row.program), row.number), None)
        error = opened(daemon).call("DOMAIN_MIGRATE_PREPARE", None, 0, None, 0)
        assert (error.code, error.domain) == (ErrorCode.NO_SUPPORT, ErrorDomain.DOMAIN)
        assert error.message == ("this function is not supported by the connection driver: virDomainMigratePrepare")

    with_daemon(work)


@pytest.mark.parametrize(("flags", "read_only"), [(1, False), (0, True)])
def test_a_read_only_client_may_only_look(
    with_daemon: WithDaemon, handlers: dict[tuple[int, int], Any], flags: int, read_only: bool
) -> None:
    async def work(daemon: Daemon) -> None:
        register(handlers, "CONNECT_DOMAIN_XML_TO_NATIVE", lambda call, args: "x")
        client = opened(daemon, flags=flags, read_only=read_only)
        assert client.call("CONNECT_GET_URI").uri == URI
        error = client.call("CONNECT_DOMAIN_XML_TO_NATIVE", "a", "b", 0)
        assert error.code == ErrorCode.OPERATION_DENIED
        assert error.message == "operation forbidden: read only access prevents virConnectDomainXMLToNative"

    with_daemon(work)


def test_unknown_flags_are_refused_by_name(with_daemon: WithDaemon) -> None:
    async def work(daemon: Daemon) -> None:
        error = Conversation(daemon).call("CONNECT_OPEN", URI, 0x80)
        assert error.message == "unsupported flags (0x80) in function remoteDispatchConnectOpen"

    with_daemon(work)


def test_answers_come_from_plain_functions_coroutines_and_encoded(
    with_daemon: WithDaemon, handlers: dict[tuple[int, int], Any]
) -> None:
    async def later(call: Call, args: Any) -> str:
        await asyncio.sleep(0)
        return "later"

    def encoded(call: Call, args: Any) -> Encoded:
        return Encoded(call.procedure.ret_codec.encode("encoded"))

    async def work(daemon: Daemon) -> None:
        client = opened(daemon)
        register(handlers, "CONNECT_GET_SYSINFO", later)
        serial = client.send("CONNECT_GET_SYSINFO", 0)
        assert client.answer(serial) is None
        await settle()
        assert client.answer(serial).result.sysinfo == "later"
        register(handlers, "CONNECT_GET_SYSINFO", encoded)
        client.connection.forget_admissions()
        assert client.call("CONNECT_GET_SYSINFO", 0).sysinfo == "encoded"
        register(handlers, "CONNECT_LIST_ALL_DOMAINS", lambda call, args: ([], 7))
        assert client.call("CONNECT_LIST_ALL_DOMAINS", 1, 0) == ([], 7)

    with_daemon(work)


def test_a_long_answer_lets_others_have_their_turn(
    with_daemon: WithDaemon, handlers: dict[tuple[int, int], Any]
) -> None:
    from pyhyve.rpc.values import Domain, StatsRecord, TypedParam

    parameters = [TypedParam(f"name.{number}", 4, number) for number in range(50)]
    records = [StatsRecord(Domain(f"d{number}", bytes(16), number), parameters) for number in range(500)]

    async def statistics(call: Call, args: Any) -> list[StatsRecord]:
        return records

    async def work(daemon: Daemon) -> None:
        register(handlers, "CONNECT_GET_ALL_DOMAIN_STATS", statistics)
        client, other = opened(daemon), opened(daemon)
        serial = client.send("CONNECT_GET_ALL_DOMAIN_STATS", [], 0, 0)
        turns = 0
        while client.answer(serial) is None:
            await asyncio.sleep(0)
            assert other.call("CONNECT_GET_TYPE").type == "TEST"
            turns += 1
        assert client.answer(serial).result.ret_stats == records
        assert turns > 5

    with_daemon(work)


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (LibvirtError(ErrorCode.NO_DOMAIN, ErrorDomain.TEST, "gone"), "Domain not found: gone"),
        (RuntimeError("a bug"), "internal error: RuntimeError: a bug"),
    ],
)
def test_whatever_a_handler_raises_is_answered(
    with_daemon: WithDaemon, handlers: dict[tuple[int, int], Any], raised: Exception, message: str
) -> None:
    def fail(call: Call, args: Any) -> None:
        raise raised

    async def work(daemon: Daemon) -> None:
        client = opened(daemon)
        register(handlers, "CONNECT_GET_SYSINFO", fail)
        assert client.call("CONNECT_GET_SYSINFO", 0).message == message
        register(handlers, "CONNECT_GET_SYSINFO", lambda call, args: 5)
        client.connection.forget_admissions()
        assert "internal error: XdrError" in client.call("CONNECT_GET_SYSINFO", 0).message
        assert client.call("CONNECT_GET_URI").uri == URI

    with_daemon(work)


def test_a_client_that_asks_for_much_at_once_is_held_back(
    with_daemon: WithDaemon, handlers: dict[tuple[int, int], Any]
) -> None:
    async def work(daemon: Daemon) -> None:
        gate, busy, most = asyncio.Event(), 0, 0

        async def wait(call: Call, args: Any) -> str:
            nonlocal busy, most
            busy += 1
            most = max(most, busy)
            await gate.wait()
            busy -= 1
            return "done"

        register(handlers, "CONNECT_GET_SYSINFO", wait)
        client = opened(daemon)
        serials = [client.send("CONNECT_GET_SYSINFO", 0) for _ in range(CALLS_MAX * 3)]
        await settle()
        assert client.link.paused
        assert busy == CALLS_MAX
        gate.set()
        await settle()
        assert most == CALLS_MAX
        assert not client.link.paused
        assert all(client.answer(serial).result.sysinfo == "done" for serial in serials)

    with_daemon(work)


def test_a_client_that_leaves_answers_unread_is_held_back(with_daemon: WithDaemon) -> None:
    async def work(daemon: Daemon) -> None:
        client = opened(daemon)
        client.link.hold = True
        while not client.link.paused:
            client.send("CONNECT_GET_CAPABILITIES")
            await asyncio.sleep(0)
        assert UNREAD_MAX < len(client.link.held) < 2 * UNREAD_MAX
        client.link.held = b""
        client.connection.writable()
        assert not client.link.paused

    with_daemon(work)


def test_bytes_that_are_no_frame_end_only_their_connection(with_daemon: WithDaemon) -> None:
    async def work(daemon: Daemon) -> None:
        bad, good = opened(daemon), opened(daemon)
        bad.connection.receive(b"\0\0\0\1GET / HTTP/1.0\r\n\r\n")
        assert bad.link.closed
        assert bad.connection not in daemon.connections
        assert good.call("CONNECT_GET_URI").uri == URI

    with_daemon(work)


def test_descriptors_are_closed_whatever_becomes_of_the_call(
    with_daemon: WithDaemon, handlers: dict[tuple[int, int], Any]
) -> None:
    def pipe_end() -> int:
        near, far = os.pipe()
        os.close(far)
        return near

    def is_open(descriptor: int) -> bool:
        try:
            os.fstat(descriptor)
        except OSError:
            return False
        return True

    async def work(daemon: Daemon) -> None:
        client = opened(daemon)
        domain = ("d", bytes(16), -1)
        seen: list[bool] = []

        def take(call: Call, args: Any) -> None:
            seen.extend(map(is_open, call.fds))

        register(handlers, "DOMAIN_FD_ASSOCIATE", take)
        ends = [pipe_end(), pipe_end()]
        client.send("DOMAIN_FD_ASSOCIATE", domain, "x", 0, fds=ends)
        assert seen == [True, True]
        assert not any(map(is_open, ends))
        handlers.pop((int(Program.REMOTE), BY_NAME["DOMAIN_FD_ASSOCIATE"].number))
        ends = [pipe_end()]
        client.send("DOMAIN_FD_ASSOCIATE", domain, "x", 0, fds=ends)
        assert not is_open(ends[0])

        def give(call: Call, args: Any) -> None:
            call.reply_fds.append(pipe_end())

        register(handlers, "DOMAIN_OPEN_GRAPHICS_FD", give)
        client.send("DOMAIN_OPEN_GRAPHICS_FD", domain, 0, 0)
        assert len(client.link.sent_fds) == 1

    with_daemon(work)


# -- streams ----------------------------------------------------------------------------------------------------------


def stream_events(client: Conversation, serial: int) -> list[Any]:
    kinds = StreamData | StreamHole | StreamEnded | StreamFailed
    return [event for event in client.link.events if isinstance(event, kinds) and event.serial == serial]


def deliver(client: Conversation) -> None:
    for data, _ in client.link.client.data_to_send():
        client.connection.receive(data)


def test_a_download_ends_with_an_empty_piece_and_is_confirmed(
    with_daemon: WithDaemon, handlers: dict[tuple[int, int], Any]
) -> None:
    async def body(stream: Stream) -> None:
        await stream.write(b"a" * 300_000)
        await stream.write_hole(4096)
        await stream.write(b"")
        await stream.write(b"b")

    async def work(daemon: Daemon) -> None:
        def download(call: Call, args: Any) -> None:
            call.stream(body)

        register(handlers, "STORAGE_VOL_DOWNLOAD", download)
        client = opened(daemon)
        serial = client.send("STORAGE_VOL_DOWNLOAD", ("p", "v", "k"), 0, 0, 0)
        await settle()
        events = stream_events(client, serial)
        assert b"".join(event.data for event in events if isinstance(event, StreamData)) == b"a" * 300_000 + b"b"
        assert [event.length for event in events if isinstance(event, StreamHole)] == [4096]
        assert events[-1] == StreamData(serial, b"")
        assert max(len(event.data) for event in events if isinstance(event, StreamData)) <= 262_120
        client.link.client.finish_stream(serial)
        deliver(client)
        await settle()
        assert stream_events(client, serial)[-1] == StreamEnded(serial)

    with_daemon(work)


def test_an_upload_is_confirmed_once_taken_in(with_daemon: WithDaemon, handlers: dict[tuple[int, int], Any]) -> None:
    taken: list[bytes | Hole] = []

    async def body(stream: Stream) -> None:
        while piece := await stream.read():
            taken.append(piece)

    async def work(daemon: Daemon) -> None:
        def upload(call: Call, args: Any) -> None:
            call.stream(body)

        register(handlers, "STORAGE_VOL_UPLOAD", upload)
        client = opened(daemon)
        serial = client.send("STORAGE_VOL_UPLOAD", ("p", "v", "k"), 0, 0, 0)
        client.link.client.send_stream(serial, b"one")
        client.link.client.send_hole(serial, 512)
        client.link.client.send_stream(serial, b"two")
        client.link.client.finish_stream(serial)
        deliver(client)
        assert stream_events(client, serial) == []
        await settle()
        assert taken == [b"one", Hole(512), b"two"]
        assert stream_events(client, serial) == [StreamEnded(serial)]

    with_daemon(work)


def test_an_upload_nobody_takes_in_holds_its_client_back(
    with_daemon: WithDaemon, handlers: dict[tuple[int, int], Any]
) -> None:
    async def work(daemon: Daemon) -> None:
        gate = asyncio.Event()

        async def body(stream: Stream) -> None:
            await gate.wait()
            while await stream.read():
                pass

        def upload(call: Call, args: Any) -> None:
            call.stream(body)

        register(handlers, "STORAGE_VOL_UPLOAD", upload)
        client = opened(daemon)
        serial = client.send("STORAGE_VOL_UPLOAD", ("p", "v", "k"), 0, 0, 0)
        client.link.client.send_stream(serial, bytes(INCOMING_MAX + 1))
        deliver(client)
        assert client.link.paused
        gate.set()
        await settle()
        assert not client.link.paused

    with_daemon(work)


def test_an_aborted_stream_cancels_its_handler(with_daemon: WithDaemon, handlers: dict[tuple[int, int], Any]) -> None:
    async def work(daemon: Daemon) -> None:
        ended: list[str] = []

        async def body(stream: Stream) -> None:
            try:
                await stream.read()
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

        def upload(call: Call, args: Any) -> None:
            call.stream(body)

        register(handlers, "STORAGE_VOL_UPLOAD", upload)
        client = opened(daemon)
        serials = [client.send("STORAGE_VOL_UPLOAD", ("p", "v", "k"), 0, 0, 0) for _ in range(2)]
        await settle()
        client.link.client.abort_stream(serials[0])
        deliver(client)
        await settle()
        assert ended == ["cancelled"]
        assert stream_events(client, serials[0]) == [StreamEnded(serials[0])]
        client.connection.lost()
        await settle()
        assert ended == ["cancelled"] * 2

    with_daemon(work)


def test_a_stream_whose_handler_fails_is_broken_off_with_the_reason(
    with_daemon: WithDaemon, handlers: dict[tuple[int, int], Any]
) -> None:
    async def body(stream: Stream) -> None:
        await stream.write(b"x")
        raise OSError(5, "Input/output error")

    async def work(daemon: Daemon) -> None:
        def download(call: Call, args: Any) -> None:
            call.stream(body)

        register(handlers, "STORAGE_VOL_DOWNLOAD", download)
        client = opened(daemon)
        serial = client.send("STORAGE_VOL_DOWNLOAD", ("p", "v", "k"), 0, 0, 0)
        await settle()
        last = stream_events(client, serial)[-1]
        assert isinstance(last, StreamFailed)
        assert "Input/output error" in (last.error.message or "")

    with_daemon(work)


# -- events -----------------------------------------------------------------------------------------------------------


def test_events_reach_those_who_asked_for_them(with_daemon: WithDaemon) -> None:
    from pyhyve.daemon.events import DomainEvent, EventKind
    from pyhyve.rpc.values import Domain

    async def work(daemon: Daemon) -> None:
        driver = daemon.drivers[-1]
        one, two = Domain("one", bytes([1] * 16), 1), Domain("two", bytes([2] * 16), -1)
        everything, only_one, nothing = opened(daemon), opened(daemon), opened(daemon)
        number = everything.call("CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY", 0, None).callback_id
        only_one.call("CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY", 0, one)
        for domain in (one, two):
            daemon.events.publish(driver, EventKind.DOMAIN, DomainEvent.LIFECYCLE, domain, 2, 0)
        daemon.events.publish(driver, EventKind.DOMAIN, DomainEvent.REBOOT, one)
        assert [(e.procedure.name, e.message.dom, e.message.event) for e in everything.pushed()] == [
            ("DOMAIN_EVENT_CALLBACK_LIFECYCLE", one, 2),
            ("DOMAIN_EVENT_CALLBACK_LIFECYCLE", two, 2),
        ]
        assert {e.message.callback_id for e in everything.pushed()} == {number}
        assert [e.message.dom for e in only_one.pushed()] == [one]
        assert nothing.pushed() == []
        everything.call("CONNECT_DOMAIN_EVENT_CALLBACK_DEREGISTER_ANY", number)
        error = everything.call("CONNECT_DOMAIN_EVENT_CALLBACK_DEREGISTER_ANY", number)
        assert isinstance(error.message, str)
        only_one.connection.lost()
        daemon.events.publish(driver, EventKind.DOMAIN, DomainEvent.LIFECYCLE, one, 2, 0)
        assert len(everything.pushed()) == 2
        assert daemon.events._registered == {}

    with_daemon(work)


def test_events_asked_for_in_the_old_way_have_no_numbers(with_daemon: WithDaemon) -> None:
    from pyhyve.daemon.events import _OLD_MESSAGES, DomainEvent, EventKind
    from pyhyve.rpc.values import Domain

    async def work(daemon: Daemon) -> None:
        client, domain, driver = opened(daemon), Domain("d", bytes(16), 1), daemon.drivers[-1]
        assert len(_OLD_MESSAGES) == 16
        client.call("CONNECT_DOMAIN_EVENT_REGISTER")
        client.call("CONNECT_DOMAIN_EVENT_REGISTER_ANY", DomainEvent.PMWAKEUP)
        assert "already registered" in client.call("CONNECT_DOMAIN_EVENT_REGISTER_ANY", 0).message
        assert "unsupported event ID 18" in client.call("CONNECT_DOMAIN_EVENT_REGISTER_ANY", 18).message
        daemon.events.publish(driver, EventKind.DOMAIN, DomainEvent.LIFECYCLE, domain, 2, 0)
        daemon.events.publish(driver, EventKind.DOMAIN, DomainEvent.PMWAKEUP, domain, 0)
        assert [(e.procedure.name, tuple(e.message)) for e in client.pushed()] == [
            ("DOMAIN_EVENT_LIFECYCLE", (domain, 2, 0)),
            ("DOMAIN_EVENT_PMWAKEUP", (domain,)),
        ]
        client.call("CONNECT_DOMAIN_EVENT_DEREGISTER")
        client.call("CONNECT_DOMAIN_EVENT_DEREGISTER_ANY", DomainEvent.PMWAKEUP)
        assert "not registered" in client.call("CONNECT_DOMAIN_EVENT_DEREGISTER_ANY", 0).message
        assert daemon.events._registered == {}

    with_daemon(work)


def test_every_event_has_a_message_that_takes_its_details(with_daemon: WithDaemon) -> None:
    from pyhyve.daemon.events import _MESSAGES, EventKind
    from pyhyve.rpc.values import Domain, GraphicsAddress, Network, NodeDevice, Secret, StoragePool

    subjects: dict[EventKind, Any] = {
        EventKind.DOMAIN: Domain("d", bytes(16), 1),
        EventKind.NETWORK: Network("n", bytes(16)),
        EventKind.STORAGE_POOL: StoragePool("p", bytes(16)),
        EventKind.NODE_DEVICE: NodeDevice("n"),
        EventKind.SECRET: Secret(bytes(16), 0, ""),
    }
    examples: dict[str, Any] = {"int": 1, "uint": 1, "long": 1, "ulong": 1, "str": "x"}

    def example(field: Any) -> Any:
        if field.type.most is not None:
            return []
        return GraphicsAddress(0, "", "") if field.type.base == "graphics_address" else examples[field.type.base]

    async def work(daemon: Daemon) -> None:
        client = opened(daemon)
        for kind, rows in _MESSAGES.items():
            for number, row in enumerate(rows):
                client.connection.daemon.events.register(client.connection, kind, number, None)
                fields = [
                    field
                    for field in row.args_codec.fields
                    if field.type.base != kind.value and field.name != "callback_id"
                ]
                daemon.events.publish(client.connection.driver, kind, number, subjects[kind], *map(example, fields))
                assert client.pushed()[-1].procedure is row
                subject = getattr(
                    client.pushed()[-1].message,
                    {"storage_pool": "pool", "node_device": "dev"}.get(
                        kind.value, {"domain": "dom", "network": "net"}.get(kind.value, kind.value)
                    ),
                )
                assert subject == subjects[kind]

    with_daemon(work)


def test_a_client_that_does_not_read_is_disconnected_and_holds_up_nobody(with_daemon: WithDaemon) -> None:
    from pyhyve.daemon.events import DomainEvent, EventKind
    from pyhyve.rpc.values import Domain

    async def work(daemon: Daemon) -> None:
        slow, other = opened(daemon), opened(daemon)
        for client in (slow, other):
            client.call("CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY", DomainEvent.METADATA_CHANGE, None)
        slow.link.hold = True
        slow.link.held = bytes(BACKLOG_MAX)
        for _ in range(3):
            daemon.events.publish(
                daemon.drivers[-1], EventKind.DOMAIN, DomainEvent.METADATA_CHANGE, Domain("d", bytes(16), 1), 0, "u"
            )
        assert slow.link.closed
        assert len(other.pushed()) == 3

    with_daemon(work)


def test_calls_of_unknown_programs_are_answered(with_daemon: WithDaemon) -> None:
    async def work(daemon: Daemon) -> None:
        client = opened(daemon)
        row = BY_NAME["CONNECT_GET_URI"]
        serial = client.link.client.call(row)
        client.link.client.data_to_send()
        client.connection.receive(Frame(0x1234, 1, MessageType.CALL, serial).encode())
        answer = client.answer(serial)
        assert isinstance(answer, Failed)
        assert not isinstance(answer, Replied)
        assert "Cannot find program 4660" in (answer.error.message or "")

    with_daemon(work)
