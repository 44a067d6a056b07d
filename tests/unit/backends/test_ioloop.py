from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pyhyve.backends.ioloop import EXCLUSIVE, READABLE, IoLoop

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def loop() -> Iterator[IoLoop]:
    loop = IoLoop("test")
    loop.start()
    yield loop
    loop.stop()


def wait(loop: IoLoop) -> None:
    """Return when everything called so far is done."""
    done = threading.Event()
    loop.call_soon(done.set)
    assert done.wait(60)


def test_calls_run_in_order_on_the_loop_thread(loop: IoLoop) -> None:
    seen: list[int] = []
    for n in range(1000):
        loop.call_soon(lambda n=n: seen.append(n))  # type: ignore[misc]
    where: list[bool] = []
    loop.call_soon(lambda: where.append(loop.is_current()))
    wait(loop)
    assert seen == list(range(1000))
    assert where == [True]
    assert not loop.is_current()


def test_calls_from_many_threads_all_run(loop: IoLoop) -> None:
    counts = [0] * 4

    def bump(index: int) -> None:
        counts[index] += 1

    def caller(index: int) -> None:
        for _ in range(2000):
            loop.call_soon(lambda: bump(index))

    threads = [threading.Thread(target=caller, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait(loop)
    assert counts == [2000] * 4


def test_call_made_by_a_call_runs(loop: IoLoop) -> None:
    done = threading.Event()
    loop.call_soon(lambda: loop.call_soon(done.set))
    assert done.wait(60)


def test_descriptors_are_watched_until_unwatched(loop: IoLoop) -> None:
    reader, writer = os.pipe()
    seen: list[bytes] = []
    got = threading.Event()

    def ready(_events: int) -> None:
        seen.append(os.read(reader, 100))
        got.set()

    loop.watch(reader, READABLE, ready)
    os.write(writer, b"one")
    assert got.wait(60)
    loop.unwatch(reader)
    loop.unwatch(reader)
    os.write(writer, b"two")
    wait(loop)
    assert seen == [b"one"]
    os.close(reader)
    os.close(writer)


def test_failing_callback_does_not_end_the_loop(loop: IoLoop, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        msg = "broken backend"
        raise RuntimeError(msg)

    loop.call_soon(fail)
    wait(loop)
    assert "broken backend" in caplog.text


def test_stop_is_idempotent_and_ignores_late_calls() -> None:
    loop = IoLoop()
    loop.start()
    loop.stop()
    loop.stop()
    loop.call_soon(lambda: None)
    never_started = IoLoop()
    never_started.stop()


def test_writer_runs_beside_a_reader_and_ends_with_it(loop: IoLoop) -> None:
    ours, theirs = socket.socketpair()
    events: list[str] = []
    wrote, read = threading.Event(), threading.Event()

    def writable() -> None:
        events.append("write")
        loop.remove_writer(ours.fileno())
        wrote.set()

    def readable(_events: int) -> None:
        events.append(ours.recv(10).decode())
        read.set()

    loop.watch(ours.fileno(), READABLE, readable)
    loop.add_writer(ours.fileno(), writable)
    assert wrote.wait(60)
    theirs.sendall(b"x")
    assert read.wait(60)
    loop.unwatch(ours.fileno())
    loop.remove_writer(ours.fileno())
    theirs.sendall(b"y")
    wait(loop)
    assert events == ["write", "x"]
    ours.close()
    theirs.close()


def test_reader_is_not_called_for_what_its_removed_writer_was_woken_for() -> None:
    loop = IoLoop("test")
    pairs = [socket.socketpair() for _ in range(2)]
    writes: list[str] = []
    reads: list[int] = []

    def writable() -> None:
        writes.append("write")
        for ours, _ in pairs:
            loop.remove_writer(ours.fileno())

    for ours, _ in pairs:
        loop.watch(ours.fileno(), READABLE, reads.append)
        loop.add_writer(ours.fileno(), writable)
    loop.run_ready()
    assert (writes, reads) == (["write"], [])
    loop.stop()
    for pair in pairs:
        for end in pair:
            end.close()


def test_writer_is_called_when_the_peer_is_gone(loop: IoLoop) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            ours.send(bytes(1 << 16))
    failed = threading.Event()

    def writable() -> None:
        try:
            ours.send(b"x")
        except OSError:
            loop.remove_writer(ours.fileno())
            failed.set()

    loop.add_writer(ours.fileno(), writable)
    wait(loop)
    assert not failed.is_set()
    theirs.close()
    assert failed.wait(60)
    ours.close()


def test_delayed_calls_run_in_the_order_of_their_times(loop: IoLoop) -> None:
    seen: list[str] = []
    done = threading.Event()
    start = time.monotonic()
    loop.call_later(0.05, done.set)
    loop.call_later(0.03, lambda: seen.append("second"))
    loop.call_later(0.01, lambda: seen.append("first"))
    loop.call_later(0.03, lambda: seen.append("third"))
    assert done.wait(60)
    assert time.monotonic() - start >= 0.05
    assert seen == ["first", "second", "third"]


def test_delayed_call_of_a_stopped_loop_is_dropped() -> None:
    loop = IoLoop("test")
    loop.call_later(0.0, lambda: pytest.fail("called"))
    loop.stop()
    loop.call_later(0.0, lambda: pytest.fail("called"))


def test_exclusive_watch_can_be_changed(loop: IoLoop) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    seen: list[bytes] = []
    got = threading.Event()

    def readable(_events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            seen.append(ours.recv(10))
            got.set()

    for events in (
        READABLE | EXCLUSIVE,
        READABLE,
        READABLE | EXCLUSIVE,
        READABLE | EXCLUSIVE,
    ):  # what the kernel does not let one modify
        got.clear()
        loop.watch(ours.fileno(), events, readable)
        theirs.sendall(b"c")
        assert got.wait(60)
    wrote = threading.Event()
    loop.watch(ours.fileno(), READABLE, readable)
    loop.add_writer(ours.fileno(), wrote.set)
    assert wrote.wait(60)
    loop.remove_writer(ours.fileno())
    loop.unwatch(ours.fileno())
    theirs.sendall(b"d")
    wait(loop)
    assert seen == [b"c"] * 4
    ours.close()
    theirs.close()
