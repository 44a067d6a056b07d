"""The argument parser of commands other than `img`."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from pyhyve.support.errors import ExitStatus


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors fit on one line."""

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Exit, with what was printed out of the way first: a reader that is gone must show up here."""
        sys.stdout.flush()
        super().exit(status, message)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit with status 2."""
        self.exit(ExitStatus.USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")
