"""Character devices of a configuration."""

from __future__ import annotations

from pyhyve.backends.chardev import FileChardev, NullChardev
from pyhyve.backends.chardev_stdio import StdioChardev
from pyhyve.machine.config import ConsoleKind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.backends.chardev import Chardev
    from pyhyve.machine.config import ConsoleConfig


def open_chardev(
    config: ConsoleConfig, quit_requested: Callable[[], object] | None = None, *, label: str = "console"
) -> Chardev:
    """The character device of a serial port or channel; `quit_requested` is called for Ctrl-A x on a terminal.

    Raises ChardevError.
    """
    match config.kind:
        case ConsoleKind.STDIO:
            return StdioChardev(quit_requested or _nothing)
        case ConsoleKind.FILE if config.path is not None:
            return FileChardev(config.path)
        case ConsoleKind.UNIX:
            from pyhyve.backends.chardev_socket import UnixChardev  # noqa: PLC0415 - most machines have no such console

            return UnixChardev(config.path, fd=config.fd, label=label)
        case _:
            return NullChardev()


def _nothing() -> None:
    """Nobody is there to ask for the end."""
