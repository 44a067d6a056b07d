"""The contract with what runs machines.

A :class:`Hypervisor` makes a definition ready, starts a machine from it, and finds machines that were started before
the daemon was. A :class:`Machine` is steered by QMP commands; what happens to it is told to a :class:`MachineListener`.
Another hypervisor is one module with these two classes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pyhyve.daemon.domains.emulators import Emulators
    from pyhyve.daemon.networks.bandwidth import Bandwidth
    from pyhyve.xml.character import Channel
    from pyhyve.xml.devices import Devices
    from pyhyve.xml.disk import Disk
    from pyhyve.xml.domain import Domain
    from pyhyve.xml.interface import Interface

__all__ = ["Hypervisor", "Machine", "MachineListener", "MachineRecord", "NetworkSource"]


class MachineListener(Protocol):
    """Who is told what happens to a machine, on the event loop."""

    def machine_event(self, name: str, data: dict[str, Any], when: float) -> None:
        """The machine says something (an event of QMP)."""

    def machine_gone(self, status: int | None) -> None:
        """The machine ended; its exit status where it is known."""


class Machine(Protocol):
    """A machine that runs."""

    pid: int
    """Its process."""

    def time_ns(self) -> int:
        """Nanoseconds it ran. Must not wait: this is asked again and again."""

    def times_ns(self) -> tuple[int, int]:
        """Nanoseconds it ran as itself and in the kernel. Must not wait either."""

    def has(self, command: str) -> bool:
        """Whether it knows a command."""

    async def execute(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        *,
        fds: Sequence[int] = (),
        timeout_s: float = 120.0,
    ) -> Any:
        """Run a command. Raises QmpError where it is refused, QmpClosed where the machine is gone, QmpTimeout."""

    async def end(self, *, gracefully: bool) -> bool:
        """End its process, at once or (``gracefully``) by a signal it can obey; whether it is gone."""

    def forget(self) -> None:
        """Leave it alone: hang up, and let it go on."""


@dataclass(slots=True)
class MachineRecord:
    """What is kept about a machine while it runs, so that a daemon that starts later finds it."""

    uuid: str
    name: str
    id: int
    pid: int
    start_time: int
    """When its process started, in the kernel's ticks: a process id alone may be somebody else's by now."""
    boot_id: str
    """The host's boot it runs in."""
    emulator: str
    monitor: str
    log: str
    live: str
    """Its live definition."""
    state: int
    reason: int
    started: float = 0.0
    autodestroy: bool = False
    transient: bool = False
    taps: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    """What parts of the daemon keep with it."""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, held: dict[str, Any]) -> MachineRecord:
        """Return it from plain values. Raises ValueError."""
        names = {item.name for item in fields(cls)}
        try:
            return cls(**{name: value for name, value in held.items() if name in names})
        except TypeError as error:
            msg = f"not a machine's record: {error}"
            raise ValueError(msg) from error


class NetworkSource(Protocol):
    """Where network interfaces of one type get their host's end."""

    async def connect(self, interface: Interface, name: str) -> tuple[str, int]:
        """Make the host's end called ``name``; return its name and an open tap. Raises LibvirtError."""

    async def disconnect(self, interface: Interface, name: str) -> None:
        """Undo it; what is gone already is no error."""

    async def limit(self, interface: Interface, name: str, bandwidth: Bandwidth) -> None:
        """Limit what passes the host's end. Raises LibvirtError."""


class Hypervisor(Protocol):
    """What runs machines."""

    emulators: Emulators
    sources: Mapping[str, NetworkSource]
    """Who connects network interfaces, by type."""

    def complete(self, domain: Domain) -> Domain:
        """Return a definition made whole, as it is kept. Raises LibvirtError. May block, on a thread."""

    def nvram_path(self, domain: Domain) -> Path | None:
        """Return where a machine of this definition keeps its firmware's variables, if it has any."""

    async def prepare(self, domain: Domain, number: int) -> Domain:
        """Return the live definition of a machine about to start, with everything chosen. Raises LibvirtError."""

    async def launch(
        self, domain: Domain, record: MachineRecord, listener: MachineListener, *, incoming: str | None = None
    ) -> tuple[Machine, Domain]:
        """Start a machine with its processors stopped; return it, and its definition with what only it knew.

        Fills ``record`` in. Raises LibvirtError; then nothing is left of it.
        """

    async def adopt(self, record: MachineRecord, listener: MachineListener) -> Machine | None:
        """Return the machine a record is about, or None where it is gone. Raises LibvirtError where it is stuck."""

    async def clean_up(self, record: MachineRecord, domain: Domain) -> None:
        """Remove what a machine that ended left on the host."""

    async def connect_interface(self, interface: Interface, owner: Domain | None = None) -> tuple[str, int]:
        """Make the host's end of an interface; return its name and an open tap. Raises LibvirtError."""

    async def disconnect_interface(self, interface: Interface) -> None:
        """Undo :meth:`connect_interface`."""

    async def limit_interface(self, interface: Interface) -> None:
        """Have an interface's limits (``<bandwidth>``) hold from now on. Raises LibvirtError."""

    def free_tap_name(self) -> str:
        """Return the name of the next tap."""

    def device_commands(
        self, devices: Devices, name: str, device: Any
    ) -> list[tuple[str, dict[str, Any], tuple[str, dict[str, Any]] | None]]:
        """Return the commands that add a device to a machine, each with what undoes it. Raises LibvirtError."""

    def disk_nodes(self, disk: Disk) -> list[dict[str, Any]]:
        """Return the block nodes of a disk, the lowest first."""

    async def prepare_disk(self, disk: Disk, number: int) -> Disk:
        """Return a disk with its images looked up and numbered from ``number``. Raises LibvirtError."""

    def prepare_channel(self, channel: Channel, number: int, name: str) -> Channel:
        """Return a channel with the path of its socket, for machine ``number`` of domain ``name``."""

    async def command_preview(self, domain: Domain) -> Sequence[str]:
        """Return the command line a definition would be started with. Raises LibvirtError."""

    def runtime_directory(self, name: str) -> Path:
        """Directory of a machine's sockets."""
