"""A part of a device whose state is saved beside the device's own."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class SaveablePart:
    """A `Saveable` (see there) of what `save` gives and `load` takes: records of `state_type`."""

    def __init__(
        self, state_type: type[Any], save: Callable[[], Any], load: Callable[[Any], None], *, version: int = 1
    ) -> None:
        self.state_type = state_type
        self.state_version = version
        self.save = save
        self.load = load
