"""Ways of messages that are known to end at one local APIC, so that they need not be looked up each time."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.accel.api import ApicVectors


class MessageRoute:
    """An edge-triggered message for one processor that takes interrupts by itself, until `end`.

    Who sends it without asking registers with `while_valid`, and must no longer do so once its callback returned.
    """

    __slots__ = ("_ended", "_users", "look", "vector", "vectors")

    def __init__(self, vectors: ApicVectors, vector: int, look: Callable[[], None]) -> None:
        """`look` has the processor look at `vectors`, on any thread."""
        self.vectors = vectors
        self.vector = vector
        self.look = look
        self._users: dict[Callable[[], None], None] = {}
        self._ended = False

    def while_valid(self, ended: Callable[[], None]) -> bool:
        """Call `ended`, with the machine lock held, when the message may go elsewhere; False when it already may."""
        self._users[ended] = None
        # After it was added: whoever ends the way meanwhile either calls it, or is seen here.
        return not self._ended

    def end(self) -> None:
        """It may go elsewhere from now on; returns when nobody sends it by itself any more."""
        self._ended = True
        for ended in list(self._users):
            ended()
