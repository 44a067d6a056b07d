"""Storage pools and volumes, for asyncio.

Made from :mod:`pyhyve.client.storage` by ``scripts/make_async_client.py``: change that one.
"""

from __future__ import annotations

from pyhyve.client.aio.managed import Identified, Managed
from pyhyve.client.aio.stream import Stream
from pyhyve.client.values import PoolInfo, VolumeInfo
from pyhyve.rpc import values

__all__ = ["StoragePool", "StorageVolume"]


class StoragePool(Identified[values.StoragePool]):
    """A place for volumes. Every method asks the daemon and raises LibvirtError where it refuses."""

    async def xml(self, flags: int = 0) -> str:
        """Return its document."""
        return str((await self._call("STORAGE_POOL_GET_XML_DESC", flags)).xml)

    async def info(self) -> PoolInfo:
        """Return state and sizes."""
        return PoolInfo(*await self._call("STORAGE_POOL_GET_INFO"))

    async def is_active(self) -> bool:
        """Tell whether it is in use."""
        return bool((await self._call("STORAGE_POOL_IS_ACTIVE")).active)

    async def is_persistent(self) -> bool:
        """Tell whether it is defined."""
        return bool((await self._call("STORAGE_POOL_IS_PERSISTENT")).persistent)

    async def autostart(self) -> bool:
        """Tell whether it starts with the daemon."""
        return bool((await self._call("STORAGE_POOL_GET_AUTOSTART")).autostart)

    async def set_autostart(self, *, enabled: bool) -> None:
        """Choose whether it starts with the daemon."""
        await self._call("STORAGE_POOL_SET_AUTOSTART", int(enabled))

    async def build(self, flags: int = 0) -> None:
        """Make what it needs underneath (a directory, a file system)."""
        await self._call("STORAGE_POOL_BUILD", flags)

    async def start(self, flags: int = 0) -> None:
        """Take it into use."""
        await self._call("STORAGE_POOL_CREATE", flags)

    async def refresh(self) -> None:
        """Look at its volumes anew."""
        await self._call("STORAGE_POOL_REFRESH", 0)

    async def destroy(self) -> None:
        """Take it out of use; its data stays."""
        await self._call("STORAGE_POOL_DESTROY")

    async def delete(self, flags: int = 0) -> None:
        """Delete what is underneath."""
        await self._call("STORAGE_POOL_DELETE", flags)

    async def undefine(self) -> None:
        """Remove its definition."""
        await self._call("STORAGE_POOL_UNDEFINE")

    async def list_volumes(self) -> list[StorageVolume]:
        """Return its volumes."""
        answer = await self._call("STORAGE_POOL_LIST_ALL_VOLUMES", 1, 0)
        return [StorageVolume(self._session, ref) for ref in answer.vols]

    async def volume(self, name: str) -> StorageVolume:
        """Return the volume of that name."""
        return StorageVolume(self._session, (await self._call("STORAGE_VOL_LOOKUP_BY_NAME", name)).vol)

    async def create_volume(self, xml: str, flags: int = 0) -> StorageVolume:
        """Create a volume."""
        return StorageVolume(self._session, (await self._call("STORAGE_VOL_CREATE_XML", xml, flags)).vol)

    async def clone_volume(self, xml: str, source: StorageVolume, flags: int = 0) -> StorageVolume:
        """Create a volume with the content of another."""
        answer = await self._call("STORAGE_VOL_CREATE_XML_FROM", xml, source.ref, flags)
        return StorageVolume(self._session, answer.vol)


class StorageVolume(Managed[values.StorageVol]):
    """A volume."""

    @property
    def key(self) -> str:
        """Its key, unique on the host."""
        return self.ref.key

    async def path(self) -> str:
        """Return its path on the daemon's host."""
        return str((await self._call("STORAGE_VOL_GET_PATH")).name)

    async def info(self) -> VolumeInfo:
        """Return type and sizes."""
        return VolumeInfo(*await self._call("STORAGE_VOL_GET_INFO"))

    async def xml(self) -> str:
        """Return its document."""
        return str((await self._call("STORAGE_VOL_GET_XML_DESC", 0)).xml)

    async def pool(self) -> StoragePool:
        """Return the pool it is in."""
        return StoragePool(self._session, (await self._call("STORAGE_POOL_LOOKUP_BY_VOLUME")).pool)

    async def resize(self, capacity_bytes: int, flags: int = 0) -> None:
        """Change its size."""
        await self._call("STORAGE_VOL_RESIZE", capacity_bytes, flags)

    async def delete(self, flags: int = 0) -> None:
        """Delete it."""
        await self._call("STORAGE_VOL_DELETE", flags)

    async def wipe(self) -> None:
        """Overwrite its content."""
        await self._call("STORAGE_VOL_WIPE", 0)

    async def download(self, offset: int = 0, length: int = 0, flags: int = 0) -> Stream:
        """Open a stream with its content from ``offset`` on; length 0 means all."""
        serial, _ = await self._session.open_stream("STORAGE_VOL_DOWNLOAD", self.ref, offset, length, flags)
        return Stream(self._session, serial)

    async def upload(self, offset: int = 0, length: int = 0, flags: int = 0) -> Stream:
        """Open a stream that becomes its content from ``offset`` on."""
        serial, _ = await self._session.open_stream("STORAGE_VOL_UPLOAD", self.ref, offset, length, flags)
        return Stream(self._session, serial)
