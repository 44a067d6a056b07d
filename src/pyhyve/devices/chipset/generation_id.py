"""The virtual machine generation ID (Microsoft, "Virtual Machine Generation ID", 2012): 16 bytes of guest memory.

They change when a machine is put into an earlier state of its own, or of another machine's, so that its guest does not
use random numbers and the like twice. The guest learns where they are, and hears of changes, through ACPI
(`boot.acpi`).
"""

from __future__ import annotations

import os

from pyhyve.state.record import Size, record
from pyhyve.support.hints import Annotated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ClassVar

    from pyhyve.memory.guest import GuestMemory

GENERATION_ID_GPA = 0xFEF0_0000
"""A page of its own, between the local APIC's and the firmware."""
GENERATION_ID_BYTES = 4096
GENERATION_ID_GPE = 5
"""General-purpose event, as in QEMU."""
_ID_BYTES = 16


@record
class GenerationIdState:
    """The identifier that the guest has seen."""

    identifier: Annotated[bytes, Size(_ID_BYTES)]


class GenerationId:
    """The device. `raise_event` raises the general-purpose event."""

    state_type: ClassVar = GenerationIdState
    state_version: ClassVar = 1

    def __init__(self, memory: GuestMemory, identifier: bytes | None, raise_event: Callable[[], None]) -> None:
        """`identifier` is in the byte order of a UUID; None: a random one, and another after each `load`."""
        self._memory = memory
        self._is_random = identifier is None
        self._raise_event = raise_event
        self.identifier = _random() if identifier is None else identifier
        self.reset()

    def reset(self) -> None:
        """Show the identifier; the guest may have written over it."""
        fields = self.identifier
        # As the tables' languages have it: the first three fields in little-endian order.
        stored = fields[3::-1] + fields[5:3:-1] + fields[7:5:-1] + fields[8:]
        self._memory.write(GENERATION_ID_GPA, stored)

    def save(self) -> GenerationIdState:
        """What the guest has seen."""
        return GenerationIdState(identifier=self.identifier)

    def load(self, state: GenerationIdState) -> None:
        """The guest has been copied, or put back: unless this is the same machine by its name, it is another one."""
        if self._is_random:
            self.identifier = _random()
        self.reset()
        if self.identifier != state.identifier:
            self._raise_event()


def _random() -> bytes:
    """A random UUID (RFC 9562, 5.4)."""
    made = bytearray(os.urandom(_ID_BYTES))
    made[6] = made[6] & 0x0F | 0x40
    made[8] = made[8] & 0x3F | 0x80
    return bytes(made)
