"""What a device offers so that its state can be saved."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Saveable(Protocol):
    """State that outlives its process. The machine stands still while either method runs.

    `state_type` is a record (`pyhyve.state.record`) and `state_version` its version: it rises when a field changes
    its meaning. A new field needs no new version when it has a default, which older files then get.
    """

    @property
    def state_type(self) -> type[Any]:
        """The record that `save` gives and `load` takes."""

    @property
    def state_version(self) -> int:
        """That record's version, 1 or more."""

    def save(self) -> Any:  # noqa: ANN401 - a value of `state_type`
        """The present state, an instance of `state_type`. StateError when it cannot be saved now."""

    def load(self, state: Any, /) -> None:  # noqa: ANN401 - a value of `state_type`
        """Take over `state`, an instance of `state_type`. StateError when this device cannot be in that state."""
