"""The command `pyhyve-system-x86_64`: QEMU's command line for our machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pyhyve.cli.main import explain
from pyhyve.cli.run import closed_on_failure, open_monitor, preserved_terminal, stopped_by_signals
from pyhyve.cli.system_containment import contain
from pyhyve.cli.system_machine import SystemSettings
from pyhyve.cli.system_options import split_command_line
from pyhyve.cli.system_tables import OPTIONS
from pyhyve.support.errors import ExitStatus, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pyhyve.cli.system_monitors import MonitorSocket
    from pyhyve.machine.config import MachineConfig
    from pyhyve.machine.machine import Machine
    from pyhyve.machine.monitor.server import Listener
    from pyhyve.machine.outcome import Outcome

PROG = "pyhyve-system-x86_64"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one machine; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = run(words)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:  # noqa: BLE001 - the one place where everything ends up
        status, message = explain(error)
        print(f"{_time(words)}{PROG}: {message}", file=sys.stderr)
        return status


def _time(words: Sequence[str]) -> str:
    """The time in front of a message, when `-msg timestamp=on` asks for it."""
    if not any(word in {"timestamp=on", "timestamp"} for word in words):
        return ""
    from datetime import UTC, datetime

    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ ")


def run(words: list[str]) -> int:
    """Do what the command line asks for. Raises UserError."""
    settings = SystemSettings()
    for name, value in split_command_line(words, OPTIONS):
        settings.handle(name, value)
        if settings.help_text:
            print(settings.help_text, end="")
            return ExitStatus.DONE
    config = settings.configuration()
    if settings.log_file is not None:
        log_into(settings.log_file)
    with background(wanted=settings.daemonize) as ready, pid_file(settings.pidfile):
        outcome = run_machine(config, settings, ready)
    return report(outcome)


def run_machine(config: MachineConfig, settings: SystemSettings, ready: Callable[[], None]) -> Outcome:
    """Build the machine, call `ready`, and run it to its end."""
    from pyhyve.machine.builder import build
    from pyhyve.machine.monitor.monitor import Monitor, TerminalUse

    listeners: list[Listener] = []
    people: list[Listener] = []
    terminal = TerminalUse.NONE
    with preserved_terminal() as restore:
        with closed_on_failure(listeners), closed_on_failure(people):
            for monitor in settings.monitors:
                if monitor.address == "stdio":
                    terminal = TerminalUse.PEOPLE if monitor.for_people else TerminalUse.PROGRAMS
                else:
                    (people if monitor.for_people else listeners).append(_listen(monitor))
            machine = build(config, awaits_disks=bool(settings.incoming))
        incoming = settings.incoming
        machine.awaits_state = bool(incoming)
        try:
            if settings.loadvm:
                from pyhyve.machine.snapshot_jobs import restore_at_start

                restore_at_start(machine, settings.loadvm)
            serving = None
            if settings.monitors or incoming or settings.shared:
                serving = Monitor(machine, listeners, people=people, terminal=terminal, shared=settings.shared)
            if incoming:
                from pyhyve.machine.migration import prepare

                prepare(machine)
            if incoming not in {"", "defer"} and serving is not None:
                serving.execute("migrate-incoming", {"uri": incoming})
            contain(config, settings.runas, _paths_of(settings), settings.sandbox)
            if serving is not None:
                serving.start()
        except BaseException:
            machine.close()
            raise
        with stopped_by_signals(machine.request_stop, restore), _screen(machine, wanted=settings.screen_on_terminal):
            ready()
            return machine.run()


def _screen(machine: Machine, *, wanted: bool) -> contextlib.AbstractContextManager[None]:
    """The machine's screen on the terminal, if it is wanted there."""
    if not wanted:
        return contextlib.nullcontext()
    from pyhyve.cli.system_screen import TerminalScreen

    return TerminalScreen(machine, machine.request_stop).shown()


def _paths_of(settings: SystemSettings) -> list[Path]:
    """Files of the process, rather than of its machine."""
    sockets = [
        Path(monitor.address.removeprefix("unix:"))
        for monitor in settings.monitors
        if monitor.address.startswith("unix:")
    ]
    return [path.resolve() for path in (settings.pidfile, settings.log_file, *sockets) if path is not None]


def log_into(path: Path) -> None:
    """Write the log into a file, without colours or progress. Raises UserError."""
    import logging

    try:
        logging.basicConfig(filename=path, format="%(asctime)s %(name)s: %(message)s", level=logging.INFO)
    except OSError as error:
        msg = f"-D {path}: {error.strerror}"
        raise UserError(msg) from error


def report(outcome: Outcome) -> int:
    """Exit status of a run; what went wrong goes to standard error."""
    from pyhyve.machine.outcome import OutcomeKind

    if outcome.kind in {OutcomeKind.POWERED_OFF, OutcomeKind.RESET, OutcomeKind.STOPPED}:
        return ExitStatus.DONE
    if outcome.detail:
        print(outcome.detail, file=sys.stderr)
    print(f"{PROG}: {outcome.message or outcome.kind}", file=sys.stderr)
    return ExitStatus.FAILED


def _listen(monitor: MonitorSocket) -> Listener:
    from pyhyve.machine.monitor.server import listen_descriptor

    if monitor.fd is not None:
        return listen_descriptor(monitor.fd, monitor.label)
    return open_monitor("-qmp", monitor.address, monitor.label)


@contextlib.contextmanager
def pid_file(path: Path | None) -> Iterator[None]:
    """Hold `path`, with our process id in it, for as long as the block runs. Raises UserError."""
    if path is None:
        yield
        return
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        msg = f"-pidfile {path}: {error.strerror}"
        raise UserError(msg) from error
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        msg = f"-pidfile {path}: another process holds it"
        raise UserError(msg) from error
    try:
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(fd)


@contextlib.contextmanager
def background(*, wanted: bool) -> Iterator[Callable[[], None]]:
    """Go on in a child process when `wanted`; gives the function to call when the machine is made.

    The parent waits for that, and exits with status 0; or with 1 when the child ends before, having said why.
    """
    if not wanted:
        yield lambda: None
        return
    read_end, write_end = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork():
        os.close(write_end)
        made = os.read(read_end, 1)
        os._exit(ExitStatus.DONE if made else ExitStatus.FAILED)
    os.close(read_end)
    os.setsid()

    def ready() -> None:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.close(null)
        os.write(write_end, b"\0")
        os.close(write_end)

    yield ready


if __name__ == "__main__":
    sys.exit(main())
