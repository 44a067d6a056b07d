"""One network: its definition, what it is while it is up, and the guests on it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pyhyve.daemon.networks import faults
from pyhyve.daemon.networks.bandwidth import parse
from pyhyve.rpc.values import Network as NetworkRef
from pyhyve.xml.element import format_element

if TYPE_CHECKING:
    from pyhyve.daemon.networks.bandwidth import Bandwidth
    from pyhyve.xml.document import Node
    from pyhyve.xml.network import Network

__all__ = ["ManagedNetwork", "NetworkEvent", "Port"]


class NetworkEvent(IntEnum):
    """What happens to networks (virNetworkEventLifecycleType)."""

    DEFINED = 0
    UNDEFINED = 1
    STARTED = 2
    STOPPED = 3


@dataclass(frozen=True, slots=True)
class Port:
    """Where a guest's interface is plugged in."""

    uuid: bytes
    owner_name: str
    owner_uuid: bytes
    mac: str
    device: str
    bridge: str
    floor: int = 0
    """KB/s it is sure of, and the number of its class among those who are."""
    number: int = 0

    def to_json(self) -> dict[str, str | int]:
        """As plain values."""
        return {
            "uuid": str(UUID(bytes=self.uuid)),
            "owner_name": self.owner_name,
            "owner_uuid": str(UUID(bytes=self.owner_uuid)),
            "mac": self.mac,
            "device": self.device,
            "bridge": self.bridge,
            "floor": self.floor,
            "number": self.number,
        }

    @classmethod
    def from_json(cls, held: dict[str, Any]) -> Port:
        """From plain values. Raises KeyError, TypeError or ValueError."""
        return cls(
            UUID(held["uuid"]).bytes,
            held["owner_name"],
            UUID(held["owner_uuid"]).bytes,
            held["mac"],
            held["device"],
            held["bridge"],
            int(held.get("floor", 0)),
            int(held.get("number", 0)),
        )


@dataclass(slots=True, eq=False)
class ManagedNetwork:
    """A network the daemon knows. Changed on the event loop only, by whoever holds ``lock``."""

    name: str
    uuid: bytes
    definition: Network | None = None
    """What it will be when it comes up again; None for one that is forgotten then."""
    running: Network | None = None
    """What it is while it is up."""
    autostart: bool = False
    ports: dict[bytes, Port] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def active(self) -> bool:
        """Whether it is up."""
        return self.running is not None

    @property
    def persistent(self) -> bool:
        """Whether it is defined."""
        return self.definition is not None

    @property
    def ref(self) -> NetworkRef:
        """How clients name it."""
        return NetworkRef(self.name, self.uuid)

    @property
    def current(self) -> Network:
        """What it is now: the running one if it is up."""
        found = self.running if self.running is not None else self.definition
        assert found is not None  # noqa: S101 - a network is up, or defined, or forgotten
        return found

    def document(self, *, inactive: bool = False) -> str:
        """The ``<network>`` document."""
        from dataclasses import replace  # noqa: PLC0415 - beside its use

        if inactive and self.definition is not None:
            return format_element(self.definition)
        shown = self.current
        if self.active and self.ports:
            shown = replace(shown, connections=len(self.ports))
        return format_element(shown)

    def bridge(self) -> str:
        """The bridge's name. Raises LibvirtError where it has none."""
        found = self.current.bridge
        if found is None or not found.name:
            raise faults.internal(f"network '{self.name}' does not have a bridge name.")
        return found.name

    def limits(self) -> Bandwidth:
        """What its bridge may carry. Raises LibvirtError."""
        return parse(next((node for _, node in self.current.other_children if node.name == "bandwidth"), None))

    def port_limits(self, group: str | None) -> Node | None:
        """The limits of those in a group of ports, or in the one that is for everybody else."""
        for _, node in self.current.other_children:
            attributes = dict(node.attributes)
            if node.name != "portgroup":
                continue
            if attributes.get("name") == group if group is not None else attributes.get("default") == "yes":
                return next((child for child in node.children if child.name == "bandwidth"), None)
        return None

    def need_active(self) -> None:
        """Raise LibvirtError where it is not up."""
        if not self.active:
            raise faults.invalid(f"network '{self.name}' is not active")
