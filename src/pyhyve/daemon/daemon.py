"""The daemon: what every part of it shares, and how it comes up and goes down."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, TypeVar

from pyhyve.daemon.access import AllowAll
from pyhyve.daemon.events import EventBroker
from pyhyve.daemon.host.sleep import HostSleep
from pyhyve.daemon.policy import read_policy
from pyhyve.daemon.readiness import Readiness
from pyhyve.daemon.store import Store
from pyhyve.daemon.users import Users
from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from pyhyve.daemon.access import Policy
    from pyhyve.daemon.connection import Connection
    from pyhyve.daemon.drivers.api import Driver
    from pyhyve.daemon.paths import Paths

__all__ = ["Daemon", "Part"]

_log = logging.getLogger(__name__)
_Part = TypeVar("_Part", bound="Part")
_Result = TypeVar("_Result")
BLOCKING_THREADS = 32
"""Calls that block at the same time."""
STREAM_THREADS = 8
"""Streams that move bytes at the same time; more take turns."""


class Part(Protocol):
    """Something that lives as long as the daemon: a driver's domains, the networks, the pools."""

    async def start(self) -> None:
        """Come up: read what is stored, find what still runs. Called in the order parts were added, before clients."""

    async def stop(self) -> None:
        """Go down, in the reverse order; machines, networks and mounts stay."""

    def reload(self) -> None:
        """Read the configuration again (SIGHUP)."""


class Daemon:
    """One instance of the daemon, on the event loop it is started on."""

    def __init__(self, paths: Paths, policy: Policy | None = None) -> None:
        self.paths = paths
        self.policy: Policy = AllowAll() if policy is None else policy
        self.store = Store(paths.state, paths.runtime)
        self.events = EventBroker()
        self.drivers: list[Driver] = []
        """In the order in which they are asked whether a URI is theirs; the first opens connections without one."""
        self.connections: set[Connection] = set()
        self.sleep = HostSleep()
        self.users = Users(paths.configuration / "users")
        self._fixed_policy = policy is not None
        self._names: dict[str, Callable[[Driver, bytes], str | None]] = {}
        self._parts: dict[type, Part] = {}
        self._started: list[Part | Driver] = []
        self._threads = ThreadPoolExecutor(BLOCKING_THREADS, thread_name_prefix="blocking")
        self.stream_threads = ThreadPoolExecutor(STREAM_THREADS, thread_name_prefix="stream")
        """For what takes long and yet must not take the threads of calls: long runs of bytes."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._readiness: Readiness | None = None

    # -- what it is made of -------------------------------------------------------------------------------------------

    def add_driver(self, driver: Driver) -> None:
        """Add a hypervisor."""
        self.drivers.append(driver)

    def add_part(self, part: Part) -> None:
        """Add a part; :meth:`part` finds it by its class."""
        self._parts[type(part)] = part

    def part(self, cls: type[_Part]) -> _Part:
        """Return the part of a class; KeyError where this daemon has none."""
        part = self._parts[cls]
        assert isinstance(part, cls)  # noqa: S101 - for the type checker: parts are kept under their class
        return part

    def add_names(self, kind: str, name_of: Callable[[Driver, bytes], str | None]) -> None:
        """Say how to find the name of an object by its UUID, for policies that speak of names ("domain", …)."""
        self._names[kind] = name_of

    def object_name(self, driver: Driver, kind: str, uuid: bytes) -> str | None:
        """Return the name of an object, or None where it is not known."""
        name_of = self._names.get(kind)
        return None if name_of is None else name_of(driver, uuid)

    # -- work ---------------------------------------------------------------------------------------------------------

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop; RuntimeError before :meth:`start`."""
        if self._loop is None:
            msg = "the daemon has not started"
            raise RuntimeError(msg)
        return self._loop

    @property
    def readiness(self) -> Readiness:
        """What waits for clients' sockets; RuntimeError before :meth:`start`."""
        if self._readiness is None:
            msg = "the daemon has not started"
            raise RuntimeError(msg)
        return self._readiness

    async def run_blocking(self, work: Callable[..., _Result], *arguments: object) -> _Result:
        """Run a function that blocks, on a thread."""
        return await self.loop.run_in_executor(self._threads, work, *arguments)

    def spawn(self, work: Coroutine[Any, Any, _Result], name: str) -> asyncio.Task[_Result]:
        """Run a coroutine beside everything else; what it raises is logged. Cancelled when the daemon stops."""
        task = self.loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s failed", task.get_name(), exc_info=error)

    # -- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bring up parts, then drivers: machines need the networks and pools that parts are."""
        self._loop = asyncio.get_running_loop()
        self._readiness = Readiness(self._loop)
        self.paths.make()
        self._read_policy()
        members: list[Part | Driver] = [*self._parts.values(), *self.drivers]
        for member in members:
            await member.start()
            self._started.append(member)

    async def stop(self) -> None:
        """Close every connection, bring down parts and drivers, wait until everything is written."""
        for connection in list(self.connections):
            connection.close("the daemon stops")
        for member in reversed(self._started):
            try:
                await member.stop()
            except Exception:  # noqa: BLE001 - one part's trouble must not keep the others from stopping
                _log.exception("%s did not stop well", type(member).__name__)
        self._started.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.stream_threads.shutdown(wait=False, cancel_futures=True)
        self.store.close()
        if self._readiness is not None:
            self._readiness.close()
            self._readiness = None

    def _read_policy(self) -> None:
        """Read the policy file. Raises UserError."""
        if not self._fixed_policy:
            self.policy = read_policy(self.paths.configuration / "policy.toml") or AllowAll()

    def reload(self) -> None:
        """Read the policy again and have every part read its configuration; what is wrong is logged and stays."""
        try:
            self._read_policy()
        except (UserError, OSError) as error:
            _log.error("the policy stays as it was: %s", error)
        for connection in self.connections:
            connection.forget_admissions()
        for part in self._parts.values():
            try:
                part.reload()
            except Exception:  # noqa: BLE001 - ditto from reading their configuration
                _log.exception("%s kept its configuration", type(part).__name__)
