"""A domain's console on this terminal."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import threading
import tty
from typing import TYPE_CHECKING

from pyhyve.cli.virsh.shell import VerbFailed
from pyhyve.client import LibvirtError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.cli.virsh.shell import Shell
    from pyhyve.client import Domain, Stream

__all__ = ["attach", "escape_byte"]

_FORCE, _SAFE = 1, 2


def escape_byte(text: str) -> int:
    """Return the byte that ends a session, given as ``^]`` or a letter. Raises ValueError."""
    if len(text) == 2 and text[0] == "^":
        return ord(text[1].upper()) ^ 0x40
    if len(text) == 1 and text.isascii():
        return ord(text)
    msg = f"Invalid string '{text}' for escape sequence"
    raise ValueError(msg)


@contextlib.contextmanager
def _raw(fd: int) -> Iterator[None]:
    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSAFLUSH, before)


def attach(shell: Shell, domain: Domain, device: str | None = None, flags: int = 0) -> None:
    """Show a console until its end or the escape character. Raises VerbFailed, LibvirtError."""
    if not domain.is_active():
        msg = "The domain is not running"
        raise VerbFailed(msg)
    if not os.isatty(sys.stdin.fileno()):
        msg = "Cannot run interactive console without a controlling TTY"
        raise VerbFailed(msg)
    shell.say(f"Connected to domain '{domain.name}'")
    hint = " (Ctrl + ])" if shell.escape == "^]" else ""
    shell.say(f"Escape character is {shell.escape}{hint}")
    sys.stdout.flush()
    stream = domain.open_console(device, flags)
    try:
        with _raw(sys.stdin.fileno()):
            _carry(stream, escape_byte(shell.escape))
    finally:
        with contextlib.suppress(LibvirtError):
            stream.abort()
    shell.say()


def _carry(stream: Stream, escape: int) -> None:
    """Carry bytes both ways: the guest's on a thread, the keyboard's here."""
    ended_read, ended_write = os.pipe()

    def show() -> None:
        try:
            while data := stream.receive():
                os.write(sys.stdout.fileno(), data)
        except (LibvirtError, OSError):
            pass
        finally:
            os.write(ended_write, b"\0")

    reader = threading.Thread(target=show, daemon=True)
    reader.start()
    keyboard = sys.stdin.fileno()
    try:
        while True:
            ready, _, _ = select.select([keyboard, ended_read], [], [])
            if ended_read in ready:
                return
            data = os.read(keyboard, 1024)
            if not data or escape in data:
                return
            stream.send(data)
    finally:
        if not reader.is_alive():
            os.close(ended_read)
            os.close(ended_write)
