"""What both engines offer the machine above them: a `Vm`, its `Vcpu`s, and typed exits.

Nothing above this package knows whether KVM or the translator runs the guest. May import from `memory`, `kvm`,
`cpu` and `support` only.

Threads: a `Vcpu` is run by one thread at a time. `kick`, `set_interrupt`, `raise_nmi` and the interrupt chip's
methods may be called from any thread.
"""

from __future__ import annotations

from pyhyve.support.enums import IntEnum
from pyhyve.support.hints import Protocol, runtime_checkable
from pyhyve.support.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pyhyve.accel.routes import MessageRoute
    from pyhyve.memory.dirty import DirtyTable
    from pyhyve.memory.guest import GuestMemory


class ExitKind(IntEnum):
    """Why a vCPU left guest mode."""

    IO = 0
    """Port access: `address` is the port, `size` 1, 2 or 4 bytes. For a read, set `value` before the next run."""
    MMIO = 1
    """Access to a guest physical address that no memory region backs; `size` is 1, 2, 4 or 8 bytes."""
    HALT = 2
    """HLT with nothing to deliver: sleep until an interrupt, NMI or kick."""
    KICKED = 3
    """`Vcpu.kick` was called, or a signal arrived."""
    INTERRUPT_WINDOW = 4
    """The interrupt line is high and the guest can take it: call `Vcpu.inject` with the acknowledged vector."""
    SHUTDOWN = 5
    """Triple fault."""
    SYSTEM_EVENT = 6
    """The guest asked the engine itself to reset or power off (`address` holds the engine's event number)."""
    MSR_READ = 7
    """RDMSR of a register the machine owns (`address` is the MSR): set `value`, or `failed` for #GP."""
    MSR_WRITE = 8
    """WRMSR of a register the machine owns; `value` is what was written; set `failed` for #GP."""
    INTERNAL_ERROR = 9
    """The engine cannot go on; `message` says why."""


class VcpuExit:
    """One exit. Each vCPU owns a single instance and fills it anew on every `Vcpu.run`: copy what must last."""

    __slots__ = ("address", "failed", "is_write", "kind", "message", "size", "value")

    def __init__(self) -> None:
        self.kind = ExitKind.KICKED
        self.address = 0
        self.size = 0
        self.is_write = False
        self.value = 0
        self.failed = False
        self.message = ""


class Vcpu(Protocol):
    """One virtual CPU."""

    index: int
    exit: VcpuExit

    def run(self) -> VcpuExit:
        """Run guest code, with the GIL released, until something needs the machine. Returns `self.exit`."""

    def kick(self) -> None:
        """Make a `run` in progress, or else the next one, return with `ExitKind.KICKED` soon."""

    def set_interrupt(self, *, pending: bool) -> None:
        """Drive the INTR input: while high and IF allows, `run` returns `ExitKind.INTERRUPT_WINDOW`."""

    def inject(self, vector: int) -> None:
        """Deliver external interrupt `vector` (0-255) at the start of the next run."""

    def raise_nmi(self) -> None:
        """Latch a non-maskable interrupt."""

    def read_registers(self) -> Mapping[str, int]:
        """General, control and segment registers by lower-case manual name (`rax`, `rip`, `cr0`, `cs.base`…)."""

    def write_registers(self, values: Mapping[str, int]) -> None:
        """Set registers by the names of `read_registers`; a name not given keeps its value."""

    def reset(self) -> None:
        """Put the processor in its state after RESET (SDM Vol. 3A, 10.1.1)."""


class ApicVectors(Protocol):
    """A local APIC's vectors, each a bit of `irr` (requested), `isr` (in service), `tmr` (level-triggered).

    They may be where an engine takes and ends interrupts by itself, also while others look; `post` is the one change
    that may be made meanwhile.
    """

    irr: int
    isr: int
    tmr: int
    tpr: int
    """Task priority, 0 to 255."""
    enabled: bool
    """Whether the processor takes vectors."""

    def post(self, vector: int, *, is_level: bool) -> None:
        """Request a vector."""


@runtime_checkable
class ApicVcpu(Protocol):
    """A vCPU that takes the local APIC's interrupts, and ends edge-triggered ones, by itself.

    `set_interrupt` is for the other chips' interrupts then, and `inject` follows them only.
    """

    apic_vectors: ApicVectors

    def sleep_by_itself(self) -> None:
        """From now on `run` does not return at HLT, but waits for an interrupt, an NMI or a kick, which ends it."""

    def rest(self) -> None:
        """Begin the next `run` asleep: a kick ended the last one in HLT."""

    def look_for_interrupts(self) -> None:
        """Vectors were posted, or more of them can be taken now; any thread."""


@runtime_checkable
class TimeKeeper(Protocol):
    """An engine with clocks of its own, which must agree with the machine's when it is saved, restored, or leaps."""

    def set_instant(self, monotonic_ns: int) -> None:
        """The moment, on the host's monotonic clock, whose time `save` gives, and from which `load` lets it go on."""

    def advance_time(self, duration_ns: int) -> None:
        """Let the guest's time-stamp counters and clocks of the engine jump ahead; no vCPU may run."""

    def sleeps(self, index: int) -> bool:
        """Whether vCPU `index` waits in the engine for an interrupt; no vCPU may run."""

    def has_interrupt_pending(self) -> bool:
        """Whether a vCPU has not yet served an interrupt that the engine knows of; no vCPU may run."""


@runtime_checkable
class DirtyLogger(Protocol):
    """An engine that can tell which pages of guest memory its vCPUs write. It costs nothing until it is asked to.

    While any of these is called no vCPU runs. What devices write they mark themselves (`GuestMemory.on_write`), also
    where compiled code does their work.
    """

    def start_dirty_log(self, table: DirtyTable) -> None:
        """Mark in `table` what is written from now on; `sync_dirty_log` says when it is there."""

    def sync_dirty_log(self) -> None:
        """Have all marks in the table, and a mark made again for the next write to each page, marked now or not."""

    def stop_dirty_log(self) -> None:
        """Leave off; idempotent."""


@runtime_checkable
class BufferedReads(Protocol):
    """An engine that can read many elements from a port at once, where an exit for each costs much."""

    def on_buffered_read(self, port: int, take: Callable[[int, int], bytes]) -> None:
        """Let string instructions call `take(most, size)` on a vCPU's thread, without the machine lock.

        It gives up to `most` bytes, a multiple of `size`, as reads of `size` bytes at `port` would have; it need not
        give any, and leaves those whose reading has other effects.
        """


class InterruptChip(Protocol):
    """The interrupt controllers as a whole, in the kernel (KVM) or in the machine (translator)."""

    def set_gsi(self, gsi: int, *, level: bool) -> None:
        """Drive global system interrupt `gsi`; the chip knows whether it is edge- or level-triggered."""

    def send_msi(self, address: int, data: int) -> None:
        """Deliver a message-signalled interrupt."""


class QueueStatus(IntEnum):
    """Why `WalkedQueue.run` came back."""

    DONE = 0
    """There is nothing more to do. Send queues and disks ask for kicks again; for receive queues, packets ran out."""
    BUDGET = 1
    """There is more, but it is somebody else's turn."""
    UNUSUAL = 2
    """The next buffer needs the device's own code; nothing was done with it."""
    NO_BUFFERS = 3
    """Packets may wait for buffers; the driver was asked for a kick."""
    FILTER = 4
    """Field `length` tells of a packet in `first_bytes`: set `decision` to 1 to take it, or go on without it."""


@dataclass(frozen=True, slots=True)
class WalkedLayout:
    """A split ring: its size, where its descriptor, driver and device areas are, and what was negotiated for it."""

    size: int
    descriptor_gpa: int
    driver_gpa: int
    device_gpa: int
    event_index: bool
    indirect: bool
    kick_gpa: int | None
    """Where the driver's writes kick it, if that is known."""


class WalkedQueue(Protocol):
    """A split virtqueue that the engine serves by itself, in compiled code; the device's lock guards it.

    Fields are 64-bit numbers: `fd`; of disks and send queues `linger_us` (how long to wait for more buffers, while a
    vCPU runs, before the driver hears of those that were served); of disks `start_bytes`, `capacity_sectors`, `reads`
    and `writes` (what may be done here), and `read_count`, `read_bytes`, `write_count`, `write_bytes`, `write_end`
    (what was done in this run); of send queues `wanted_bytes` (the longest packet, with its header of 12 bytes); of
    receive queues `wanted_bytes`, `own_address` and `filtered` (which packets need a decision), `length`, `decision`,
    `undecided` (there is a packet that waits for one, since it was open), `held_bytes`. Of open ones, `next_used` and
    `quiet_at` may be read.
    """

    def set(self, **fields: int) -> None:
        """Write fields."""

    def get(self, name: str) -> int:
        """Read a field."""

    def run(
        self, kind: str, next_avail: int, next_used: int, published: int, in_flight: int
    ) -> tuple[int, int, int, int, int, int, int]:
        """Serve the queue as a `send`, `receive` or `disk` queue, from where it stands to where it then stands.

        The result begins like the arguments; then come the status, how many buffers or packets were served, and
        whether the driver wants an interrupt.
        """

    def first_bytes(self, count: int) -> bytes:
        """Of the packet that waits for a decision: what its first buffer holds of its first `count` bytes."""

    def open(self, next_avail: int, next_used: int, published: int, *, patient: bool) -> None:
        """Have a vCPU that kicks this send queue serve it by itself from here on, past the device.

        The device hears of a kick only when there is something left for it to do, an interrupt for instance; when it is
        `patient`, only for one that waits since a quarter of the ring was served.
        """

    def close(self) -> tuple[int, int, int, int] | None:
        """Undo `open`; returns when no vCPU serves it: where it stands now, and whether an interrupt is wanted.

        None when it was not open.
        """

    def listen(self, route: MessageRoute) -> int | None:
        """Have the vCPU that `route` leads to take packets of this receive queue while it sleeps, and interrupt itself.

        For queues that are closed; `open` lets it begin. The result is an event descriptor, which is signalled when
        something is left for the device, as a queue that is closed meanwhile is; None when it cannot be done.
        """

    def interrupt_by_itself(self, route: MessageRoute | None) -> bool:
        """Have vCPUs that serve this send queue interrupt its driver by `route`, a while after what they sent.

        For queues that are closed; None undoes it. False when it cannot be done. Field `quiet_at` is not 0 while there
        is something to tell the driver.
        """

    def deafen(self) -> None:
        """Undo `listen`; while closed. Idempotent."""

    def arrived(self) -> bool:
        """Take packets of a receive queue that is open, also while others do; False when something is left to do."""

    def release(self) -> None:
        """It is not served any more."""

    def take_held(self) -> bytes:
        """The packet that waits for buffers, if any; it is no longer here then."""


@runtime_checkable
class QueueWalker(Protocol):
    """An engine that can serve virtqueues by itself."""

    def walk_queue(self, layout: WalkedLayout) -> WalkedQueue | None:
        """Serve a split ring; None when it cannot. One that is kicked at the same address is not served any more."""


class Vm(Protocol):
    """One virtual machine: guest memory and vCPUs."""

    memory: GuestMemory
    has_kernel_irqchip: bool
    """True when the engine brings its own `InterruptChip`, timers included (`irqchip`)."""

    def create_vcpu(self, index: int) -> Vcpu:
        """Add a vCPU; `index` is also its initial APIC ID."""

    def irqchip(self) -> InterruptChip:
        """The engine's own interrupt chip; only when `has_kernel_irqchip`."""

    def on_notify(self, address: int, size: int, callback: Callable[[int], None], *, is_port: bool = False) -> None:
        """Call `callback(value)` for each guest write here, past the bus and without the machine lock.

        KVM (ioeventfd) calls it on a thread of its own, the translator on the vCPU's: it must not wait.
        """

    def close(self) -> None:
        """Free everything; idempotent."""
