"""One domain: its definition, and its machine while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains.definition.parse import parse_live_domain
from pyhyve.daemon.domains.definition.view import format_domain, format_whole
from pyhyve.daemon.domains.faults import invalid, not_supported
from pyhyve.daemon.domains.migration.spec import BANDWIDTH_MAX_MIB
from pyhyve.daemon.domains.states import Affect, DomainState, LifecycleEvent, ShutoffReason
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.events import DomainEvent, EventKind
from pyhyve.daemon.qmp import QmpClosed, QmpError, QmpTimeout
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.rpc.values import Domain as DomainRef
from pyhyve.xml.devices import Devices

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from pyhyve.daemon.connection import Connection
    from pyhyve.daemon.dispatch import Encoded
    from pyhyve.daemon.domains.hypervisor import Machine, MachineRecord
    from pyhyve.daemon.domains.registry import DomainRegistry
    from pyhyve.xml.domain import Domain

__all__ = ["JOB_WAIT_S", "AsyncJob", "ManagedDomain", "StoredDefinition"]

JOB_WAIT_S: Final = 30.0
"""How long a change waits for the one under way."""


@dataclass(frozen=True, slots=True)
class StoredDefinition:
    """A definition as it is kept."""

    name: str
    uuid: bytes
    text: str


class AsyncJob:
    """Long work on a domain that can be asked about and given up: saving, dumping, a snapshot."""

    def __init__(self, operation: int) -> None:
        self.operation = operation
        """virDomainJobOperation."""
        self.started = time.monotonic()
        self.progress: dict[str, int] = {}
        self.aborted = asyncio.Event()
        """Set once it is to be given up, by who waits for its end."""
        self.over = asyncio.Event()
        """Set once nothing is left of a job that was given up."""
        self.migrating = False
        """The machine's state is being written, so that it can be told to give up."""

    @property
    def elapsed_ms(self) -> int:
        """How long it has been going on."""
        return int((time.monotonic() - self.started) * 1000)


class ManagedDomain:
    """One domain. Changes happen on the event loop, under :meth:`job`; looking needs no lock."""

    def __init__(self, registry: DomainRegistry, name: str, identity: bytes) -> None:
        self.registry = registry
        self.name = name
        self.uuid = identity
        self.id = -1
        self._definition: Domain | None = None
        self._stored: StoredDefinition | None = None
        self._whole: tuple[Domain, str] | None = None
        self._texts: dict[tuple[bool, bool], tuple[Domain, str]] = {}
        self.live: Domain | None = None
        """What runs now."""
        self.state = DomainState.SHUTOFF
        self.reason: int = ShutoffReason.UNKNOWN
        self.machine: Machine | None = None
        self.record: MachineRecord | None = None
        self.autostart = False
        self.migration_speed_mib = BANDWIDTH_MAX_MIB
        """How much of its state its machine may send in a second."""
        self.agent_timeout_s = -1
        """How long its guest's agent may take to answer (:func:`pyhyve.daemon.domains.agent.set_timeout`)."""
        self.updated = False
        """The definition was changed while it ran."""
        self.async_job: AsyncJob | None = None
        self.last_job: tuple[int, dict[str, int | str]] | None = None
        self.removed = False
        self.owner: Connection | None = None
        """The connection it ends with (autodestroy)."""
        self.parts: dict[str, Any] = {}
        """What modules of this package keep with it while it runs."""
        self.statistics_at_rest: tuple[Domain, tuple[object, ...], Encoded] | None = None
        """What :mod:`~pyhyve.daemon.domains.statistics` keeps while it does not run."""
        self.sizes: tuple[Domain, tuple[int, int, int]] | None = None
        """Memory at most and now in KiB, and processors, of the definition that was asked about last."""
        self.gone = asyncio.Event()
        self.changed = asyncio.Event()
        self._lock = asyncio.Lock()
        self._holder = ""

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def ref(self) -> DomainRef:
        """How it is named in answers and events."""
        return DomainRef(self.name, self.uuid, self.id)

    @property
    def uuid_text(self) -> str:
        """Its UUID as text."""
        return str(uuid.UUID(bytes=self.uuid))

    @property
    def active(self) -> bool:
        """Whether it has a machine."""
        return self.id >= 0

    @property
    def is_left(self) -> bool:
        """Whether the daemon stops and let go of it: it runs on, and what its record says is for the next daemon."""
        return self.registry.stopping and self.active and self.machine is None

    @property
    def definition(self) -> Domain | None:
        """What it is the next time it starts; None where it is transient. Read when somebody asks for it."""
        if self._stored is not None:
            self._definition = parse_live_domain(self._stored.text)
            self._stored = None
        return self._definition

    @definition.setter
    def definition(self, definition: Domain | None) -> None:
        self._definition, self._stored = definition, None

    def take_stored(self, stored: StoredDefinition) -> None:
        """Have a definition that was kept and is not read yet."""
        self._definition, self._stored = None, stored

    @property
    def persistent(self) -> bool:
        """Whether it stays when its machine ends."""
        return self._definition is not None or self._stored is not None

    @property
    def current(self) -> Domain:
        """What runs now, else the definition."""
        held = self.live if self.live is not None else self.definition
        if held is None:
            raise self.missing()
        return held

    @property
    def devices(self) -> Devices:
        """Devices of :attr:`current`."""
        return self.current.devices or Devices()

    def missing(self) -> LibvirtError:
        """It is gone."""
        detail = f"no domain with matching uuid '{self.uuid_text}' ({self.name})"
        return LibvirtError(ErrorCode.NO_DOMAIN, ErrorDomain.QEMU, detail)

    def require_active(self, domain: ErrorDomain = ErrorDomain.DOMAIN) -> Machine:
        """Return its machine. Raises LibvirtError where it does not run."""
        if self.machine is None or not self.active:
            raise invalid("domain is not running", domain)
        return self.machine

    def affected(self, flags: int) -> Affect:
        """Return what a change with these flags is made to: LIVE, CONFIG or both. Raises LibvirtError."""
        affect = Affect(flags & 3)
        if affect is Affect.CURRENT:
            affect = Affect.LIVE if self.active else Affect.CONFIG
        if affect & Affect.LIVE and not self.active:
            raise invalid("domain is not running", ErrorDomain.DOMAIN)
        if affect & Affect.CONFIG and not self.persistent:
            raise invalid("transient domains do not have any persistent config", ErrorDomain.DOMAIN)
        return affect

    def definitions_affected(self, affect: Affect) -> list[Domain]:
        """Return what a change is made to: what runs, the definition, or both."""
        held = (self.live if affect & Affect.LIVE else None, self.definition if affect & Affect.CONFIG else None)
        return [definition for definition in held if definition is not None]

    def looked_at(self, flags: int) -> Domain:
        """Return the definition a question with these flags is about. Raises LibvirtError."""
        affect = self.affected(flags)
        held = self.live if affect & Affect.LIVE else self.definition
        if held is None:
            raise self.missing()
        return held

    # -- its machine --------------------------------------------------------------------------------------------------

    async def monitor(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        *,
        fds: Sequence[int] = (),
        timeout_s: float = 120.0,
    ) -> Any:
        """Run a command on its machine. Raises LibvirtError, worded as libvirt does."""
        machine = self.require_active()
        if not machine.has(command):
            raise not_supported(f"this emulator has no command '{command}'")
        try:
            return await machine.execute(command, arguments, fds=fds, timeout_s=timeout_s)
        except QmpError as error:
            detail = f"unable to execute QEMU command '{command}': {error.description}"
            raise LibvirtError(ErrorCode.INTERNAL_ERROR, ErrorDomain.QEMU, detail) from error
        except QmpTimeout as error:
            detail = f"cannot run monitor command '{command}': the machine does not answer"
            raise LibvirtError(ErrorCode.OPERATION_TIMEOUT, ErrorDomain.QEMU, detail) from error
        except QmpClosed as error:
            raise invalid("domain is not running") from error

    def has_command(self, command: str) -> bool:
        """Whether its machine knows a command."""
        return self.machine is not None and self.machine.has(command)

    def set_state(self, state: DomainState, reason: int) -> None:
        """Note the state it is in."""
        self.state, self.reason = state, reason
        self.notify()
        if self.record is not None:
            self.record.state, self.record.reason = int(state), int(reason)
            self.keep_record()

    def notify(self) -> None:
        """Wake who waits for something to change."""
        self.changed.set()
        self.changed = asyncio.Event()

    def keep_record(self) -> None:
        """Write its machine's record, without waiting for it."""
        record = self.record
        if record is not None and record.pid:
            self.registry.spawn(self.save_record(), f"keeping the record of {self.name}")

    async def save_record(self) -> None:
        """Write its machine's record."""
        if self.record is not None:
            if self.live is not None:
                self.record.live = self._whole_text(self.live)
            self.record.name = self.name
            await self.registry.records.save(self.uuid_text, self.record)

    async def save_definition(self) -> None:
        """Write its definition."""
        if self.definition is not None:
            text = self.text_of(self.definition, secure=True)
            await self.registry.definitions.save(self.name, StoredDefinition(self.name, self.uuid, text))

    def _whole_text(self, held: Domain) -> str:
        """Return the document of what runs for its record, written once for as long as it is the same."""
        if self._whole is None or self._whole[0] is not held:
            self._whole = (held, format_whole(held))
        return self._whole[1]

    def text_of(self, held: Domain, *, secure: bool) -> str:
        """Return the document of what runs or of the definition, written once for as long as it is the same."""
        key = (held is self.live, secure)
        known = self._texts.get(key)
        if known is None or known[0] is not held:
            known = self._texts[key] = (held, format_domain(held, secure=secure))
        return known[1]

    # -- events -------------------------------------------------------------------------------------------------------

    def publish(self, event: DomainEvent, *details: object) -> None:
        """Tell who listens."""
        self.registry.daemon.events.publish(self.registry.driver, EventKind.DOMAIN, event, self.ref, *details)

    def lifecycle(self, event: LifecycleEvent, detail: int) -> None:
        """Tell who listens that its life went on."""
        self.publish(DomainEvent.LIFECYCLE, int(event), int(detail))

    # -- one change at a time -----------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def job(self, what: str = "modify") -> AsyncIterator[None]:
        """Have the domain to oneself. Raises LibvirtError where another change takes too long, or it is gone."""
        try:
            async with asyncio.timeout(JOB_WAIT_S):
                await self._lock.acquire()
        except TimeoutError as error:
            detail = f"cannot acquire state change lock (held by monitor={self._holder})"
            raise LibvirtError(ErrorCode.OPERATION_TIMEOUT, ErrorDomain.QEMU, detail) from error
        self._holder = what
        try:
            if self.removed:
                raise self.missing()
            yield
        finally:
            self._holder = ""
            self._lock.release()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """As :meth:`job`, for what has to happen however long it takes, and to a domain that is gone."""
        async with self._lock:
            yield

    @property
    def busy_with(self) -> str:
        """What change is under way."""
        return self._holder

    def check_no_async_job(self) -> None:
        """Raise LibvirtError where long work goes on that leaves the domain to others: a backup."""
        if self.async_job is not None:
            detail = "cannot acquire state change lock (held by monitor=backup)"
            raise LibvirtError(ErrorCode.OPERATION_TIMEOUT, ErrorDomain.QEMU, detail)

    @contextlib.asynccontextmanager
    async def long_job(self, operation: int, what: str) -> AsyncIterator[AsyncJob]:
        """As :meth:`job`, for work others may ask about and give up."""
        async with self.job(what):
            self.check_no_async_job()
            job = AsyncJob(operation)
            self.async_job = job
            try:
                yield job
            finally:
                self.async_job = None
                self.last_job = (job.operation, {"time_elapsed": job.elapsed_ms, **job.progress})

    # -- what its machine says ----------------------------------------------------------------------------------------

    def machine_event(self, name: str, data: dict[str, Any], when: float) -> None:
        """The machine says something."""
        self.registry.machine_event(self, name, data, when)

    def machine_gone(self, status: int | None) -> None:
        """The machine ended."""
        self.registry.machine_gone(self, status)
