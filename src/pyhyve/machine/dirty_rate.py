"""How fast a guest's processors write to memory: the pages of some seconds, counted by the log that migration has."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from pyhyve.accel.api import DirtyLogger
from pyhyve.machine.lifecycle import MachineState
from pyhyve.memory.dirty import DirtyTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.machine.machine import Machine

UNSTARTED, MEASURING, MEASURED = "unstarted", "measuring", "measured"


class DirtyRate:
    """One measurement at a time, in the background; a migration that begins meanwhile has the log, and ends it."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._table: DirtyTable | None = None
        self.status = UNSTARTED
        self.start_time_s = 0
        """When it began, on the host's monotonic clock, as QEMU tells it."""
        self.duration_s = 0
        self.sample_pages = 0
        self.mode = "page-sampling"
        self.mib_per_second = 0

    @property
    def is_possible(self) -> bool:
        """Whether the engine can log what vCPUs write."""
        return isinstance(self._machine.parts.vm, DirtyLogger)

    def start(self, duration_s: int, mode: str, sample_pages: int) -> None:
        """Measure for so long; nothing else may be measuring. All pages are looked at, whatever `mode` says."""
        self.status = MEASURING
        self.start_time_s, self.duration_s = round(time.monotonic()), duration_s
        self.mode, self.sample_pages = mode, sample_pages
        threading.Thread(target=self._measure, name="pyhyve-dirty-rate", daemon=True).start()

    def _measure(self) -> None:
        vm = self._machine.parts.vm
        pages: list[tuple[int, int]] = []
        if isinstance(vm, DirtyLogger):
            if self._table is None:
                self._table = DirtyTable(vm.memory)
            table = self._table

            def begin() -> None:
                if vm.memory.dirty is None:
                    table.take()
                    vm.start_dirty_log(table)

            def end() -> None:
                if vm.memory.dirty is None:  # else the log is a migration's
                    vm.sync_dirty_log()
                    vm.stop_dirty_log()
                pages.extend(table.take())

            self._machine.inspect(begin).wait()
            self._wait(lambda: vm.memory.dirty is not None or self._machine.state is MachineState.SHUTDOWN)
            self._machine.inspect(end).wait()
        self.mib_per_second = (sum(size for _, size in pages) >> 20) // self.duration_s
        self.status = MEASURED

    def _wait(self, is_over: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self.duration_s
        while (left_s := deadline - time.monotonic()) > 0 and not is_over():
            time.sleep(min(left_s, 0.1))
