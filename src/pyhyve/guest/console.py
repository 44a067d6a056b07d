"""Talking to a guest over the console of a machine that runs as a child process."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import subprocess
import time
from typing import TYPE_CHECKING, Self

from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping, Sequence
    from types import TracebackType

READ_BYTES = 1 << 16
TAIL_LINES = 12
STOP_TIMEOUT_S = 10.0
DEFAULT_TIMEOUT_S = 60.0
READY = re.compile(r"pyhyve guest ready: (.*)\n")
PROMPT = re.compile(r"^\S+:\S+# $", re.MULTILINE)
"""The prompt of the guests that `pyhyve.guest.builder` makes, at the end of what was printed."""
_CONTROL = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|[()][0-9A-B]|[@-Z\\-_])|\x0e|\x0f|\r")


class ConsoleError(UserError):
    """The guest did not say what was expected."""


def plain(text: str) -> str:
    """`text` without terminal control sequences and carriage returns."""
    return _CONTROL.sub("", text)


def without_echo(text: str, command: str) -> str:
    """What follows the echo of `command` in `text`; a shell breaks the echo at the width of the terminal."""
    position = 0
    for character in command:
        while position < len(text) and text[position] == "\n" != character:
            position += 1
        if not text.startswith(character, position):
            break
        position += 1
    return text[position:].partition("\n")[2]


class GuestConsole:
    """A machine's process and its console. Use as a context manager: leaving it ends the process.

    What the guest printed is in `transcript`, terminal control sequences taken out.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        with_errors: bool = True,
        patience: float = 1.0,
    ) -> None:
        """Start `command`, whose standard input and output are the console.

        Standard error is part of the transcript too, or goes where ours goes when not `with_errors`. `patience`
        multiplies every time limit, for guests on slow hosts.
        """
        self._patience = patience
        self.command = list(command)
        self.transcript = ""
        self._raw = ""
        self._position = 0
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if with_errors else None,
            bufsize=0,
            env=dict(os.environ) | dict(environment or {}),
        )
        assert self._process.stdin is not None  # noqa: S101 - for the type checker: PIPE was asked for
        assert self._process.stdout is not None  # noqa: S101
        self._input = self._process.stdin
        self._output = self._process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ)
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Process id of the machine."""
        return self._process.pid

    def send(self, text: str) -> None:
        """Type `text`. Raises ConsoleError when the machine is gone."""
        try:
            self._input.write(text.encode())
        except OSError as error:
            raise ConsoleError(self._story("the machine ended")) from error

    def send_line(self, text: str) -> None:
        """Type `text` and press Enter."""
        self.send(text + "\r")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the machine's process."""
        self._process.send_signal(number)

    def expect(self, pattern: str | re.Pattern[str], timeout_s: float = DEFAULT_TIMEOUT_S) -> re.Match[str]:
        """Wait until the guest has printed `pattern` after the last match; gives the match.

        Raises ConsoleError when it has not within `timeout_s`, or when the machine ends first.
        """
        compiled = re.compile(pattern) if isinstance(pattern, str) else pattern
        timeout_s *= self._patience
        deadline = time.monotonic() + timeout_s
        while True:
            match = compiled.search(self.transcript, self._position)
            if match:
                self._position = match.end()
                return match
            if self._ended:
                raise ConsoleError(self._story(f"the machine ended before it printed {compiled.pattern!r}"))
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise ConsoleError(self._story(f"no {compiled.pattern!r} within {timeout_s:g} s"))
            self._read(remaining_s)

    def run(self, command: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> str:
        """Run a shell command in a guest that shows its prompt; gives what it printed."""
        start = self._position
        self.send_line(command)
        match = self.expect(PROMPT, timeout_s)
        return without_echo(self.transcript[start : match.start()], command)

    def wait_ready(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> str:
        """Wait for a pyhyve guest's shell; gives what its ready line says."""
        said = self.expect(READY, timeout_s)[1]
        self.expect(PROMPT, timeout_s)
        return said

    def wait_end(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> int:
        """Wait until the process ends; gives its exit status. Raises ConsoleError when it does not end."""
        timeout_s *= self._patience
        deadline = time.monotonic() + timeout_s
        while not self._ended:
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise ConsoleError(self._story(f"the machine still runs after {timeout_s:g} s"))
            self._read(remaining_s)
        return self._process.wait(STOP_TIMEOUT_S * self._patience)

    def close(self) -> None:
        """End the process if it still runs; idempotent."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S * self._patience)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._selector.close()
        for pipe in (self._input, self._output):
            with contextlib.suppress(OSError):
                pipe.close()

    def _read(self, timeout_s: float) -> None:
        if not self._selector.select(timeout_s):
            return
        data = os.read(self._output.fileno(), READ_BYTES)
        if not data:
            self._ended = True
        self._raw += data.decode("utf-8", "replace")
        # A control sequence may be cut in two: keep an unfinished one for the next piece.
        cut = self._raw.rfind("\x1b")
        complete = self._raw if cut < 0 or self._ended or _CONTROL.match(self._raw, cut) else self._raw[:cut]
        self._raw = self._raw[len(complete) :]
        self.transcript += plain(complete)

    def _story(self, what: str) -> str:
        lines = [line for line in self.transcript.splitlines() if line.strip()][-TAIL_LINES:]
        shown = " | ".join(lines)
        return f"{what}; last printed: {shown or 'nothing'}"
