"""A machine that runs: its process and its monitor."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains.faults import internal
from pyhyve.daemon.drivers.qemu.process import MachineProcess, log_since
from pyhyve.daemon.qmp import QmpClient, QmpClosed, QmpTimeout

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pyhyve.daemon.domains.hypervisor import MachineListener

__all__ = ["QemuMachine"]

_log = logging.getLogger(__name__)
START_TIMEOUT_S: Final = 60.0
"""How long an emulator may take until its monitor answers."""
GRACE_S: Final = 10.0
"""How long a machine may take to obey SIGTERM."""
KILL_S: Final = 20.0
LAST_WORDS_S: Final = 5.0
"""How long what a machine said before its end may take to be read."""


class QemuMachine:
    """One machine, steered through its monitor."""

    def __init__(self, process: MachineProcess, monitor: str, listener: MachineListener) -> None:
        self.pid = process.pid
        self._process = process
        self._monitor = monitor
        self._listener = listener
        self._commands: frozenset[str] = frozenset()
        self._gone = asyncio.Event()
        self._qmp = QmpClient(self._event, self._closed)
        self._left = False
        self._finishing: asyncio.Task[None] | None = None

    async def attach(self, log: Path | None = None, offset: int = 0) -> None:
        """Connect to the monitor, waiting for it to be there. Raises LibvirtError with the emulator's own words."""
        self._process.watch(self._ended)
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        pause = 0.005
        while True:
            try:
                await self._qmp.connect(self._monitor)
                break
            except (OSError, QmpClosed, QmpTimeout) as error:
                if self._gone.is_set() or asyncio.get_running_loop().time() > deadline:
                    said = log_since(log, offset) if log is not None else ""
                    what = "process exited while connecting to monitor" if self._gone.is_set() else str(error)
                    raise internal(f"{what}: {said}" if said else what) from error
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.1)
        try:
            answer = await self._qmp.execute("query-commands")
        except (QmpClosed, QmpTimeout) as error:
            said = log_since(log, offset) if log is not None else ""
            raise internal(f"qemu unexpectedly closed the monitor: {said}") from error
        self._commands = frozenset(item["name"] for item in answer)

    def time_ns(self) -> int:
        """How long it ran."""
        return self._process.time_ns()

    def times_ns(self) -> tuple[int, int]:
        """How long it ran, as itself and in the kernel."""
        return self._process.times_ns()

    def has(self, command: str) -> bool:
        """Whether the machine knows a command."""
        return command in self._commands

    @property
    def commands(self) -> frozenset[str]:
        """Commands it knows."""
        return self._commands

    async def execute(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        *,
        fds: Sequence[int] = (),
        timeout_s: float = 120.0,
    ) -> Any:
        """Run a command. Raises QmpError, QmpClosed, QmpTimeout."""
        return await self._qmp.execute(command, arguments, fds=fds, timeout_s=timeout_s)

    async def end(self, *, gracefully: bool) -> bool:
        """End the process; whether it is gone."""
        if self._process.alive():
            self._process.signal(signal.SIGTERM)
            if await self._wait_gone(GRACE_S) or gracefully:
                return self._gone.is_set()
            self._process.signal(signal.SIGKILL)
            if await self._wait_gone(KILL_S) or self._process.alive():
                return self._gone.is_set()
        self._process.unwatch()
        self._ended(None)
        return await self._wait_gone(KILL_S)

    async def _wait_gone(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._gone.wait()
        except TimeoutError:
            return False
        return True

    def forget(self) -> None:
        """Hang up and let the machine go on."""
        self._left = True
        self._process.unwatch()
        self._qmp.close()

    def discard(self) -> None:
        """Kill a machine nobody was told about."""
        self._left = True
        self._process.signal(signal.SIGKILL)
        self._process.unwatch()
        self._qmp.close()
        if self._process.child is not None:
            self._process.child.wait()

    def _event(self, name: str, data: dict[str, Any], when: float) -> None:
        if not self._left:
            self._listener.machine_event(name, data, when)

    def _closed(self) -> None:
        _log.debug("the monitor of process %d was closed", self.pid)

    def _ended(self, status: int | None) -> None:
        if self._finishing is None:
            self._finishing = asyncio.get_running_loop().create_task(self._finish(status))

    async def _finish(self, status: int | None) -> None:
        """Report the end, after what the machine said last."""
        await self._qmp.read_to_end(LAST_WORDS_S)
        self._gone.set()
        self._qmp.close()
        if not self._left:
            self._listener.machine_gone(status)
