"""The client for asyncio: that it is what is generated, and that calls overlap."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from test_connection import VM, Daemon

from pyhyve.client import LibvirtError, aio
from pyhyve.rpc.errors import ErrorCode, ErrorMessage

ROOT = Path(__file__).parents[3]


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path / "sock")


def test_modules_are_what_the_script_makes() -> None:
    script = ROOT / "scripts/make_async_client.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), "run python scripts/make_async_client.py"


def test_answers_are_awaited(daemon: Daemon) -> None:
    daemon.answers["CONNECT_LIST_ALL_DOMAINS"] = ([VM], 1)
    daemon.answers["DOMAIN_GET_STATE"] = (1, 1)

    async def work() -> None:
        async with await aio.connect(daemon.uri) as connection:
            (domain,) = await connection.list_all_domains()
            assert domain.name == "vm"
            assert await domain.state() == (1, 1)

    asyncio.run(work())


def test_calls_overlap_on_one_connection(daemon: Daemon) -> None:
    daemon.answers["CONNECT_GET_HOSTNAME"] = ("here",)
    daemon.answers["CONNECT_GET_TYPE"] = ("QEMU",)

    async def work() -> None:
        async with await aio.connect(daemon.uri) as connection:
            answers = await asyncio.gather(connection.hostname(), connection.type())
            assert answers == ["here", "QEMU"]

    asyncio.run(work())


def test_errors_are_raised_where_they_are_awaited(daemon: Daemon) -> None:
    daemon.answers["DOMAIN_LOOKUP_BY_NAME"] = ErrorMessage(ErrorCode.NO_DOMAIN, 10, "Domain not found")

    async def work() -> None:
        async with await aio.connect(daemon.uri) as connection:
            with pytest.raises(LibvirtError, match=r"^Domain not found$"):
                await connection.domain("x")

    asyncio.run(work())


def test_a_connection_that_breaks_fails_whoever_waits(daemon: Daemon) -> None:
    async def work() -> None:
        connection = await aio.connect(daemon.uri)
        daemon.answers["CONNECT_GET_HOSTNAME"] = b"\0\0\0\0"  # no frame is so short
        with pytest.raises(LibvirtError, match="connection to the daemon is lost"):
            await connection.hostname()
        assert not connection.is_alive()
        with pytest.raises(LibvirtError, match="lost"):
            await connection.type()

    asyncio.run(work())


def test_no_event_in_time_is_none(daemon: Daemon) -> None:
    async def work() -> None:
        async with await aio.connect(daemon.uri) as connection:
            assert await connection.next_event(0.05) is None

    asyncio.run(work())
