"""Why a state cannot be saved or restored."""

from __future__ import annotations

from pyhyve.support.errors import UserError


class StateError(UserError):
    """A state that cannot be saved, read, or put into this machine; the message is one line that says why."""


class StateTruncatedError(StateError):
    """A state that ends too early."""

    def __init__(self) -> None:
        super().__init__("the state is truncated")


class StateCancelledError(StateError):
    """Somebody took the wish to save back."""

    def __init__(self) -> None:
        super().__init__("cancelled")
