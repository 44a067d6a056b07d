"""The states of a machine and who may change them."""

from __future__ import annotations

import threading

from pyhyve.support.enums import Enum
from pyhyve.support.errors import UserError


class MachineState(Enum):
    """Where a machine is in its life."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESETTING = "resetting"
    SHUTDOWN = "shutdown"
    """The end: no way leads back."""


_NEXT = {
    MachineState.CREATED: {MachineState.RUNNING, MachineState.PAUSED, MachineState.SHUTDOWN},
    MachineState.RUNNING: {MachineState.PAUSED, MachineState.RESETTING, MachineState.SHUTDOWN},
    MachineState.PAUSED: {MachineState.RUNNING, MachineState.RESETTING, MachineState.SHUTDOWN},
    MachineState.RESETTING: {MachineState.RUNNING, MachineState.PAUSED, MachineState.SHUTDOWN},
    MachineState.SHUTDOWN: set[MachineState](),
}


class StateError(UserError):
    """A transition that the present state does not allow."""


class Lifecycle:
    """Holds the state; any thread may ask, transitions are checked."""

    def __init__(self) -> None:
        """Begin as CREATED."""
        self._lock = threading.Lock()
        self._state = MachineState.CREATED

    @property
    def state(self) -> MachineState:
        """The present state."""
        return self._state

    def enter(self, state: MachineState) -> None:
        """Go to `state`; raises StateError when that cannot follow."""
        with self._lock:
            if state not in _NEXT[self._state]:
                msg = f"the machine is {self._state.value}: it cannot become {state.value}"
                raise StateError(msg)
            self._state = state
