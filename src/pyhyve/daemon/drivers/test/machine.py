"""A machine that only pretends: it answers a monitor's commands, and what it is told to do happens at once."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains.definition import processors
from pyhyve.daemon.qmp import QmpError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyhyve.daemon.domains.hypervisor import MachineListener
    from pyhyve.xml.domain import Domain

__all__ = ["TestMachine"]

_NO_PROCESS: Final = 1 << 23
"""Process ids from here on: above any the kernel gives out (its limit is 2 to the 22nd), so that nobody is hit by
what is meant for a machine."""
_KIB: Final = 1 << 10


class TestMachine:
    """One machine."""

    __test__ = False  # pytest: no test
    _numbers = itertools.count(_NO_PROCESS)

    def __init__(self, domain: Domain, listener: MachineListener) -> None:
        self.pid = next(self._numbers)
        self._listener: MachineListener | None = listener
        self._running = False
        self._started = time.monotonic_ns()
        self._vcpus = processors.now(domain)
        self._balloon_bytes = domain.current_memory_kib * _KIB
        self._commands: dict[str, Callable[[dict[str, Any]], Any]] = {
            "balloon": self._balloon,
            "cont": self._cont,
            "inject-nmi": self._nothing,
            "query-balloon": self._query_balloon,
            "query-block": self._none,
            "query-blockstats": self._none,
            "query-chardev": self._none,
            "query-cpus-fast": self._query_cpus,
            "query-status": self._query_status,
            "send-key": self._nothing,
            "stop": self._stop,
            "system_powerdown": self._powerdown,
            "system_reset": self._reset,
        }

    def has(self, command: str) -> bool:
        """Whether it knows a command."""
        return command in self._commands

    async def execute(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        *,
        fds: Sequence[int] = (),
        timeout_s: float = 120.0,
    ) -> Any:
        """Run a command. Raises QmpError for one it does not know."""
        if command not in self._commands:
            msg = f"The command {command} has not been found"
            raise QmpError("CommandNotFound", msg)
        return self._commands[command](arguments or {})

    async def end(self, *, gracefully: bool) -> bool:
        """It is gone at once."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.machine_gone(0)
        return True

    def forget(self) -> None:
        """It goes on, for nobody."""
        self._listener = None

    def time_ns(self) -> int:
        """As if each processor had been busy for as long as it is there."""
        return (time.monotonic_ns() - self._started) * self._vcpus

    def times_ns(self) -> tuple[int, int]:
        """Ditto, and nothing in the kernel."""
        return self.time_ns(), 0

    def _say(self, name: str, **data: object) -> None:
        if self._listener is not None:
            self._listener.machine_event(name, data, time.time())

    def _cont(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if not self._running:
            self._running = True
            self._say("RESUME")
        return {}

    def _stop(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if self._running:
            self._running = False
            self._say("STOP")
        return {}

    def _powerdown(self, arguments: dict[str, Any]) -> dict[str, Any]:
        self._say("POWERDOWN")
        self._say("SHUTDOWN", guest=True, reason="guest-shutdown")
        return {}

    def _reset(self, arguments: dict[str, Any]) -> dict[str, Any]:
        self._say("RESET", guest=False, reason="host-qmp-system-reset")
        return {}

    def _balloon(self, arguments: dict[str, Any]) -> dict[str, Any]:
        self._balloon_bytes = int(arguments["value"])
        self._say("BALLOON_CHANGE", actual=self._balloon_bytes)
        return {}

    def _query_status(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return {"status": "running" if self._running else "paused", "running": self._running}

    def _query_balloon(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return {"actual": self._balloon_bytes}

    def _query_cpus(self, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        numbers = range(self._vcpus)
        return [{"cpu-index": number, "thread-id": self.pid, "qom-path": f"/cpu{number}"} for number in numbers]

    def _nothing(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return {}

    def _none(self, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        return []
