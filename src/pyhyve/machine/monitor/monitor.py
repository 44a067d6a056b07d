"""A machine's monitor: its thread, its servers, and the machine's changes as events.

Commands run on the monitor's own thread: some wait for the machine to come to rest, which must not hold up devices.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from pyhyve.backends.chardev import NullChardev
from pyhyve.backends.ioloop import IoLoop
from pyhyve.machine.monitor.commands import MachineCommands
from pyhyve.machine.monitor.server import MonitorServer, Terminal
from pyhyve.machine.monitor.session import Greeting, Session, event_message
from pyhyve.machine.monitor.versions import version_info
from pyhyve.machine.notices import NoticeKind
from pyhyve.support.enums import Enum, auto

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyhyve.machine.hardware.chardevs import NamedChardev
    from pyhyve.machine.machine import Machine
    from pyhyve.machine.monitor.client import PassedDescriptors
    from pyhyve.machine.monitor.human_session import HumanSession
    from pyhyve.machine.monitor.server import Listener
    from pyhyve.machine.notices import Notice

_CLOSE_TIMEOUT_S = 15.0


class TerminalUse(Enum):
    """What standard input and output are to the monitor."""

    NONE = auto()
    PROGRAMS = auto()
    """QMP."""
    PEOPLE = auto()


class Monitor:
    """Serves QMP for one machine, from `start` until the machine closes."""

    def __init__(
        self,
        machine: Machine,
        listeners: Sequence[Listener],
        *,
        people: Sequence[Listener] = (),
        terminal: TerminalUse = TerminalUse.NONE,
        shared: Sequence[str] = (),
    ) -> None:
        """Takes the listeners over, for programs and for people; the machine closes the monitor.

        `shared` are names of character devices that people use beside a device of the guest.
        """
        self._loop = IoLoop("monitor")
        self._commands = MachineCommands(machine)
        self._greeting = Greeting(version_info())
        self._events: deque[bytes] = deque()
        self._servers = [MonitorServer(self._loop, listener, self._converse) for listener in listeners]
        self._servers += [MonitorServer(self._loop, listener, self._chat) for listener in people]
        self._terminal: MonitorServer | None = None
        if terminal is not TerminalUse.NONE:
            converse = self._chat if terminal is TerminalUse.PEOPLE else self._converse
            self._terminal = MonitorServer(self._loop, None, converse)
            self._servers.append(self._terminal)
        for label in shared:
            self._share(label)
        self._started = False
        self._closed = threading.Event()
        self._names = self._announce()
        machine.observers.append(self._observe)
        self._commands.inventory.hardware.on_event = self._tell
        machine.parts.closers.insert(0, self.close)

    def start(self) -> None:
        """Begin to serve; once."""
        for server in self._servers:
            server.start()
        self._loop.start()
        if self._terminal is not None:
            server = self._terminal
            self._loop.call_soon(lambda: server.connect(Terminal()))
        self._started = True

    def execute(self, name: str, arguments: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON value
        """Carry out a command of our own. Raises QmpError."""
        return self._commands.execute(name, arguments)

    def close(self) -> None:
        """Send what was answered and disconnect; idempotent."""
        if self._closed.is_set():
            return
        if self._started:
            self._loop.call_soon(self._close_servers)
            self._closed.wait(_CLOSE_TIMEOUT_S)
        else:
            self._close_servers()
        self._loop.stop()

    def _close_servers(self) -> None:
        for server in self._servers:
            server.close()
        self._closed.set()

    def _announce(self) -> list[NamedChardev]:
        """Show the monitor's own sockets among the character devices."""
        chardevs = self._commands.inventory.hardware.chardevs
        names = []
        for server in self._servers:
            label = "stdio" if server.listener is None else server.listener.label
            shown = "stdio" if server.listener is None else server.listener.description
            if chardevs.find(label) is None:
                names.append(chardevs.adopt(label, "socket", NullChardev(), shown))
                server.on_clients = functools.partial(_mark, names[-1])
        return names

    def _share(self, label: str) -> None:
        """People talk to the monitor on a character device when it is the monitor's turn there."""
        from pyhyve.backends.chardev_mux import TypedLines  # noqa: PLC0415 - few machines have one
        from pyhyve.machine.monitor.human_session import PROMPT, HumanSession  # noqa: PLC0415 - ditto

        mux = self._commands.inventory.hardware.chardevs.need(label).mux
        if mux is None:
            return
        lock = self._commands.machine.parts.lock
        talk: list[tuple[HumanSession, TypedLines]] = []

        def show(data: bytes) -> None:
            with lock:
                mux.write(data)

        def take(data: bytes) -> None:
            if not talk:
                session = HumanSession(self._commands, version_info()["package"], show)
                talk.append((session, TypedLines(show, session.receive)))
            elif not data:
                show(b"\r\n" + PROMPT)
            try:
                talk[0][1].receive(data)
            finally:
                with lock:
                    mux.typed_done(len(data))

        mux.on_typed = lambda data: self._loop.call_soon(lambda: take(data))

    def _converse(self, send: Callable[[bytes], None], descriptors: PassedDescriptors) -> Session:
        return Session(self._commands, self._greeting, send, descriptors, self._send_events)

    def _chat(self, send: Callable[[bytes], None], descriptors: PassedDescriptors) -> HumanSession:
        from pyhyve.machine.monitor.human_session import HumanSession  # noqa: PLC0415 - programs do not need it

        del descriptors
        return HumanSession(self._commands, version_info()["package"], send)

    def _tell(self, name: str, data: dict[str, Any]) -> None:
        """Something happened that is an event; any thread."""
        self._events.append(event_message(name, data, time.time_ns() // 1000))
        self._loop.call_soon(self._send_events)

    def _send_events(self) -> None:
        """Tell everybody what happened; also called before a reply, which comes after what its command caused."""
        while self._events:
            self._broadcast(self._events.popleft())

    def _observe(self, notice: Notice) -> None:
        """A change of the machine, on its control thread."""
        data = None if notice.data is None else dict(notice.data)
        if notice.kind in {NoticeKind.RESET, NoticeKind.SHUTDOWN}:
            data = {"guest": notice.cause.is_guest, "reason": str(notice.cause)}
        self._tell(notice.kind, data or {})

    def _broadcast(self, message: bytes) -> None:
        for server in self._servers:
            server.event(message)


def _mark(entry: NamedChardev, has_clients: bool) -> None:  # noqa: FBT001 - the server's callback
    entry.user = "monitor" if has_clients else ""
