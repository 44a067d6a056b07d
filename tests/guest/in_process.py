"""A machine in a thread of the test, with its console at hand: for tests that reach into it."""

from __future__ import annotations

import re
import threading
import time
from typing import TYPE_CHECKING

from pyhyve.backends.chardev import Chardev
from pyhyve.machine.builder import build
from pyhyve.machine.state_file import open_state, save_to_file

if TYPE_CHECKING:
    from pathlib import Path

    from pyhyve.backends.chardev import Receiver
    from pyhyve.machine.config import MachineConfig
    from pyhyve.machine.machine import Machine
    from pyhyve.machine.outcome import Outcome
    from pyhyve.machine.saving import SaveResult

_MARK = "-done-"


class Screen(Chardev):
    """A console that keeps what the guest prints."""

    def __init__(self) -> None:
        self.text = ""
        self.changed = threading.Condition()
        self.receiver: Receiver | None = None

    def start(self, loop: object, receiver: Receiver) -> None:
        self.receiver = receiver

    def write(self, data: bytes) -> None:
        with self.changed:
            self.text += data.decode("utf-8", "replace")
            self.changed.notify_all()

    def resume(self) -> None:
        pass

    def close(self) -> None:
        pass


class RunningMachine:
    """Made by `boot` or `restore`."""

    def __init__(self, machine: Machine, screen: Screen) -> None:
        self.machine = machine
        self.screen = screen
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._count = 0

    def _run(self) -> None:
        try:
            self.outcome = self.machine.run()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error
        with self.screen.changed:
            self.screen.changed.notify_all()

    @classmethod
    def boot(cls, config: MachineConfig) -> RunningMachine:
        screen = Screen()
        return cls(build(config, console=screen), screen)

    @classmethod
    def restore(cls, path: Path) -> RunningMachine:
        screen = Screen()
        state = open_state(path)
        machine = build(state.saved.configuration(), console=screen)
        machine.restore = lambda: state.load_into(machine)
        return cls(machine, screen)

    def expect(self, pattern: str, timeout_s: float = 120) -> str:
        """Wait for `pattern`; what was printed up to its end, which is forgotten."""
        deadline = time.monotonic() + timeout_s
        with self.screen.changed:
            while (found := re.search(pattern, self.screen.text)) is None:
                left = deadline - time.monotonic()
                assert left > 0, f"no {pattern!r} in:\n{self.screen.text[-2000:]}"
                assert self._thread.is_alive(), f"the machine ended: {self.outcome} {self.error}"
                self.screen.changed.wait(min(left, 1))
            taken, self.screen.text = self.screen.text[: found.end()], self.screen.text[found.end() :]
        return taken

    def type(self, text: str) -> None:
        while self.screen.receiver is None:
            assert self._thread.is_alive(), f"the machine ended: {self.outcome} {self.error}"
            time.sleep(0.001)
        with self.machine.parts.lock:
            self.screen.receiver.receive(text.encode())

    def shell(self, command: str, timeout_s: float = 120) -> str:
        """Run `command` in the guest's shell; what it prints."""
        self._count += 1
        self.type(f"{command}; echo; echo {_MARK}$(({self._count}+0))-\n")
        output = self.expect(rf"\n{_MARK}{self._count}-\r?\n", timeout_s)
        output = output.replace("\r", "")
        # Before the output is what was typed, perhaps wrapped: it ends with the mark as it was typed.
        ends = [found.end() for found in re.finditer(r"\+\n?0\n?\)\n?\)\n?-\n", output)]
        return output[max(ends, default=0) :].rpartition(f"\n{_MARK}")[0].strip("\n")

    def save(self, path: Path) -> SaveResult:
        """Pause, and write the state; the machine stays paused."""
        assert self.machine.pause().wait(60)
        results: list[SaveResult] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                results.append(save_to_file(self.machine, path))
            except BaseException as error:  # noqa: BLE001 - raised below
                errors.append(error)

        assert self.machine.inspect(work).wait(60)
        if errors:
            raise errors[0]
        if not results:
            self._thread.join(60)
        assert results, f"the machine ended: {self.outcome} {self.error}"
        return results[0]

    def stop(self) -> None:
        self.machine.request_stop().wait(60)
        self._thread.join(60)
        assert not self._thread.is_alive()
