"""What a driver tells of the CPUs its machines can have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["GuestCpu", "GuestCpus"]


@dataclass(frozen=True, slots=True)
class GuestCpu:
    """The largest CPU a machine can have: its vendor, its features, and names of models that can be asked for."""

    vendor: str | None
    features: frozenset[str]
    models: Collection[str]


class GuestCpus(Protocol):
    """Drivers whose machines have CPUs like the host's offer one."""

    def guest_cpu(self, emulator: str | None, arch: str | None, machine: str | None, virt_type: str | None) -> GuestCpu:
        """Return the CPU of machines of a kind. Blocks. Raises LibvirtError."""
