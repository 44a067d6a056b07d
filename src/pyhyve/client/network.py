"""Virtual networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.client.managed import Identified
from pyhyve.rpc import values

if TYPE_CHECKING:
    from pyhyve.rpc.values import DhcpLease

__all__ = ["Network"]


class Network(Identified[values.Network]):
    """A virtual network. Every method asks the daemon and raises LibvirtError where it refuses."""

    def xml(self, flags: int = 0) -> str:
        """Return its document."""
        return str(self._call("NETWORK_GET_XML_DESC", flags).xml)

    def bridge_name(self) -> str:
        """Return the name of its bridge."""
        return str(self._call("NETWORK_GET_BRIDGE_NAME").name)

    def is_active(self) -> bool:
        """Tell whether it is up."""
        return bool(self._call("NETWORK_IS_ACTIVE").active)

    def is_persistent(self) -> bool:
        """Tell whether it is defined."""
        return bool(self._call("NETWORK_IS_PERSISTENT").persistent)

    def autostart(self) -> bool:
        """Tell whether it comes up with the daemon."""
        return bool(self._call("NETWORK_GET_AUTOSTART").autostart)

    def set_autostart(self, *, enabled: bool) -> None:
        """Choose whether it comes up with the daemon."""
        self._call("NETWORK_SET_AUTOSTART", int(enabled))

    def start(self) -> None:
        """Bring it up."""
        self._call("NETWORK_CREATE")

    def destroy(self) -> None:
        """Take it down."""
        self._call("NETWORK_DESTROY")

    def undefine(self) -> None:
        """Remove its definition."""
        self._call("NETWORK_UNDEFINE")

    def update(self, command: int, section: int, xml: str, parent_index: int = -1, flags: int = 0) -> None:
        """Change a part of it: command 1 modify, 2 delete, 3 add last, 4 add first (virNetworkUpdateCommand)."""
        self._call("NETWORK_UPDATE", command, section, parent_index, xml, flags)

    def dhcp_leases(self, mac: str | None = None) -> list[DhcpLease]:
        """Return the addresses it gave out, or only that machine's."""
        return list(self._call("NETWORK_GET_DHCP_LEASES", mac, 1, 0).leases)
