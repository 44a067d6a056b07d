"""Storage pools and volumes."""

from __future__ import annotations

from pyhyve.client.managed import Identified, Managed
from pyhyve.client.stream import Stream
from pyhyve.client.values import PoolInfo, VolumeInfo
from pyhyve.rpc import values

__all__ = ["StoragePool", "StorageVolume"]


class StoragePool(Identified[values.StoragePool]):
    """A place for volumes. Every method asks the daemon and raises LibvirtError where it refuses."""

    def xml(self, flags: int = 0) -> str:
        """Return its document."""
        return str(self._call("STORAGE_POOL_GET_XML_DESC", flags).xml)

    def info(self) -> PoolInfo:
        """Return state and sizes."""
        return PoolInfo(*self._call("STORAGE_POOL_GET_INFO"))

    def is_active(self) -> bool:
        """Tell whether it is in use."""
        return bool(self._call("STORAGE_POOL_IS_ACTIVE").active)

    def is_persistent(self) -> bool:
        """Tell whether it is defined."""
        return bool(self._call("STORAGE_POOL_IS_PERSISTENT").persistent)

    def autostart(self) -> bool:
        """Tell whether it starts with the daemon."""
        return bool(self._call("STORAGE_POOL_GET_AUTOSTART").autostart)

    def set_autostart(self, *, enabled: bool) -> None:
        """Choose whether it starts with the daemon."""
        self._call("STORAGE_POOL_SET_AUTOSTART", int(enabled))

    def build(self, flags: int = 0) -> None:
        """Make what it needs underneath (a directory, a file system)."""
        self._call("STORAGE_POOL_BUILD", flags)

    def start(self, flags: int = 0) -> None:
        """Take it into use."""
        self._call("STORAGE_POOL_CREATE", flags)

    def refresh(self) -> None:
        """Look at its volumes anew."""
        self._call("STORAGE_POOL_REFRESH", 0)

    def destroy(self) -> None:
        """Take it out of use; its data stays."""
        self._call("STORAGE_POOL_DESTROY")

    def delete(self, flags: int = 0) -> None:
        """Delete what is underneath."""
        self._call("STORAGE_POOL_DELETE", flags)

    def undefine(self) -> None:
        """Remove its definition."""
        self._call("STORAGE_POOL_UNDEFINE")

    def list_volumes(self) -> list[StorageVolume]:
        """Return its volumes."""
        answer = self._call("STORAGE_POOL_LIST_ALL_VOLUMES", 1, 0)
        return [StorageVolume(self._session, ref) for ref in answer.vols]

    def volume(self, name: str) -> StorageVolume:
        """Return the volume of that name."""
        return StorageVolume(self._session, self._call("STORAGE_VOL_LOOKUP_BY_NAME", name).vol)

    def create_volume(self, xml: str, flags: int = 0) -> StorageVolume:
        """Create a volume."""
        return StorageVolume(self._session, self._call("STORAGE_VOL_CREATE_XML", xml, flags).vol)

    def clone_volume(self, xml: str, source: StorageVolume, flags: int = 0) -> StorageVolume:
        """Create a volume with the content of another."""
        answer = self._call("STORAGE_VOL_CREATE_XML_FROM", xml, source.ref, flags)
        return StorageVolume(self._session, answer.vol)


class StorageVolume(Managed[values.StorageVol]):
    """A volume."""

    @property
    def key(self) -> str:
        """Its key, unique on the host."""
        return self.ref.key

    def path(self) -> str:
        """Return its path on the daemon's host."""
        return str(self._call("STORAGE_VOL_GET_PATH").name)

    def info(self) -> VolumeInfo:
        """Return type and sizes."""
        return VolumeInfo(*self._call("STORAGE_VOL_GET_INFO"))

    def xml(self) -> str:
        """Return its document."""
        return str(self._call("STORAGE_VOL_GET_XML_DESC", 0).xml)

    def pool(self) -> StoragePool:
        """Return the pool it is in."""
        return StoragePool(self._session, self._call("STORAGE_POOL_LOOKUP_BY_VOLUME").pool)

    def resize(self, capacity_bytes: int, flags: int = 0) -> None:
        """Change its size."""
        self._call("STORAGE_VOL_RESIZE", capacity_bytes, flags)

    def delete(self, flags: int = 0) -> None:
        """Delete it."""
        self._call("STORAGE_VOL_DELETE", flags)

    def wipe(self) -> None:
        """Overwrite its content."""
        self._call("STORAGE_VOL_WIPE", 0)

    def download(self, offset: int = 0, length: int = 0, flags: int = 0) -> Stream:
        """Open a stream with its content from ``offset`` on; length 0 means all."""
        serial, _ = self._session.open_stream("STORAGE_VOL_DOWNLOAD", self.ref, offset, length, flags)
        return Stream(self._session, serial)

    def upload(self, offset: int = 0, length: int = 0, flags: int = 0) -> Stream:
        """Open a stream that becomes its content from ``offset`` on."""
        serial, _ = self._session.open_stream("STORAGE_VOL_UPLOAD", self.ref, offset, length, flags)
        return Stream(self._session, serial)
