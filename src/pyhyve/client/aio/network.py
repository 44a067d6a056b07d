"""Virtual networks, for asyncio.

Made from :mod:`pyhyve.client.network` by ``scripts/make_async_client.py``: change that one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from pyhyve.client.aio.session import Session
    from pyhyve.rpc.values import DhcpLease
    from pyhyve.rpc.values import Network as NetworkRef
__all__ = ["Network"]


class Network:
    """A virtual network. Every method asks the daemon and raises LibvirtError where it refuses."""

    def __init__(self, session: Session, ref: NetworkRef) -> None:
        self._session = session
        self.ref = ref

    def __repr__(self) -> str:
        return f"<Network {self.name!r} {self.uuid}>"

    @property
    def name(self) -> str:
        """Its name."""
        return self.ref.name

    @property
    def uuid(self) -> UUID:
        """Its UUID."""
        return UUID(bytes=self.ref.uuid)

    async def _call(self, name: str, *values: object) -> Any:
        return await self._session.call(name, self.ref, *values)

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
