"""Virtual networks, for asyncio.

Made from :mod:`pyhyve.client.network` by ``scripts/make_async_client.py``: change that one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.client.aio.managed import Identified
from pyhyve.rpc import values

if TYPE_CHECKING:
    from pyhyve.rpc.values import DhcpLease
__all__ = ["Network"]


class Network(Identified[values.Network]):
    """A virtual network. Every method asks the daemon and raises LibvirtError where it refuses."""

    async def xml(self, flags: int = 0) -> str:
        """Return its document."""
        return str((await self._call("NETWORK_GET_XML_DESC", flags)).xml)

    async def bridge_name(self) -> str:
        """Return the name of its bridge."""
        return str((await self._call("NETWORK_GET_BRIDGE_NAME")).name)

    async def is_active(self) -> bool:
        """Tell whether it is up."""
        return bool((await self._call("NETWORK_IS_ACTIVE")).active)

    async def is_persistent(self) -> bool:
        """Tell whether it is defined."""
        return bool((await self._call("NETWORK_IS_PERSISTENT")).persistent)

    async def autostart(self) -> bool:
        """Tell whether it comes up with the daemon."""
        return bool((await self._call("NETWORK_GET_AUTOSTART")).autostart)

    async def set_autostart(self, *, enabled: bool) -> None:
        """Choose whether it comes up with the daemon."""
        await self._call("NETWORK_SET_AUTOSTART", int(enabled))

    async def start(self) -> None:
        """Bring it up."""
        await self._call("NETWORK_CREATE")

    async def destroy(self) -> None:
        """Take it down."""
        await self._call("NETWORK_DESTROY")

    async def undefine(self) -> None:
        """Remove its definition."""
        await self._call("NETWORK_UNDEFINE")

    async def update(self, command: int, section: int, xml: str, parent_index: int = -1, flags: int = 0) -> None:
        """Change a part of it: command 1 modify, 2 delete, 3 add last, 4 add first (virNetworkUpdateCommand)."""
        await self._call("NETWORK_UPDATE", command, section, parent_index, xml, flags)

    async def dhcp_leases(self, mac: str | None = None) -> list[DhcpLease]:
        """Return the addresses it gave out, or only that machine's."""
        return list((await self._call("NETWORK_GET_DHCP_LEASES", mac, 1, 0)).leases)
