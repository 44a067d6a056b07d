"""The argument parser of commands other than `img`."""

from __future__ import annotations

import argparse
import sys

from pyhyve.support.errors import ExitStatus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors fit on one line."""

    _help_width = 78

    def _get_formatter(self) -> argparse.HelpFormatter:
        """Called for every argument that is added: without a width it would load a module to find the terminal's."""
        return argparse.HelpFormatter(self.prog, width=self._help_width)

    def format_help(self) -> str:
        """The help, as wide as the terminal."""
        import shutil

        self._help_width = shutil.get_terminal_size().columns - 2
        return super().format_help()

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Exit, with what was printed out of the way first: a reader that is gone must show up here."""
        sys.stdout.flush()
        super().exit(status, message)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit with status 2."""
        self.exit(ExitStatus.USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")
