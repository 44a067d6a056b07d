"""Domains and their snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.client.managed import Identified, Managed
from pyhyve.client.stream import Stream
from pyhyve.client.values import DomainInfo, InterfaceStats
from pyhyve.rpc import values

if TYPE_CHECKING:
    from pyhyve.rpc.values import DomainInterface

__all__ = ["Domain", "Snapshot"]


class Domain(Identified[values.Domain]):
    """A managed machine. Every method asks the daemon and raises LibvirtError where it refuses.

    ``flags`` are libvirt's numbers for the call (virDomain…Flags).
    """

    @property
    def id(self) -> int | None:
        """Its number while it runs, as of when it was looked up; None while it does not."""
        return None if self.ref.id < 0 else self.ref.id

    def _renew(self) -> None:
        """Look the number up again after it changed."""
        self.ref = self._session.call("DOMAIN_LOOKUP_BY_UUID", self.ref.uuid).dom

    # -- what it is ---------------------------------------------------------------------------------------------------

    def info(self) -> DomainInfo:
        """Return state, memory, vCPUs and CPU time."""
        return DomainInfo(*self._call("DOMAIN_GET_INFO"))

    def state(self) -> tuple[int, int]:
        """Return what it does (a :class:`~pyhyve.client.values.DomainState`) and the reason's number."""
        answer = self._call("DOMAIN_GET_STATE", 0)
        return answer.state, answer.reason

    def is_active(self) -> bool:
        """Tell whether it runs."""
        return bool(self._call("DOMAIN_IS_ACTIVE").active)

    def is_persistent(self) -> bool:
        """Tell whether it is defined, and so outlives its stop."""
        return bool(self._call("DOMAIN_IS_PERSISTENT").persistent)

    def is_updated(self) -> bool:
        """Tell whether its definition changed since it started."""
        return bool(self._call("DOMAIN_IS_UPDATED").updated)

    def os_type(self) -> str:
        """Return how it boots ("hvm")."""
        return str(self._call("DOMAIN_GET_OS_TYPE").type)

    def xml(self, flags: int = 0) -> str:
        """Return its document."""
        return str(self._call("DOMAIN_GET_XML_DESC", flags).xml)

    def max_memory_kib(self) -> int:
        """Return the memory it may have at most."""
        return int(self._call("DOMAIN_GET_MAX_MEMORY").memory)

    def max_vcpus(self) -> int:
        """Return the vCPUs it may have at most."""
        return int(self._call("DOMAIN_GET_MAX_VCPUS").num)

    def autostart(self) -> bool:
        """Tell whether it starts with the daemon."""
        return bool(self._call("DOMAIN_GET_AUTOSTART").autostart)

    def set_autostart(self, *, enabled: bool) -> None:
        """Choose whether it starts with the daemon."""
        self._call("DOMAIN_SET_AUTOSTART", int(enabled))

    def metadata(self, kind: int, uri: str | None = None, flags: int = 0) -> str:
        """Return its description (0), title (1) or the element of that namespace (2)."""
        return str(self._call("DOMAIN_GET_METADATA", kind, uri, flags).metadata)

    def set_metadata(
        self, kind: int, metadata: str | None, key: str | None = None, uri: str | None = None, flags: int = 0
    ) -> None:
        """Set, or with None remove, its description (0), title (1) or element (2)."""
        self._call("DOMAIN_SET_METADATA", kind, metadata, key, uri, flags)

    def rename(self, name: str) -> None:
        """Give it another name."""
        self._call("DOMAIN_RENAME", name, 0)
        self._renew()

    # -- its life -----------------------------------------------------------------------------------------------------

    def start(self, flags: int = 0) -> None:
        """Start it."""
        if flags:
            self.ref = self._call("DOMAIN_CREATE_WITH_FLAGS", flags).dom
        else:
            self._call("DOMAIN_CREATE")
            self._renew()

    def shutdown(self, flags: int = 0) -> None:
        """Ask the guest to power off."""
        if flags:
            self._call("DOMAIN_SHUTDOWN_FLAGS", flags)
        else:
            self._call("DOMAIN_SHUTDOWN")

    def reboot(self, flags: int = 0) -> None:
        """Ask the guest to restart."""
        self._call("DOMAIN_REBOOT", flags)

    def reset(self) -> None:
        """Press the reset button."""
        self._call("DOMAIN_RESET", 0)

    def destroy(self, flags: int = 0) -> None:
        """Pull the plug."""
        if flags:
            self._call("DOMAIN_DESTROY_FLAGS", flags)
        else:
            self._call("DOMAIN_DESTROY")
        self.ref = self.ref._replace(id=-1)

    def suspend(self) -> None:
        """Stop its vCPUs."""
        self._call("DOMAIN_SUSPEND")

    def resume(self) -> None:
        """Let its vCPUs run on."""
        self._call("DOMAIN_RESUME")

    def undefine(self, flags: int = 0) -> None:
        """Remove its definition."""
        if flags:
            self._call("DOMAIN_UNDEFINE_FLAGS", flags)
        else:
            self._call("DOMAIN_UNDEFINE")

    def save(self, path: str) -> None:
        """Write its memory to a file on the daemon's host and stop it."""
        self._call("DOMAIN_SAVE", path)

    def managed_save(self, flags: int = 0) -> None:
        """Save it where the daemon keeps it; its next start resumes."""
        self._call("DOMAIN_MANAGED_SAVE", flags)

    def has_managed_save(self) -> bool:
        """Tell whether such a save exists."""
        return bool(self._call("DOMAIN_HAS_MANAGED_SAVE_IMAGE", 0).result)

    def remove_managed_save(self) -> None:
        """Discard that save."""
        self._call("DOMAIN_MANAGED_SAVE_REMOVE", 0)

    # -- its parts ----------------------------------------------------------------------------------------------------

    def set_memory(self, memory_kib: int, flags: int = 0) -> None:
        """Set its memory; flags 1 live, 2 definition, 4 the maximum."""
        self._call("DOMAIN_SET_MEMORY_FLAGS", memory_kib, flags)

    def set_vcpus(self, count: int, flags: int = 0) -> None:
        """Set its number of vCPUs; flags 1 live, 2 definition, 4 the maximum."""
        self._call("DOMAIN_SET_VCPUS_FLAGS", count, flags)

    def vcpus(self, flags: int = 0) -> int:
        """Return its number of vCPUs; flags as in :meth:`set_vcpus`."""
        return int(self._call("DOMAIN_GET_VCPUS_FLAGS", flags).num)

    def attach_device(self, xml: str, flags: int = 0) -> None:
        """Plug a device in; flags 1 live, 2 definition."""
        self._call("DOMAIN_ATTACH_DEVICE_FLAGS", xml, flags)

    def detach_device(self, xml: str, flags: int = 0) -> None:
        """Unplug a device; flags 1 live, 2 definition."""
        self._call("DOMAIN_DETACH_DEVICE_FLAGS", xml, flags)

    def update_device(self, xml: str, flags: int = 0) -> None:
        """Change a device; flags 1 live, 2 definition."""
        self._call("DOMAIN_UPDATE_DEVICE_FLAGS", xml, flags)

    def interface_stats(self, device: str) -> InterfaceStats:
        """Return the counters of one of its network interfaces."""
        return InterfaceStats(*self._call("DOMAIN_INTERFACE_STATS", device))

    def memory_stats(self) -> dict[int, int]:
        """Return what is known of its memory, by virDomainMemoryStatTags."""
        return {stat.tag: stat.val for stat in self._call("DOMAIN_MEMORY_STATS", 64, 0).stats}

    def interface_addresses(self, source: int = 0, flags: int = 0) -> list[DomainInterface]:
        """Return its interfaces' addresses as known from leases (0), the agent (1) or ARP (2)."""
        return list(self._call("DOMAIN_INTERFACE_ADDRESSES", source, flags).ifaces)

    def open_console(self, device: str | None = None, flags: int = 0) -> Stream:
        """Open its console, or the named device."""
        serial, _ = self._session.open_stream("DOMAIN_OPEN_CONSOLE", self.ref, device, flags)
        return Stream(self._session, serial)

    def screenshot(self, screen: int = 0) -> tuple[str | None, Stream]:
        """Take a picture of a screen; return its media type and the stream with it."""
        serial, answer = self._session.open_stream("DOMAIN_SCREENSHOT", self.ref, screen, 0)
        return answer.mime, Stream(self._session, serial)

    # -- snapshots ----------------------------------------------------------------------------------------------------

    def create_snapshot(self, xml: str, flags: int = 0) -> Snapshot:
        """Take a snapshot."""
        return Snapshot(self._session, self._call("DOMAIN_SNAPSHOT_CREATE_XML", xml, flags).snap)

    def list_snapshots(self, flags: int = 0) -> list[Snapshot]:
        """Return its snapshots."""
        answer = self._call("DOMAIN_LIST_ALL_SNAPSHOTS", 1, flags)
        return [Snapshot(self._session, ref) for ref in answer.snapshots]

    def snapshot(self, name: str) -> Snapshot:
        """Return the snapshot of that name."""
        return Snapshot(self._session, self._call("DOMAIN_SNAPSHOT_LOOKUP_BY_NAME", name, 0).snap)

    def current_snapshot(self) -> Snapshot | None:
        """Return the snapshot it goes on from, if there is one."""
        if not self._call("DOMAIN_HAS_CURRENT_SNAPSHOT", 0).result:
            return None
        return Snapshot(self._session, self._call("DOMAIN_SNAPSHOT_CURRENT", 0).snap)


class Snapshot(Managed[values.DomainSnapshot]):
    """A domain's state at one moment."""

    def __repr__(self) -> str:
        return f"<Snapshot {self.name!r} of {self.ref.dom.name!r}>"

    def xml(self, flags: int = 0) -> str:
        """Return its document."""
        return str(self._call("DOMAIN_SNAPSHOT_GET_XML_DESC", flags).xml)

    def parent(self) -> Snapshot:
        """Return the snapshot it was taken after."""
        return Snapshot(self._session, self._call("DOMAIN_SNAPSHOT_GET_PARENT", 0).snap)

    def is_current(self) -> bool:
        """Tell whether the domain goes on from here."""
        return bool(self._call("DOMAIN_SNAPSHOT_IS_CURRENT", 0).current)

    def revert(self, flags: int = 0) -> None:
        """Bring the domain back to it."""
        self._call("DOMAIN_REVERT_TO_SNAPSHOT", flags)

    def delete(self, flags: int = 0) -> None:
        """Delete it."""
        self._call("DOMAIN_SNAPSHOT_DELETE", flags)
