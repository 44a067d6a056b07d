from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pyhyve.daemon.drivers.test.hypervisor import TestHypervisor
from pyhyve.rpc.client import Failed, Replied
from tests.unit.daemon.conversation import Conversation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import pytest

    from pyhyve.daemon.daemon import Daemon


def test_a_domain_that_is_being_started_can_be_destroyed(
    with_daemon: Callable[[Callable[[Daemon], Awaitable[None]]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = TestHypervisor.launch
    held_back = asyncio.Event()

    async def launch_later(self: TestHypervisor, *arguments: Any, **options: Any) -> Any:
        await held_back.wait()
        return await launch(self, *arguments, **options)

    async def answer(client: Conversation, serial: int) -> Replied | Failed:
        found = None
        for _ in range(1000):
            if (found := client.answer(serial)) is not None:
                break
            await asyncio.sleep(0.001)
        assert isinstance(found, Replied | Failed)
        return found

    async def work(daemon: Daemon) -> None:
        client = Conversation(daemon)
        client.call("CONNECT_OPEN", "test:///default", 0)
        domain = client.call("DOMAIN_LOOKUP_BY_NAME", "test").dom
        assert isinstance(await answer(client, client.send("DOMAIN_DESTROY", domain)), Replied)
        monkeypatch.setattr(TestHypervisor, "launch", launch_later)
        starting = client.send("DOMAIN_CREATE", domain)
        ending = client.send("DOMAIN_DESTROY", domain)
        for _ in range(10):
            await asyncio.sleep(0)
        assert client.answer(ending) is None
        held_back.set()
        assert isinstance(await answer(client, starting), Replied)
        assert isinstance(await answer(client, ending), Replied)
        assert client.call("DOMAIN_IS_ACTIVE", domain).active == 0

    with_daemon(work)
