"""Every domain of one driver: found by name, UUID and id, kept on disk, brought back when the daemon starts."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from typing import TYPE_CHECKING, Any

from lxml import etree

from pyhyve.daemon.domains import checkpoints, lifecycle, reconnect, snapshots
from pyhyve.daemon.domains.definition.parse import parse_domain
from pyhyve.daemon.domains.domain import ManagedDomain, StoredDefinition
from pyhyve.daemon.domains.faults import failed, invalid
from pyhyve.daemon.domains.hypervisor import MachineRecord
from pyhyve.daemon.domains.states import DefinedDetail, LifecycleEvent
from pyhyve.daemon.domains.trees import KeptTrees
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence

    from pyhyve.daemon.connection import Connection
    from pyhyve.daemon.daemon import Daemon
    from pyhyve.daemon.domains.hypervisor import Hypervisor
    from pyhyve.daemon.domains.migration.incoming import Incoming
    from pyhyve.daemon.drivers.api import Driver
    from pyhyve.daemon.store import Store
    from pyhyve.rpc.values import DhcpLease
    from pyhyve.rpc.values import Domain as DomainRef
    from pyhyve.xml.domain import Domain

__all__ = ["DomainRegistry"]

_log = logging.getLogger(__name__)


class DomainRegistry:
    """The domains of one driver. Drivers offer it under its class."""

    def __init__(
        self, daemon: Daemon, driver: Driver, hypervisor: Hypervisor, name: str, store: Store | None = None
    ) -> None:
        """Domains are kept in a store, below ``name``: the daemon's, if none is given."""
        store = store or daemon.store
        self.daemon = daemon
        self.driver = driver
        self.hypervisor = hypervisor
        self.state_directory = daemon.paths.state / name
        self.by_uuid: dict[bytes, ManagedDomain] = {}
        self.by_name: dict[str, ManagedDomain] = {}
        self.by_id: dict[int, ManagedDomain] = {}
        self._last_id = 0
        self.definitions = store.collection(
            f"{name}/domains", suffix=".xml", parse=_parse_definition, form=_form_definition
        )
        self.autostarts = store.collection(f"{name}/autostart", suffix=".on", parse=bool, form=lambda _: b"yes\n")
        self.records = store.collection(
            f"{name}/machines", suffix=".json", parse=_parse_record, form=_form_record, runtime=True
        )
        self.snapshots = KeptTrees(
            store.collection(f"{name}/snapshots", suffix=".json", parse=snapshots.parse_tree, form=snapshots.form_tree),
            snapshots.SnapshotTree,
        )
        self.checkpoints = KeptTrees(
            store.collection(
                f"{name}/checkpoints", suffix=".json", parse=checkpoints.parse_tree, form=checkpoints.form_tree
            ),
            checkpoints.CheckpointTree,
        )
        self._identity = store.collection(
            f"{name}/identity", suffix=".uuid", parse=lambda data: str(uuid.UUID(data.decode())), form=str.encode
        )
        self.leases: Callable[[str, str], Awaitable[Sequence[DhcpLease]]] | None = None
        """Set by the networks: the leases of a network's name that a MAC address has."""
        self.listeners: list[Callable[[ManagedDomain, str, dict[str, Any], float], None]] = []
        self.watched: set[Connection] = set()
        self.managed_saves: set[str] | None = None
        """Names of the domains that have a managed save, once somebody looked."""
        self.incoming: dict[str, Incoming] = {}
        """Migrations that were prepared here and are not finished, by the name the domain gets."""
        self._host_uuid = ""
        self.stopping = False
        """Machines are let go, one after the other."""

    # -- finding ------------------------------------------------------------------------------------------------------

    def find(self, ref: DomainRef) -> ManagedDomain:
        """Return the domain a client means. Raises LibvirtError."""
        found = self.by_uuid.get(ref.uuid)
        if found is None:
            detail = f"no domain with matching uuid '{uuid.UUID(bytes=ref.uuid)}' ({ref.name})"
            raise LibvirtError(ErrorCode.NO_DOMAIN, ErrorDomain.QEMU, detail)
        return found

    def __iter__(self) -> Iterator[ManagedDomain]:
        return iter(list(self.by_uuid.values()))

    def ordered(self) -> list[ManagedDomain]:
        """Return every domain by name."""
        return [domain for _, domain in sorted(self.by_name.items())]

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run something beside everything else."""
        return self.daemon.spawn(work, name)

    async def host_uuid(self) -> str:
        """Return what this instance of the daemon calls itself to others: kept, and no other's on the same host."""
        if not self._host_uuid:
            held = await self.daemon.run_blocking(self._identity.load)
            if "host" not in held:
                held["host"] = str(uuid.uuid4())
                await self._identity.save("host", held["host"])
            self._host_uuid = held["host"]
        return self._host_uuid

    # -- defining -----------------------------------------------------------------------------------------------------

    async def complete(self, text: str, *, validate: bool = False) -> Domain:
        """Parse a document and make it whole. Raises LibvirtError."""
        return await self.daemon.run_blocking(lambda: self.hypervisor.complete(parse_domain(text, validate=validate)))

    async def complete_parsed(self, domain: Domain) -> Domain:
        """Make a parsed definition whole. Raises LibvirtError."""
        return await self.daemon.run_blocking(self.hypervisor.complete, domain)

    def check_unique(self, definition: Domain, *, inactive_only: bool = False) -> ManagedDomain | None:
        """Return the domain a definition is about, or None where it is new. Raises LibvirtError for a clash."""
        identity = uuid.UUID(definition.uuid or "").bytes
        found = self.by_uuid.get(identity)
        if found is not None:
            if found.name != definition.name:
                raise failed(
                    f"domain '{found.name}' is already defined with uuid {found.uuid_text}", ErrorDomain.DOMAIN
                )
            if inactive_only and found.active:
                raise invalid(f"domain '{found.name}' is already active", ErrorDomain.DOMAIN)
            return found
        other = self.by_name.get(definition.name)
        if other is not None:
            raise failed(f"domain '{other.name}' already exists with uuid {other.uuid_text}", ErrorDomain.DOMAIN)
        return None

    def add(self, definition: Domain) -> ManagedDomain:
        """Add a domain that is new."""
        domain = ManagedDomain(self, definition.name, uuid.UUID(definition.uuid or "").bytes)
        self.by_uuid[domain.uuid] = domain
        self.by_name[domain.name] = domain
        return domain

    async def define(self, definition: Domain, *, detail: DefinedDetail | None = None) -> ManagedDomain:
        """Define a domain, or change what it is the next time. Raises LibvirtError."""
        domain = self.check_unique(definition)
        is_new = domain is None
        if domain is None:
            domain = self.add(definition)
        was_persistent = domain.persistent
        before, domain.definition = domain.definition, definition
        try:
            await domain.save_definition()
        except OSError as error:
            domain.definition = before
            if is_new:
                self.remove(domain)
            raise failed(f"cannot keep the definition of '{definition.name}': {error.strerror}") from error
        domain.updated = domain.active
        kind = DefinedDetail.UPDATED if was_persistent else DefinedDetail.ADDED
        domain.lifecycle(LifecycleEvent.DEFINED, kind if detail is None else detail)
        return domain

    def remove(self, domain: ManagedDomain) -> None:
        """Forget a domain."""
        domain.removed = True
        if self.by_uuid.get(domain.uuid) is domain:
            del self.by_uuid[domain.uuid]
        if self.by_name.get(domain.name) is domain:
            del self.by_name[domain.name]
        self.by_id.pop(domain.id, None)

    def next_id(self) -> int:
        """Return the id of the next machine."""
        self._last_id += 1
        return self._last_id

    # -- domains that end with a client -------------------------------------------------------------------------------

    def watch(self, connection: Connection) -> None:
        """Have domains whose owner this client is end when it is gone."""
        if connection not in self.watched:
            self.watched.add(connection)
            connection.on_close(self._client_gone)

    def _client_gone(self, connection: Connection) -> None:
        self.watched.discard(connection)
        for domain in self:
            if domain.owner is connection and domain.machine is not None:
                self.spawn(_end_quietly(domain), f"ending {domain.name} with its client")

    # -- the daemon's life --------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read definitions, find machines, start what starts by itself."""
        held = await self.daemon.run_blocking(self.definitions.load)
        for name, stored in held.items():
            if stored.name != name:
                _log.warning("the definition of %s is in the file of %s", stored.name, name)
            if stored.uuid in self.by_uuid or stored.name in self.by_name:
                _log.error("leaving out a definition: there is another of '%s' or its UUID", stored.name)
                continue
            domain = ManagedDomain(self, stored.name, stored.uuid)
            self.by_uuid[domain.uuid] = self.by_name[domain.name] = domain
            domain.take_stored(stored)
        for name in await self.daemon.run_blocking(self.autostarts.load):
            if name in self.by_name:
                self.by_name[name].autostart = True
        await self.daemon.run_blocking(self.snapshots.load, self)
        await self.daemon.run_blocking(self.checkpoints.load, self)
        records = await self.daemon.run_blocking(self.records.load)
        self._last_id = max((record.id for record in records.values()), default=0)
        await asyncio.gather(*(reconnect.reconnect(self, record) for record in records.values()))
        self.spawn(reconnect.autostart(self), "autostart")

    async def stop(self) -> None:
        """Hang up on every machine and let them go on."""
        self.stopping = True
        for domain in self:
            if domain.machine is not None:
                await domain.save_record()
                domain.machine.forget()
                domain.machine = None

    def reload(self) -> None:
        """Nothing to read again."""

    # -- what machines say --------------------------------------------------------------------------------------------

    def machine_event(self, domain: ManagedDomain, name: str, data: dict[str, Any], when: float) -> None:
        """Hand an event on to who deals with it."""
        for listener in self.listeners:
            listener(domain, name, data, when)

    def machine_gone(self, domain: ManagedDomain, status: int | None) -> None:
        """Deal with a machine that ended."""
        self.spawn(lifecycle.ended(domain, status), f"the end of {domain.name}")

    def set_active(self, domain: ManagedDomain, number: int) -> None:
        """Note that a domain has a machine with that id, or (-1) none."""
        self.by_id.pop(domain.id, None)
        domain.id = number
        if number >= 0:
            self.by_id[number] = domain
            self._last_id = max(self._last_id, number)


async def _end_quietly(domain: ManagedDomain) -> None:
    try:
        await lifecycle.destroy(domain)
    except LibvirtError as error:
        _log.info("%s: %s", domain.name, error)


def _parse_definition(data: bytes) -> StoredDefinition:
    """Read as much of a definition as it takes to find it again."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    try:
        root = etree.fromstring(data, parser)
        name, identity = root.findtext("name"), uuid.UUID(root.findtext("uuid") or "").bytes
        if root.tag != "domain" or not name:
            msg = "not a definition"
            raise ValueError(msg)
        return StoredDefinition(name, identity, data.decode())
    except etree.XMLSyntaxError as error:
        msg = f"not a definition: {error}"
        raise ValueError(msg) from error


def _form_definition(stored: StoredDefinition) -> bytes:
    return stored.text.encode()


def _parse_record(data: bytes) -> MachineRecord:
    return MachineRecord.from_json(json.loads(data))


def _form_record(record: MachineRecord) -> bytes:
    return json.dumps(record.to_json(), indent=1).encode()
