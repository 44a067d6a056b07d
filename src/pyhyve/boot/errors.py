"""What can be wrong with something to boot."""

from __future__ import annotations

from pyhyve.support.errors import InputError


class BootError(InputError):
    """A kernel, initrd or firmware that cannot be booted; the message is one line for the user."""
