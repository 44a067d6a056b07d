from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

from pyhyve.daemon.domains import reconnect
from pyhyve.daemon.domains.registry import DomainRegistry
from pyhyve.daemon.drivers.test.hypervisor import TestHypervisor
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.client import Failed, Replied
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from tests.unit.daemon.conversation import Conversation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import pytest

    from pyhyve.daemon.daemon import Daemon


async def answer(client: Conversation, serial: int) -> Any:
    found, deadline = None, time.monotonic() + 60
    while (found := client.answer(serial)) is None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)
    assert isinstance(found, Replied | Failed)
    return found


def test_a_domain_that_is_being_started_can_be_destroyed(
    with_daemon: Callable[[Callable[[Daemon], Awaitable[None]]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = TestHypervisor.launch
    held_back = asyncio.Event()

    async def launch_later(self: TestHypervisor, *arguments: Any, **options: Any) -> Any:
        await held_back.wait()
        return await launch(self, *arguments, **options)

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


def test_domains_that_start_by_themselves_do_so_on_all_processors(
    with_daemon: Callable[[Callable[[Daemon], Awaitable[None]]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = TestHypervisor.launch
    launched: list[str] = []

    async def work(daemon: Daemon) -> None:
        both = asyncio.Barrier(2)

        async def launch_together(self: TestHypervisor, domain: Any, *arguments: Any, **options: Any) -> Any:
            launched.append(domain.name)
            if domain.name == "c":
                raise LibvirtError(ErrorCode.INTERNAL_ERROR, ErrorDomain.DOMAIN, "it does not start")
            await asyncio.wait_for(both.wait(), 30)
            return await launch(self, domain, *arguments, **options)

        client = Conversation(daemon)
        client.call("CONNECT_OPEN", "test:///default", 0)
        for name in "fecdba":
            document = f"<domain type='test'><name>{name}</name><memory>1024</memory><os><type>hvm</type></os></domain>"
            domain = (await answer(client, client.send("DOMAIN_DEFINE_XML", document))).result.dom
            if name != "b":
                await answer(client, client.send("DOMAIN_SET_AUTOSTART", domain, 1))
        monkeypatch.setattr(TestHypervisor, "launch", launch_together)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
        registry = client.connection.driver.offers(DomainRegistry)
        assert registry is not None
        (daemon.paths.runtime / f"autostarted-{registry.driver.type_name.lower()}").unlink(missing_ok=True)
        await reconnect.autostart(registry)
        assert launched[:2] == ["a", "c"]
        assert sorted(launched) == ["a", "c", "d", "e", "f"]
        active = {name for name, each in registry.by_name.items() if each.active}
        assert {"a", "d", "e", "f"} <= active
        assert not {"b", "c"} & active
        await reconnect.autostart(registry)  # once in a boot of the host
        assert len(launched) == 5

    with_daemon(work)
