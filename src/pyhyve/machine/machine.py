"""A machine that runs: its threads, its life cycle, and how it ends.

`run` belongs to one thread, the control thread. `request_stop`, `power_button`, `pause`, `resume` and `reset` may be
called from any thread, signal handlers included: they only queue a wish, and give an event that is set once the
control thread has dealt with it. Observers are called on the control thread and must not wait for it.
"""

from __future__ import annotations

import queue
import sys
import threading
import time

from pyhyve.machine.lifecycle import Lifecycle, MachineState
from pyhyve.machine.notices import Notice, NoticeKind, RunActions, ShutdownCause
from pyhyve.machine.outcome import Outcome, OutcomeKind
from pyhyve.machine.report import describe_vcpu
from pyhyve.support.enums import Enum, auto
from pyhyve.support.hints import Protocol, runtime_checkable
from pyhyve.support.logs import late_logger
from pyhyve.support.records import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from pyhyve.accel.api import Vm
    from pyhyve.backends.chardev import Chardev, Receiver
    from pyhyve.backends.ioloop import IoLoop
    from pyhyve.devices.chipset.acpi_pm import AcpiPm
    from pyhyve.machine.catch_up import CatchUp
    from pyhyve.machine.inventory import Inventory
    from pyhyve.machine.io import MachineLoop
    from pyhyve.machine.vcpu_loop import VcpuRunner
    from pyhyve.memory.contents import Settling
    from pyhyve.state.contract import Saveable

_LOG = late_logger(__name__)
_PARK_TIMEOUT_S = 20.0
"""A vCPU leaves guest code in microseconds, but only when its host gives it a processor."""
_SWITCH_INTERVAL_S = 0.0005
"""How long a Python thread may keep others from running: the I/O thread must not delay an exit for long."""


class _Wish(Enum):
    STOP = auto()
    POWER_OFF = auto()
    RESET = auto()
    PAUSE = auto()
    RESUME = auto()
    POWER_BUTTON = auto()
    INSPECT = auto()
    TELL = auto()
    IO_ERROR = auto()
    STILL = auto()
    FAILED = auto()


_HELD = frozenset({_Wish.RESET, _Wish.RESUME})
"""Wishes that wait while the machine is held."""


@dataclass(frozen=True, slots=True)
class _Request:
    """A wish, what it carries, and the event to set when it was dealt with."""

    wish: _Wish
    cause: ShutdownCause = ShutdownCause.NONE
    outcome: Outcome | None = None
    work: Callable[[], None] | None = None
    notice: Notice | None = None
    done: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True)
class MachineParts:
    """What the builder puts together. `boot` writes guest memory and registers before each (re)start."""

    vm: Vm
    lock: threading.RLock
    io: IoLoop
    loop: MachineLoop
    runners: list[VcpuRunner] = field(default_factory=list)
    consoles: list[tuple[Chardev, Receiver]] = field(default_factory=list)
    resets: list[Callable[[], None]] = field(default_factory=list)
    closers: list[Callable[[], None]] = field(default_factory=list)
    boot: Callable[[], None] | None = None
    saveables: dict[str, Saveable] = field(default_factory=dict)
    """What has a state, by name, in the order in which it is to be loaded; PCI functions and processors aside."""
    pm: AcpiPm | None = None
    inventory: Inventory | None = None
    """What a monitor shows of the machine."""


@runtime_checkable
class _NotesPauses(Protocol):
    """An engine that tells the guest of a pause."""

    def note_pause(self) -> None:
        """The vCPUs stood still for a while, and will go on."""


class Machine:
    """One virtual machine from creation to its end. It runs once."""

    def __init__(
        self,
        name: str,
        *,
        no_reboot: bool = False,
        no_shutdown: bool = False,
        start_paused: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        """Made by `machine.builder.build`, which calls `assemble`."""
        self.name = name
        self.lifecycle = Lifecycle()
        self.actions = RunActions(no_reboot, no_shutdown)
        self.observers: list[Callable[[Notice], None]] = []
        """Called with every change."""
        self.started = threading.Event()
        """Set once there are threads for the vCPUs, or the machine ended."""
        self.prelaunch = True
        """Whether no vCPU has run yet."""
        self.powered_off = False
        """Whether the guest powered off and `actions.no_shutdown` keeps the machine."""
        self.restore: Callable[[], Settling | None] | None = None
        """Called instead of booting: puts the machine into a saved state."""
        self.awaits_state = False
        """Whether a state must arrive before the machine can run: nothing is booted."""
        self.runs_when_loaded = not start_paused
        """Whether the machine goes on by itself once the state it awaits is there."""
        self.is_moving = False
        """Whether its state is being sent: its devices stay, and nobody replaces its memory."""
        self.condition = ""
        """Why the machine is paused, where that is more than a pause: one of QEMU's run states."""
        self._settling: Settling | None = None
        self._catch_up: CatchUp | None = None
        self._start_paused = start_paused
        self._timeout_s = timeout_s
        self._wishes: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._parts: MachineParts | None = None
        self._holding = threading.Lock()
        self._held: list[_Request] | None = None
        self._closed = False

    def assemble(self, parts: MachineParts) -> None:
        """Take the parts; once, by the builder."""
        self._parts = parts

    @property
    def parts(self) -> MachineParts:
        """The parts; only after `assemble`."""
        if self._parts is None:
            msg = "the machine is not assembled"
            raise RuntimeError(msg)
        return self._parts

    @property
    def state(self) -> MachineState:
        """Where the machine is in its life."""
        return self.lifecycle.state

    # -- wishes, from any thread --------------------------------------------------------------------------------------

    def request_stop(self, cause: ShutdownCause = ShutdownCause.HOST_SIGNAL) -> threading.Event:
        """End the run promptly, without asking the guest."""
        return self._wish(_Wish.STOP, cause)

    def power_button(self) -> threading.Event:
        """Press the power button: the guest may shut down in its own time."""
        return self._wish(_Wish.POWER_BUTTON)

    def pause(self) -> threading.Event:
        """Stop the vCPUs."""
        return self._wish(_Wish.PAUSE)

    def resume(self) -> threading.Event:
        """Let the vCPUs go on."""
        return self._wish(_Wish.RESUME)

    def reset(self, cause: ShutdownCause = ShutdownCause.HOST_QMP_SYSTEM_RESET) -> threading.Event:
        """Reset the machine as its reset button would."""
        return self._guest_wish(_Wish.RESET, cause)

    def inspect(self, work: Callable[[], None], *, devices: bool = False) -> threading.Event:
        """Have the control thread call `work` while all vCPUs stand still; a paused machine stays paused.

        With `devices`, those stand still too: nothing touches guest memory.
        """
        return self._wish(_Wish.STILL if devices else _Wish.INSPECT, work=work)

    def hold(self) -> None:
        """Let wishes to go on, or to reset, wait until `release`: what a paused machine is must not change."""
        with self._holding:
            if self._held is None:
                self._held = []

    def release(self) -> None:
        """Grant what waited since `hold`."""
        with self._holding:
            held, self._held = self._held, None
        for request in held or ():
            self._wishes.put(request)
            if self._closed:
                request.done.set()

    def tell(self, kind: NoticeKind, data: Mapping[str, Any]) -> None:
        """Tell the observers of a device's change."""
        self._wishes.put(_Request(_Wish.TELL, notice=Notice(kind, data=data)))

    def io_error(self, data: Mapping[str, Any]) -> None:
        """Tell the observers of a request that waits, and pause: the requests are tried again on the way back."""
        self._wishes.put(_Request(_Wish.IO_ERROR, notice=Notice(NoticeKind.BLOCK_IO_ERROR, data=data)))

    # -- from the devices and vCPUs -----------------------------------------------------------------------------------

    def fail(self, message: str) -> threading.Event:
        """End the machine with a report: it cannot go on. Any thread."""
        self._park_all()
        return self._wish(_Wish.FAILED, outcome=Outcome(OutcomeKind.INTERNAL_ERROR, message))

    def power_off_requested(self) -> None:
        """The guest entered S5; on a vCPU's thread."""
        self._guest_wish(_Wish.POWER_OFF, ShutdownCause.GUEST_SHUTDOWN)

    def reset_requested(self) -> None:
        """The guest pulled its reset line; on a vCPU's thread."""
        self._guest_wish(_Wish.RESET, ShutdownCause.GUEST_RESET)

    def vcpu_shutdown(self, index: int) -> None:
        """A vCPU met a triple fault."""
        self._vcpu_ended(index, OutcomeKind.TRIPLE_FAULT, "the guest stopped with a triple fault")

    def vcpu_failed(self, index: int, message: str) -> None:
        """A vCPU's engine or a device cannot go on."""
        self._vcpu_ended(index, OutcomeKind.INTERNAL_ERROR, message or "the CPU engine failed")

    def vcpu_system_event(self, index: int, event: int) -> None:
        """The guest asked the engine to power off (event 1) or to reset (event 2)."""
        if event in {_SYSTEM_EVENT_SHUTDOWN, _SYSTEM_EVENT_RESET}:
            if event == _SYSTEM_EVENT_SHUTDOWN:
                self.power_off_requested()
            else:
                self.reset_requested()
        else:
            self._vcpu_ended(index, OutcomeKind.INTERNAL_ERROR, f"the guest crashed (system event {event})")

    def _vcpu_ended(self, index: int, kind: OutcomeKind, message: str) -> None:
        parts = self.parts
        try:
            detail = describe_vcpu(parts.runners[index].vcpu.read_registers(), parts.vm.memory)
        except Exception as error:  # noqa: BLE001 - a report about a broken engine must not fail itself
            detail = f"registers cannot be read: {error}"
        self._park_all()
        self._wish(_Wish.FAILED, outcome=Outcome(kind, f"vCPU {index}: {message}", detail))

    def _guest_wish(self, wish: _Wish, cause: ShutdownCause) -> threading.Event:
        self._park_all()
        return self._wish(wish, cause)

    def _park_all(self) -> None:
        for runner in self.parts.runners:
            runner.park()

    def _wish(
        self,
        wish: _Wish,
        cause: ShutdownCause = ShutdownCause.NONE,
        outcome: Outcome | None = None,
        work: Callable[[], None] | None = None,
    ) -> threading.Event:
        request = _Request(wish, cause, outcome, work)
        self._wishes.put(request)
        if self._closed:
            request.done.set()
        return request.done

    def _notify(self, kind: NoticeKind, cause: ShutdownCause = ShutdownCause.NONE) -> None:
        self._observe(Notice(kind, cause))

    def _observe(self, notice: Notice | None) -> None:
        if notice is not None:
            for observer in self.observers:
                observer(notice)

    # -- the control thread -------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Run until the guest or the user ends it; then everything is released.

        Raises what loading the guest raises (`BootError`) before the guest started.
        """
        interval = sys.getswitchinterval()
        try:
            self._start()
            sys.setswitchinterval(_SWITCH_INTERVAL_S)
            return self._serve()
        finally:
            sys.setswitchinterval(interval)
            self.close()

    def close(self) -> None:
        """Stop and release everything; idempotent."""
        if self._closed:
            return
        self._closed = True
        self.started.set()
        if self.state is not MachineState.SHUTDOWN:
            self.lifecycle.enter(MachineState.SHUTDOWN)
        while not self._wishes.empty():
            self._wishes.get().done.set()
        if self._parts is None:
            return
        parts = self._parts
        for runner in parts.runners:
            runner.stop()
        if self._settling is not None:
            self._settling.stop()
        if self._catch_up is not None:
            self._catch_up.stop()
        still_running = [runner for runner in parts.runners if not runner.join(_PARK_TIMEOUT_S)]
        for chardev, _ in parts.consoles:
            chardev.close()
        for closer in parts.closers:
            closer()
        parts.loop.close()
        parts.io.stop()
        if not still_running:
            parts.vm.close()
            parts.vm.memory.close()

    def _start(self) -> None:
        parts = self.parts
        settling = None
        if self.restore is not None:
            settling = self.restore()
        elif parts.boot is not None and not self.awaits_state:
            parts.boot()
        start_paused = self._start_paused or self.awaits_state
        if start_paused:
            self._park_all()
        self.lifecycle.enter(MachineState.PAUSED if start_paused else MachineState.RUNNING)
        self.prelaunch = start_paused and self.restore is None
        parts.io.start()
        if self.restore is not None and not start_paused:
            self.resume_devices()
        for chardev, receiver in parts.consoles:
            chardev.start(parts.loop, receiver)
        for runner in parts.runners:
            runner.start()
        if settling is not None:
            self.settle(settling)
        if self._catch_up is not None:
            self._catch_up.start()
        self.started.set()

    def catch_up(self, catch_up: CatchUp) -> None:
        """Bring the clocks of a restored machine to the present, from now on or from its start on."""
        if self._catch_up is not None:
            self._catch_up.stop()
        self._catch_up = catch_up
        if self.state is not MachineState.CREATED:
            catch_up.start()

    @property
    def behind_ns(self) -> int:
        """How far the guest's clocks are behind the present, after a restore."""
        return 0 if self._catch_up is None else self._catch_up.left_ns

    def stop_settling(self) -> None:
        """Guest memory is about to be replaced: leave off making it the machine's own. Not for the control thread."""
        if self._settling is not None:
            self._settling.stop()
            self._settling.wait()
            self._settling = None

    def settle(self, settling: Settling) -> None:
        """Have a restored machine's memory made its own, in the background."""
        self._settling = settling
        settling.start()

    def _serve(self) -> Outcome:
        deadline = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        while True:
            try:
                remaining_s = None if deadline is None else max(deadline - time.monotonic(), 0)
                request = self._wishes.get(timeout=remaining_s)
            except queue.Empty:
                return self._finish(
                    Outcome(OutcomeKind.TIMEOUT, f"gave up after {self._timeout_s:g} s"), ShutdownCause.HOST_ERROR
                )
            if self._keep_back(request):
                continue
            outcome = self._grant(request)
            if outcome is not None:
                finished = self._finish(outcome, request.cause)
                request.done.set()
                return finished
            request.done.set()

    def _keep_back(self, request: _Request) -> bool:
        """Whether `request` waits for `release`."""
        with self._holding:
            if self._held is None or request.wish not in _HELD:
                return False
            self._held.append(request)
            return True

    def _grant(self, request: _Request) -> Outcome | None:
        """Do what `request` asks for; an outcome when that ends the machine."""
        match request.wish:
            case _Wish.FAILED:
                return request.outcome
            case _Wish.STOP:
                return Outcome(OutcomeKind.STOPPED, "stopped")
            case _Wish.POWER_OFF if self.actions.no_shutdown:
                self.powered_off = True
                self._notify(NoticeKind.SHUTDOWN, request.cause)
                self._pause()
            case _Wish.POWER_OFF:
                return Outcome(OutcomeKind.POWERED_OFF)
            case _Wish.RESET if self.actions.no_reboot:
                return Outcome(OutcomeKind.RESET, "the guest asked for a reset")
            case _Wish.RESET:
                return self._reset(request.cause)
            case _Wish.PAUSE if self.state is MachineState.RUNNING:
                self._pause()
            case _Wish.RESUME if self.state is MachineState.PAUSED and not (self.powered_off or self.awaits_state):
                self._resume()
            case _Wish.TELL | _Wish.IO_ERROR:
                self._observe(request.notice)
                if request.wish is _Wish.IO_ERROR and self.state is MachineState.RUNNING:
                    self.condition = "io-error"
                    self._pause()
            case _Wish.RESUME | _Wish.PAUSE if self.awaits_state:
                self.runs_when_loaded = request.wish is _Wish.RESUME
            case _Wish.INSPECT | _Wish.STILL if request.work is not None:
                self._inspect(request.work, devices=request.wish is _Wish.STILL)
            case _Wish.POWER_BUTTON if self.parts.pm is not None:
                with self.parts.lock:
                    self.parts.pm.press_power_button()
                self._notify(NoticeKind.POWERDOWN)
            case _:
                pass
        return None

    def _inspect(self, work: Callable[[], None], *, devices: bool = False) -> None:
        self._park_all()
        for runner in self.parts.runners:
            runner.wait_parked(_PARK_TIMEOUT_S)
        if devices:
            self.suspend_devices()
        try:
            work()
        except Exception:  # noqa: BLE001 - a question must not end the machine
            _LOG.exception("looking at the machine failed")
        if self.state is MachineState.RUNNING:
            if devices:
                self.resume_devices()
            self._unpark_all()

    def _pause(self) -> None:
        """Stop the vCPUs and devices and wait until they stand still."""
        self._park_all()
        for runner in self.parts.runners:
            runner.wait_parked(_PARK_TIMEOUT_S)
        self.suspend_devices()
        self._flush_consoles()
        if self.state is MachineState.RUNNING:
            self.lifecycle.enter(MachineState.PAUSED)
            self._notify(NoticeKind.STOP)

    def _resume(self) -> None:
        self.prelaunch = False
        self.condition = ""
        self.lifecycle.enter(MachineState.RUNNING)
        self._notify(NoticeKind.RESUME)
        self.resume_devices()
        engine: object = self.parts.vm
        if isinstance(engine, _NotesPauses):
            engine.note_pause()
        self._unpark_all()

    def suspend_devices(self) -> None:
        """Have devices finish what they do and leave guest memory and disks alone; on the control thread."""
        if self.parts.inventory is not None:
            for _, function in self.parts.inventory.functions():
                function.suspend()

    def resume_devices(self) -> None:
        """Let devices go on; on the control thread."""
        if self.parts.inventory is not None:
            for _, function in self.parts.inventory.functions():
                function.resume()

    def _finish(self, outcome: Outcome, cause: ShutdownCause) -> Outcome:
        """Output that still waits belongs to the run."""
        self._notify(NoticeKind.SHUTDOWN, cause)
        self._flush_consoles()
        return outcome

    def _flush_consoles(self) -> None:
        """Pass on what the guest has written, which serial ports gather for a moment."""
        with self.parts.lock:
            for _, receiver in self.parts.consoles:
                flush = getattr(receiver, "flush", None)
                if flush is not None:
                    flush()

    def _unpark_all(self) -> None:
        for runner in self.parts.runners:
            runner.unpark()

    def _reset(self, cause: ShutdownCause) -> Outcome | None:
        """Restart in place; an outcome when that is not possible."""
        parts = self.parts
        was_paused = self.state is MachineState.PAUSED
        self.lifecycle.enter(MachineState.RESETTING)
        self._park_all()
        for runner in parts.runners:
            if not runner.wait_parked(_PARK_TIMEOUT_S):
                return Outcome(OutcomeKind.INTERNAL_ERROR, f"vCPU {runner.vcpu.index} does not stop for the reset")
        later = []
        while not self._wishes.empty():
            request = self._wishes.get()
            if request.wish is _Wish.RESET:
                request.done.set()
            else:
                later.append(request)
        for request in later:
            self._wishes.put(request)
        with parts.lock:
            for reset in parts.resets:
                reset()
            for runner in parts.runners:
                runner.vcpu.reset()
                runner.power_on()
            if parts.boot is not None:
                parts.boot()
        self.powered_off = False
        self.condition = ""
        self.prelaunch = was_paused
        self.lifecycle.enter(MachineState.PAUSED if was_paused else MachineState.RUNNING)
        self._notify(NoticeKind.RESET, cause)
        if not was_paused:
            self.resume_devices()
            self._unpark_all()
        return None


_SYSTEM_EVENT_SHUTDOWN = 1
_SYSTEM_EVENT_RESET = 2
