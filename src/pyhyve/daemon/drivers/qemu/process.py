"""Processes of machines: started in sessions of their own, found again, and watched until they end.

A machine's process outlives the daemon: its standard output and error go to a file, and nothing it holds is the
daemon's. Whether a process is still the same one is decided by its start time (proc(5), stat, field 22).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["MachineProcess", "boot_id", "log_since", "process_start_time", "process_state"]

_TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_CPU_CLOCK: Final = 2
"""CPUCLOCK_SCHED (linux/posix-timers.h), the low bits of a clock of a process, above which is its inverted id."""
_STAT_SIZE: Final = 1024
"""Bytes of a process's stat file at most: some fifty numbers."""
LOG_TAIL: Final = 16384
"""Bytes of a machine's log that are read when it failed to start."""


def boot_id() -> str:
    """Return what tells this boot of the host from others."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def process_start_time(pid: int) -> int | None:
    """Return when a process started, in the kernel's ticks, or None where there is none."""
    fields = _stat(pid)
    return None if fields is None else int(fields[19])


def process_state(pid: int) -> str | None:
    """Return a process's state letter, or None where there is none ("Z" has ended already)."""
    fields = _stat(pid)
    return None if fields is None else fields[0]


@dataclass(slots=True)
class MachineProcess:
    """One machine's process: our child, or one found again."""

    pid: int
    start_time: int
    child: subprocess.Popen[bytes] | None = None
    _descriptor: int = -1
    _stat: int = -1

    @classmethod
    def start(cls, arguments: Sequence[str], fds: Sequence[int], log: Path) -> tuple[MachineProcess, int]:
        """Start a machine; return its process, and where in its log its own words begin. Raises OSError. Blocks."""
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S%z")
            os.write(descriptor, f"{stamp}: starting up\n{shlex.join(arguments)}\n".encode())
            offset = os.fstat(descriptor).st_size
            child = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                pass_fds=tuple(fds),
                start_new_session=True,
                cwd="/",
            )
        finally:
            os.close(descriptor)
        return cls(child.pid, process_start_time(child.pid) or 0, child), offset

    @classmethod
    def find(cls, pid: int, start_time: int) -> MachineProcess | None:
        """Return the process of a record, or None where it ended."""
        if process_start_time(pid) != start_time or process_state(pid) == "Z":
            return None
        return cls(pid, start_time)

    def alive(self) -> bool:
        """Whether it still runs."""
        if self.child is not None:
            return self.child.poll() is None
        return process_start_time(self.pid) == self.start_time and process_state(self.pid) not in {"Z", "X"}

    def time_ns(self) -> int:
        """Return nanoseconds it ran; none once it is gone.

        A tenth of the cost of :meth:`times_ns`: the kernel keeps a clock for each process (clock_getcpuclockid(3)).
        """
        try:
            return time.clock_gettime_ns(~self.pid << 3 | _CPU_CLOCK)
        except OSError:
            return 0

    def times_ns(self) -> tuple[int, int]:
        """Return nanoseconds it ran as itself and in the kernel; none once it is gone.

        The file stays open: opening it costs more than all the rest of a question about a domain.
        """
        try:
            if self._stat < 0:
                self._stat = os.open(f"/proc/{self.pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
            fields = os.pread(self._stat, _STAT_SIZE, 0).rpartition(b")")[2].split(None, 14)
        except OSError:
            return 0, 0
        return int(fields[11]) * _TICK_NS, int(fields[12]) * _TICK_NS

    def watch(self, on_end: Callable[[int | None], None]) -> None:
        """Have ``on_end`` called with the exit status (None where it is not ours to know) once it ended."""
        loop = asyncio.get_running_loop()
        try:
            self._descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            loop.call_soon(on_end, self._status())
            return
        loop.add_reader(self._descriptor, self._ended, on_end)

    def _ended(self, on_end: Callable[[int | None], None]) -> None:
        self.unwatch()
        on_end(self._status())

    def _status(self) -> int | None:
        return None if self.child is None else self.child.wait()

    def unwatch(self) -> None:
        """Stop watching."""
        if self._stat >= 0:
            os.close(self._stat)
            self._stat = -1
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; one that ended already is no error."""
        if not self.alive():
            return
        with contextlib.suppress(ProcessLookupError):
            if self._descriptor >= 0:
                signal.pidfd_send_signal(self._descriptor, number)
            else:
                os.kill(self.pid, number)


def log_since(log: Path, offset: int) -> str:
    """Return what a machine wrote to its log since it started, at most the last :data:`LOG_TAIL` bytes."""
    try:
        with log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(offset, end - LOG_TAIL))
            return file.read().decode(errors="replace").strip()
    except OSError:
        return ""
