from __future__ import annotations

import asyncio
import socket
import time

from pyhyve.daemon.readiness import TURN_S, Readiness


def test_readers_are_called_while_there_is_something_to_read() -> None:
    async def work() -> None:
        readiness = Readiness(asyncio.get_running_loop())
        pairs = [socket.socketpair() for _ in range(5)]
        got: list[tuple[int, bytes]] = []
        for number, (near, _) in enumerate(pairs):
            readiness.add(near.fileno(), lambda number=number, near=near: got.append((number, near.recv(1))))
        for number, (_, far) in enumerate(pairs):
            far.sendall(b"abc"[: number + 1])
        for _ in range(1000):
            if len(got) == 12:
                break
            await asyncio.sleep(0.001)
        assert sorted(got) == sorted((n, bytes([c])) for n in range(5) for c in b"abc"[: n + 1])
        readiness.close()
        for near, far in pairs:
            near.close()
            far.close()

    asyncio.run(work())


def test_one_that_was_removed_by_another_is_not_called() -> None:
    async def work() -> None:
        readiness = Readiness(asyncio.get_running_loop())
        pairs = [socket.socketpair() for _ in range(3)]
        called: list[int] = []

        def reader(number: int) -> None:
            called.append(number)
            for other, (near, _) in enumerate(pairs):
                if other != number:
                    readiness.remove(near.fileno())
            pairs[number][0].recv(1)

        for number, (near, far) in enumerate(pairs):
            readiness.add(near.fileno(), lambda number=number: reader(number))
            far.send(b"x")
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(called) == 1
        readiness.close()
        for near, far in pairs:
            near.close()
            far.close()

    asyncio.run(work())


def test_busy_clients_leave_everything_else_its_turn() -> None:
    async def work() -> None:
        readiness = Readiness(asyncio.get_running_loop())
        near, far = socket.socketpair()
        far.send(b"x")  # never read: there is always something
        calls = 0

        def reader() -> None:
            nonlocal calls
            calls += 1
            time.sleep(0.0001)

        readiness.add(near.fileno(), reader)
        for _ in range(20):
            await asyncio.sleep(0)
        assert calls >= 19
        readiness.close()
        near.close()
        far.close()

    asyncio.run(work())


def test_slow_readers_that_always_have_more_keep_nobody_waiting() -> None:
    async def work() -> None:
        readiness = Readiness(asyncio.get_running_loop())
        pairs = [socket.socketpair() for _ in range(5)]
        calls = [0] * len(pairs)

        def reader(number: int) -> None:
            calls[number] += 1
            time.sleep(2 * TURN_S)

        for number, (near, far) in enumerate(pairs):
            far.send(b"x")  # never read
            readiness.add(near.fileno(), lambda number=number: reader(number))
        for _ in range(100):
            if min(calls) >= 3:
                break
            await asyncio.sleep(0)
        assert min(calls) >= 3
        assert max(calls) - min(calls) <= 1
        readiness.close()
        for near, far in pairs:
            near.close()
            far.close()

    asyncio.run(work())


def test_a_reader_that_fails_keeps_no_other_from_being_called() -> None:
    async def work() -> None:
        failures: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
        readiness = Readiness(loop)
        (bad, other), (good, far) = socket.socketpair(), socket.socketpair()
        got: list[bytes] = []

        def fails() -> None:
            bad.recv(1)
            raise ValueError

        readiness.add(bad.fileno(), fails)
        readiness.add(good.fileno(), lambda: got.append(good.recv(1)))
        other.send(b"x")
        far.send(b"y")
        for _ in range(1000):
            if got and failures:
                break
            await asyncio.sleep(0.001)
        assert got == [b"y"]
        assert len(failures) == 1
        readiness.close()
        for each in (bad, other, good, far):
            each.close()

    asyncio.run(work())
