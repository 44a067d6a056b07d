"""Making, listing and removing networks. Every step is recorded before it is taken, so that all of it can be undone."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from pyhyve.hostnet import dnsmasq, nft, rules, sysctls
from pyhyve.hostnet.errors import HostNetError
from pyhyve.hostnet.links import Links, Moved, random_mac
from pyhyve.hostnet.records import NetworkRecord, RecordStore, network_directory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pyhyve.hostnet.dnsmasq import Lease
    from pyhyve.hostnet.links import Link
    from pyhyve.hostnet.spec import NetworkSpec


@dataclass(frozen=True, slots=True)
class NetworkStatus:
    """A network on record and what of it is there. `ports` are the names of the bridge's ports."""

    spec: NetworkSpec
    is_up: bool
    has_dhcp: bool
    ports: tuple[str, ...]


class Networks:
    """The networks on record in `directory` (default: those of this process's network namespace)."""

    def __init__(self, directory: Path | None = None) -> None:
        """Raises HostNetError when there is no place for records."""
        self._store = RecordStore(network_directory() if directory is None else directory)

    def create(self, spec: NetworkSpec, warn: Callable[[str], None] = lambda _text: None) -> None:
        """Make the network; when a step fails, or is interrupted, those before it are undone.

        `warn` hears of what keeps packets from passing. Raises HostNetError, SpecError.
        """
        spec.check_forwards()
        with self._store.locked():
            if self._store.load(spec.name) is not None:
                msg = f"network {spec.name} exists already (pyhyve net delete {spec.name} removes it)"
                raise HostNetError(msg)
            self._check_forwards(spec)
            with Links() as links:
                self._check(links, spec)
                record = NetworkRecord(spec, spec.bridge_mac or random_mac())
                self._store.save(record)
                try:
                    self._make(links, record)
                except BaseException:
                    # The first error is the one to tell; the record stays if something cannot be undone.
                    with suppress(HostNetError):
                        self._undo(links, self._store.load(spec.name) or record)
                    raise
        if spec.forwards_packets:
            for chain in nft.dropping_chains():
                warn(f"rules of another program ({chain}) drop forwarded packets; allow {spec.bridge} there")

    def change_services(self, spec: NetworkSpec) -> None:
        """Give a network other DHCP and DNS entries: its bridge and its guests stay.

        Raises HostNetError; what was served before is then served again.
        """
        with self._store.locked():
            record = self._store.load(spec.name)
            if record is None:
                msg = f"no network {spec.name} (pyhyve net list)"
                raise HostNetError(msg)
            self._store.save(replace(record, spec=spec))
            try:
                self._serve(spec)
            except BaseException:
                self._store.save(record)
                with suppress(HostNetError):
                    self._serve(record.spec)
                raise

    def _serve(self, spec: NetworkSpec) -> None:
        """End the server of a network's DHCP and DNS, and start another if it needs one. Raises HostNetError."""
        files = self._store.files(spec.name)
        dnsmasq.stop(files)
        if spec.has_services:
            dnsmasq.start(spec, files)

    def delete(self, name: str) -> None:
        """Remove the network and all that was made for it. Raises HostNetError."""
        with self._store.locked():
            record = self._store.load(name)
            if record is None:
                known = ", ".join(self._store.names()) or "none"
                msg = f"no network {name} (there are: {known})"
                raise HostNetError(msg)
            with Links() as links:
                self._undo(links, record)

    def statuses(self) -> list[NetworkStatus]:
        """All networks on record. Raises HostNetError."""
        records = [record for record in map(self._store.load, self._store.names()) if record is not None]
        if not records:
            return []
        with Links() as links:
            present = links.all()
        return [self._status(record, present) for record in records]

    def leases(self, name: str) -> list[Lease]:
        """What the network's DHCP server has given out. Raises HostNetError for an unknown network."""
        if self._store.load(name) is None:
            msg = f"no network {name} (pyhyve net list)"
            raise HostNetError(msg)
        return dnsmasq.read_leases(self._store.files(name))

    def _status(self, record: NetworkRecord, present: list[Link]) -> NetworkStatus:
        bridge = _own_bridge(record, present)
        ports = tuple(link.name for link in present if bridge is not None and link.master == bridge.index)
        has_dhcp = bool(record.spec.dhcp) and dnsmasq.running(self._store.files(record.spec.name)) is not None
        return NetworkStatus(record.spec, bridge is not None, has_dhcp, ports)

    # -- making -------------------------------------------------------------------------------------------------------

    def _check_forwards(self, spec: NetworkSpec) -> None:
        """Refuse a port of the host that leads to another network's guest already."""
        for record in map(self._store.load, self._store.names() if spec.forwards else ()):
            for taken in () if record is None else record.spec.forwards:
                wanted = next((forward for forward in spec.forwards if forward.clashes_with(taken)), None)
                if record is not None and wanted is not None:
                    there = f"{taken.address} port {taken.port} in network {record.spec.name}"
                    msg = f"forward: {wanted.protocol} port {wanted.host_port} of the host leads to {there} already"
                    raise HostNetError(msg)

    @staticmethod
    def _check(links: Links, spec: NetworkSpec) -> None:
        """Refuse what would clash with what is there, before anything is changed."""
        for name in (spec.bridge, *(tap.name for tap in spec.taps)):
            if links.find(name) is not None:
                msg = f"interface {name} exists already, and network {spec.name} did not make it (choose another name)"
                raise HostNetError(msg)
        for port in spec.ports:
            link = links.need(port)
            if link.master:
                msg = f"interface {port} is a port of another bridge already"
                raise HostNetError(msg)
            if link.kind == "bridge" or link.is_loopback:
                msg = f"interface {port} is {'a bridge' if link.kind else 'the loopback'}: it cannot be a port of one"
                raise HostNetError(msg)
        for address in spec.addresses:
            clash = links.overlapping(address)
            if clash is not None and clash[0] not in spec.ports:
                msg = f"address {address} overlaps with {clash[1]} of interface {clash[0]}: choose another network"
                raise HostNetError(msg)
        if spec.needs_rules:
            nft.find_program("nft", "nftables", f"a network of mode {spec.mode} needs it, --mode bridge does not")
        if spec.has_services:
            nft.find_program("dnsmasq", "dnsmasq-base", "DHCP and DNS for guests need it")

    def _make(self, links: Links, record: NetworkRecord) -> None:
        spec = record.spec
        bridge = links.create_bridge(spec.bridge, record.bridge_mac, spec.mtu)
        for address in spec.addresses:
            links.add_address(bridge, address)
        for tap in spec.taps:
            links.create_tap(tap.name, bridge, tap.owner)
        for name in spec.ports:
            port = links.need(name)
            moved = links.movable(port) if spec.move_addresses else None
            if moved is not None:
                record.moved[name] = asdict(moved)
                self._store.save(record)
            links.attach(name, bridge)
            if moved is None:
                links.lead_through(port, bridge)
            else:
                links.move(moved, port, bridge)
        if spec.forwards_packets:
            settings = sysctls.SettingsRecord(self._store.settings)
            settings.acquire(spec.name, sysctls.wanted_for_forwarding({a.version for a in spec.addresses}))
        if spec.needs_rules:
            self._store.save(replace(record, has_rules=True))
            self._apply_rules()
        if any(forward.address.version == 4 for forward in spec.forwards):
            sysctls.write(f"ipv4/conf/{spec.bridge}/route_localnet", "1")
        if spec.has_services:
            dnsmasq.start(spec, self._store.files(spec.name))

    def _apply_rules(self, without: str | None = None) -> None:
        records = [self._store.load(name) for name in self._store.names() if name != without]
        nft.apply(rules.render(record.spec for record in records if record is not None))

    # -- removing -----------------------------------------------------------------------------------------------------

    def _undo(self, links: Links, record: NetworkRecord) -> None:
        """Remove everything of `record`, whatever part of it exists. Raises HostNetError, the record kept."""
        spec = record.spec
        dnsmasq.stop(self._store.files(spec.name))
        present = links.all()
        bridge = _own_bridge(record, present)
        if bridge is not None:
            for name in spec.ports:
                moved = record.moved.get(name)
                port = next((link for link in present if link.name == name and link.master == bridge.index), None)
                if port is not None:
                    links.detach(name, bridge)
                    if moved is not None:
                        back = Moved(tuple(moved["addresses"]), tuple(moved["routes"]))
                        links.move(back, bridge, port)
            owned = {tap.name for tap in spec.taps}
            for link in present:
                if link.name in owned and link.kind == "tun" and link.master == bridge.index:
                    links.delete(link.name)
            links.delete(spec.bridge)
            for name in spec.ports:
                links.announce_addresses(name)
        if record.has_rules:
            self._apply_rules(without=spec.name)
        sysctls.SettingsRecord(self._store.settings).release(spec.name)
        self._store.forget(spec.name)


def _own_bridge(record: NetworkRecord, present: list[Link]) -> Link | None:
    """The bridge that was made for `record`; another of the same name is not ours."""
    for link in present:
        if link.name == record.spec.bridge and link.kind == "bridge" and link.mac == record.bridge_mac:
            return link
    return None
