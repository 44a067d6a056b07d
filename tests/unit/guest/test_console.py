"""The console against small programs that print what a guest would."""

from __future__ import annotations

import signal
import sys
import time

import pytest

from pyhyve.guest.console import ConsoleError, GuestConsole, plain, without_echo

GUEST = r"""
import sys
say = lambda text: print(text, end="", flush=True)
say("booting\r\npyhyve guest ready: Linux 6.1 on pyhyve\r\n\x1b[6n")
while True:
    say("pyhyve:~# \x1b[6n")
    line = sys.stdin.buffer.raw.read(100).decode().rstrip("\r")
    say(line + "\r\n")
    if line == "poweroff":
        sys.exit(0)
    say("".join(f"you said {word}\r\n" for word in line.split()))
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_run_gives_what_the_command_printed() -> None:
    with GuestConsole(python(GUEST)) as console:
        assert console.wait_ready(60) == "Linux 6.1 on pyhyve"
        assert console.run("a b", 60) == "you said a\nyou said b\n"
        assert console.run("c", 60) == "you said c\n"
        console.send_line("poweroff")
        assert console.wait_end(60) == 0


def test_expect_that_fails_shows_what_was_printed() -> None:
    with GuestConsole(python("print('Kernel panic', flush=True); import time; time.sleep(60)")) as console:
        console.expect("panic\n", 60)
        with pytest.raises(ConsoleError, match=r"no 'login:' within 1 s; last printed: Kernel panic"):
            console.expect("login:", 1)


def test_expect_tells_when_the_machine_ended() -> None:
    with (
        GuestConsole(python("print('bye')")) as console,
        pytest.raises(ConsoleError, match="the machine ended before it printed 'login:'; last printed: bye"),
    ):
        console.expect("login:", 60)


def test_close_ends_a_machine_that_ignores_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyhyve.guest.console.STOP_TIMEOUT_S", 0.2)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    start = time.monotonic()
    with GuestConsole(python(code)) as console:
        console.expect("up", 60)
    assert time.monotonic() - start < 50


def test_signal_reaches_the_machine() -> None:
    with GuestConsole(python("import time; print('up', flush=True); time.sleep(60)")) as console:
        console.expect("up", 60)
        console.signal(signal.SIGTERM)
        assert console.wait_end(60) == -signal.SIGTERM


def test_plain_takes_control_sequences_out() -> None:
    assert plain("\x1b[1;24r\x1b[4l\x1b(B\x1b)0\x1b[m\x0fhello\x1b[?7l \x1b[31mred\x1b[0m\r\n") == "hello red\n"


def test_control_sequence_cut_in_two_is_taken_out() -> None:
    code = "import os, time; os.write(1, b'a\\x1b['); time.sleep(0.2); os.write(1, b'31mb\\n')"
    with GuestConsole(python(code)) as console:
        console.expect("ab\n", 60)


@pytest.mark.parametrize(
    ("text", "command", "output"),
    [
        ("ls\na b\n", "ls", "a b\n"),
        ("ls\n", "ls", ""),
        ("echo a-very-long\n-line\nx\n", "echo a-very-long-line", "x\n"),
        ("something else\nx\n", "ls", "x\n"),
        ("", "ls", ""),
    ],
)
def test_echo_of_the_command_is_taken_out(text: str, command: str, output: str) -> None:
    assert without_echo(text, command) == output
