"""The last words between two machines: whose the guest is."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyhyve.machine.migration_uri import Incoming, MigrationUri, open_outgoing
from pyhyve.state.errors import StateCancelledError, StateError
from pyhyve.state.live import GO, READY
from pyhyve.state.streams import FdSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.machine.migration_uri import Outgoing


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, Outgoing]]:
    """The destination's socket, and the source's stream."""
    near, far = socket.socketpair()
    with open_outgoing(MigrationUri("fd", "x", near.detach()), lambda: False, duplex=True) as stream, far:
        yield far, stream


def open_descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_only_tcp_is_taken_to_go_both_ways_unless_it_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        tcp = socket.create_connection(server.getsockname())
        for descriptor, duplex, answers in (
            (tcp.detach(), False, True),
            (socket.socketpair()[0].detach(), False, False),
            (socket.socketpair()[0].detach(), True, True),
            (os.pipe()[1], True, False),
        ):
            before = open_descriptors()
            with open_outgoing(MigrationUri("fd", "x", descriptor), lambda: False, duplex=duplex) as stream:
                assert stream.answers is answers
                assert open_descriptors() == before


def test_source_waits_for_the_whole_word(ends: tuple[socket.socket, Outgoing]) -> None:
    far, stream = ends
    answers = threading.Timer(0.05, far.sendall, (READY[3:],))
    far.sendall(READY[:3])
    answers.start()
    stream.await_ready(lambda: False)
    answers.join()
    stream.say_go()
    assert far.recv(100) == GO


@pytest.mark.parametrize("said", [b"", b"no", b"PYHYVEO!", READY[:-1]])
def test_other_words_are_a_no(said: bytes, ends: tuple[socket.socket, Outgoing]) -> None:
    far, stream = ends
    far.sendall(said)
    far.shutdown(socket.SHUT_WR)
    with pytest.raises(StateError, match="the destination did not take the machine over"):
        stream.await_ready(lambda: False)


def test_wait_for_a_silent_destination_is_cancelled(ends: tuple[socket.socket, Outgoing]) -> None:
    asked: list[bool] = []

    def is_cancelled() -> bool:
        asked.append(True)
        return len(asked) > 2

    with pytest.raises(StateCancelledError):
        ends[1].await_ready(is_cancelled)


def test_destination_runs_on_the_sources_word_alone() -> None:
    for said in (GO, GO[:-1], b"", b"PYHYVENO"):
        near, far = socket.socketpair()
        with near, far:
            source = FdSource(near.fileno())
            incoming = Incoming(lambda source=source: source, lambda: None)  # type: ignore[misc] # binds it
            far.sendall(said)
            far.shutdown(socket.SHUT_WR)
            if said == GO:
                incoming.confirm(source)
            else:
                with pytest.raises(StateError, match="the source keeps its machine"):
                    incoming.confirm(source)
            assert far.recv(100) == READY


def test_destination_whose_source_is_gone_does_not_run() -> None:
    near, far = socket.socketpair()
    far.close()
    with near:
        source = FdSource(near.fileno())
        with pytest.raises(OSError, match="Broken pipe"):
            Incoming(lambda: source, lambda: None).confirm(source)
