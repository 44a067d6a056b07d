"""Errors that are meant for the person at the keyboard: one line that says what is wrong and what to do."""

from __future__ import annotations


class ExitStatus:
    """What a command returns to the shell. Plain numbers: importing `enum` would be felt in short commands."""

    DONE = 0
    FAILED = 1
    USAGE = 2


class UserError(Exception):
    """Something the user can act on; the message is complete and fits on one line."""

    status = ExitStatus.FAILED


class InputError(UserError):
    """What was asked for makes no sense: a bad option, a missing file, a file of the wrong kind."""

    status = ExitStatus.USAGE
