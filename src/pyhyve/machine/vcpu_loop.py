"""One vCPU's thread: run guest code, dispatch exits, sleep while halted.

Hot path: every exit of the guest passes through `VcpuRunner._loop`.
"""

from __future__ import annotations

import threading
import time

from pyhyve.accel.api import ApicVcpu, ExitKind
from pyhyve.devices.irq.spec import LAPIC_BASE
from pyhyve.state.record import U8, record
from pyhyve.support.hints import Protocol
from pyhyve.support.logs import late_logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ClassVar

    from pyhyve.accel.api import Vcpu, VcpuExit
    from pyhyve.devices.bus import AddressMap
    from pyhyve.devices.irq.chip import ApicInterruptChip

_LOG = late_logger(__name__)
_IO, _MMIO, _HALT, _KICKED = ExitKind.IO, ExitKind.MMIO, ExitKind.HALT, ExitKind.KICKED
_WINDOW = ExitKind.INTERRUPT_WINDOW
_LAPIC_PAGE = LAPIC_BASE >> 12


class VcpuEvents(Protocol):
    """What a vCPU tells its machine; called on the vCPU's thread without the lock."""

    def vcpu_shutdown(self, index: int) -> None:
        """Triple fault."""

    def vcpu_failed(self, index: int, message: str) -> None:
        """The engine, or a device model, cannot go on."""

    def vcpu_system_event(self, index: int, event: int) -> None:
        """The guest asked the engine itself to stop or reset."""


@record
class VcpuRunnerState:
    """What of a processor's state is outside its engine: sleep, and the wait for a start-up message."""

    halted: bool
    waiting_for_startup: bool
    init_requested: bool
    startup_vector: U8 | None


class VcpuRunner:
    """Runs one vCPU; it is also the interrupt chip's `CpuPins` for it.

    `start`, `park`, `wait_parked`, `unpark` and `stop` belong to the machine's control thread; the pins may be
    driven from any thread.
    """

    state_type: ClassVar = VcpuRunnerState
    state_version: ClassVar = 1

    def __init__(
        self,
        vcpu: Vcpu,
        lock: threading.RLock,
        ports: AddressMap,
        memory: AddressMap,
        chip: ApicInterruptChip | None,
        events: VcpuEvents,
        trace: Callable[[int, VcpuExit], None] | None = None,
    ) -> None:
        """`chip` is None when the engine has interrupt controllers of its own; `trace` sees every exit."""
        self.vcpu = vcpu
        self._lock = lock
        self._ports = ports
        self._memory = memory
        self._chip = chip
        self._events = events
        self._trace = trace
        self._page = None if chip is None else chip.page_of(vcpu.index)
        self._intr = False
        self._nmi = False
        self._halted = False
        self._waiting_for_startup = False
        self._init_requested = False
        self._startup_vector: int | None = None
        self._attention = False
        self._park = False
        self._stop = False
        self._parked = threading.Event()
        self._unparked = threading.Event()
        self._wake = threading.Lock()
        self._wake.acquire()
        self._wake_guard = threading.Lock()
        self._rest: Callable[[], None] | None = None
        """Has an engine that waits in HLT by itself do so again."""
        self._thread = threading.Thread(target=self._main, name=f"pyhyve-vcpu{vcpu.index}", daemon=True)
        if chip is not None:
            chip.connect(vcpu.index, self)
            if isinstance(vcpu, ApicVcpu):
                self._look = vcpu.look_for_interrupts
                vcpu.sleep_by_itself()
                self._rest = vcpu.rest
                chip.keep_vectors(vcpu.index, vcpu.apic_vectors, self._interrupts_posted)
        self.power_on()

    # -- control ------------------------------------------------------------------------------------------------------

    def power_on(self) -> None:
        """State after a machine reset: the first vCPU runs, the others wait for a start-up message."""
        self._nmi = self._halted = False
        self._init_requested = False
        self._startup_vector = None
        self._waiting_for_startup = self._chip is not None and self.vcpu.index != 0
        self._attention = self._waiting_for_startup

    def save(self) -> VcpuRunnerState:
        """Sleep and start-up; while parked."""
        return VcpuRunnerState(
            halted=self._halted and not self._nmi,
            waiting_for_startup=self._waiting_for_startup,
            init_requested=self._init_requested,
            startup_vector=self._startup_vector,
        )

    def load(self, state: VcpuRunnerState) -> None:
        """Take over sleep and start-up; while parked, or before `start`."""
        self._nmi = False
        self._halted = state.halted
        self._waiting_for_startup = state.waiting_for_startup
        self._init_requested = state.init_requested
        self._startup_vector = state.startup_vector
        self._attention = True

    @property
    def thread_id(self) -> int:
        """The host's id of the thread; 0 before `start`."""
        return self._thread.native_id or 0

    @property
    def sleeps(self) -> bool:
        """Whether it waits for an interrupt or a start-up message, as far as the engine leaves that to the machine."""
        return self._halted or self._waiting_for_startup

    @property
    def cpu_time_ns(self) -> int:
        """Processor time that the host gave the thread; 0 before `start`, and after its end."""
        if self._thread.ident is None or not self._thread.is_alive():
            return 0
        return time.clock_gettime_ns(time.pthread_getcpuclockid(self._thread.ident))

    def start(self) -> None:
        """Start the thread; once."""
        self._thread.start()

    def park(self) -> None:
        """Ask the thread to leave guest mode and wait; does not block, any thread."""
        self._unparked.clear()
        self._park = self._attention = True
        self.kick()

    def wait_parked(self, timeout_s: float) -> bool:
        """Wait until the thread is parked (or has ended); False when it does not get there in time."""
        return self._parked.wait(timeout_s)

    @property
    def is_parked(self) -> bool:
        """Whether the thread stands still, has ended, or was never started."""
        return self._parked.is_set() or self._thread.ident is None

    def unpark(self) -> None:
        """Let the thread go on."""
        self._parked.clear()
        self._park = False
        self._unparked.set()

    def stop(self) -> None:
        """Ask the thread to end; does not block."""
        self._stop = self._attention = True
        self._unparked.set()
        self.kick()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end; False when it goes on."""
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def kick(self) -> None:
        """Leave guest mode, or sleep, soon."""
        self.vcpu.kick()
        self._wake_up()

    # -- pins ---------------------------------------------------------------------------------------------------------

    def set_interrupt(self, *, pending: bool) -> None:
        """Drive INTR."""
        self._intr = pending
        self.vcpu.set_interrupt(pending=pending)
        if pending:
            self._wake_up()

    def _interrupts_posted(self) -> None:
        """The local APIC has an interrupt for the processor."""
        self._look()
        if self._halted:
            self._wake_up()

    def _is_interrupted(self) -> bool:
        """Whether there is an interrupt to wake up for."""
        return self._intr or self._nmi or (self._chip is not None and self._chip.has_interrupt(self.vcpu.index))

    def raise_nmi(self) -> None:
        """Pulse NMI; a vCPU that waits for a start-up message does not take it (SDM Vol. 3A, 10.4.4)."""
        if self._waiting_for_startup:
            return
        self._nmi = self._rest is None
        self.vcpu.raise_nmi()
        self._wake_up()

    def init(self) -> None:
        """INIT message."""
        self._init_requested = self._attention = True
        self.kick()

    def startup(self, vector: int) -> None:
        """Start-up message."""
        if self._waiting_for_startup or self._init_requested:
            self._startup_vector = vector
            self._attention = True
            self.kick()

    def _wake_up(self) -> None:
        with self._wake_guard:
            if self._wake.locked():
                self._wake.release()

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self._loop()
        except Exception as error:  # noqa: BLE001 - whatever breaks ends the machine with a report
            _LOG.debug("vCPU %d", self.vcpu.index, exc_info=True)
            self._events.vcpu_failed(self.vcpu.index, f"{type(error).__name__}: {error}")
        finally:
            self._parked.set()

    def _loop(self) -> None:
        run = self.vcpu.run
        lock = self._lock
        ports_read, ports_write = self._ports.read, self._ports.write
        memory_read, memory_write = self._memory.read, self._memory.write
        page, trace = self._page, self._trace
        lapic_page = -1 if page is None else _LAPIC_PAGE
        while True:
            if self._attention and not self._attend():
                return
            if self._halted and not self._sleep():
                continue
            reason = run()
            kind = reason.kind
            if kind == _IO:
                with lock:
                    if reason.is_write:
                        ports_write(reason.address, reason.size, reason.value)
                    else:
                        reason.value = ports_read(reason.address, reason.size)
            elif kind == _MMIO:
                address = reason.address
                with lock:
                    if page is not None and address >> 12 == lapic_page:
                        if reason.is_write:
                            page.write(address & 0xFFF, reason.size, reason.value)
                        else:
                            reason.value = page.read(address & 0xFFF, reason.size)
                    elif reason.is_write:
                        memory_write(address, reason.size, reason.value)
                    else:
                        reason.value = memory_read(address, reason.size)
            elif kind == _WINDOW:
                self._acknowledge()
            elif kind == _HALT:
                self._halted = True
            elif kind != _KICKED and not self._rare(reason):
                return
            if trace is not None:
                trace(self.vcpu.index, reason)

    def _acknowledge(self) -> None:
        if self._chip is not None:
            vector = self._chip.acknowledge(self.vcpu.index)
            if vector is not None:
                self.vcpu.inject(vector)

    def _sleep(self) -> bool:
        """Wait in HLT for an interrupt; who wants the thread for something else finds it asleep again afterwards.

        True when the engine shall be entered: it waits there, or that is over.
        """
        if self._rest is not None:
            self._halted = False
            self._rest()
            return True
        while not (self._attention or self._is_interrupted()):
            self._wake.acquire()
        if self._is_interrupted():
            self._halted = self._nmi = False
        return not self._attention

    def _rare(self, reason: VcpuExit) -> bool:
        """Handle an exit that is not part of daily life; False ends the thread's run."""
        index = self.vcpu.index
        match reason.kind:
            case ExitKind.MSR_READ:
                value = None if self._chip is None else self._chip.read_msr(index, reason.address)
                reason.failed = value is None
                reason.value = value or 0
            case ExitKind.MSR_WRITE:
                done = self._chip is not None and self._chip.write_msr(index, reason.address, reason.value)
                reason.failed = not done
            case ExitKind.SHUTDOWN:
                self._events.vcpu_shutdown(index)
            case ExitKind.SYSTEM_EVENT:
                self._events.vcpu_system_event(index, reason.address)
            case ExitKind.INTERNAL_ERROR:
                self._events.vcpu_failed(index, reason.message)
            case _:
                self._events.vcpu_failed(index, f"unknown exit {reason.kind}")
        return True

    def _attend(self) -> bool:
        """Look at what `_attention` stands for; False when the thread must end."""
        while True:
            self._attention = False
            if self._stop:
                return False
            if self._park:
                self._parked.set()
                self._unparked.wait()
                continue
            if self._init_requested:
                self._init_requested = self._halted = False
                self.vcpu.reset()
                if self._chip is not None:
                    self._chip.initialised(self.vcpu.index)
                self._waiting_for_startup = self.vcpu.index != 0
            if not self._waiting_for_startup:
                return True
            if self._startup_vector is not None:
                vector, self._startup_vector = self._startup_vector, None
                self._waiting_for_startup = False
                self.vcpu.write_registers({"cs.selector": vector << 8, "cs.base": vector << 12, "rip": 0})
                return True
            while not self._attention:
                self._wake.acquire()
