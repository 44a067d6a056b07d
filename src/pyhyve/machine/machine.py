"""A machine that runs: its threads, its life cycle, and how it ends.

`run` belongs to one thread, the control thread. `request_stop`, `power_button`, `pause`, `resume` and `reset` may be
called from any thread, signal handlers included: they only queue a wish.
"""

from __future__ import annotations

import queue
import sys
import time
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from pyhyve.machine.lifecycle import Lifecycle, MachineState
from pyhyve.machine.outcome import Outcome, OutcomeKind
from pyhyve.machine.report import describe_vcpu

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from pyhyve.accel.api import Vm
    from pyhyve.backends.chardev import Chardev, Receiver
    from pyhyve.backends.ioloop import IoLoop
    from pyhyve.devices.chipset.acpi_pm import AcpiPm
    from pyhyve.machine.io import MachineLoop
    from pyhyve.machine.vcpu_loop import VcpuRunner

_PARK_TIMEOUT_S = 5.0
_SWITCH_INTERVAL_S = 0.0005
"""How long a Python thread may keep others from running: the I/O thread must not delay an exit for long."""


class _Wish(Enum):
    STOP = auto()
    POWER_OFF = auto()
    RESET = auto()
    PAUSE = auto()
    RESUME = auto()
    POWER_BUTTON = auto()
    FAILED = auto()


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
    pm: AcpiPm | None = None


class Machine:
    """One virtual machine from creation to its end. It runs once."""

    def __init__(self, name: str, *, no_reboot: bool = False, timeout_s: float | None = None) -> None:
        """Made by `machine.builder.build`, which calls `assemble`."""
        self.name = name
        self.lifecycle = Lifecycle()
        self._no_reboot = no_reboot
        self._timeout_s = timeout_s
        self._wishes: queue.SimpleQueue[tuple[_Wish, Outcome | None]] = queue.SimpleQueue()
        self._parts: MachineParts | None = None
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

    def request_stop(self) -> None:
        """End the run promptly, without asking the guest."""
        self._wish(_Wish.STOP)

    def power_button(self) -> None:
        """Press the power button: the guest may shut down in its own time."""
        self._wish(_Wish.POWER_BUTTON)

    def pause(self) -> None:
        """Stop the vCPUs."""
        self._wish(_Wish.PAUSE)

    def resume(self) -> None:
        """Let the vCPUs go on."""
        self._wish(_Wish.RESUME)

    def reset(self) -> None:
        """Reset the machine as its reset button would."""
        self._guest_wish(_Wish.RESET)

    # -- from the devices and vCPUs -----------------------------------------------------------------------------------

    def power_off_requested(self) -> None:
        """The guest entered S5; on a vCPU's thread."""
        self._guest_wish(_Wish.POWER_OFF)

    def reset_requested(self) -> None:
        """The guest pulled its reset line; on a vCPU's thread."""
        self._guest_wish(_Wish.RESET)

    def vcpu_shutdown(self, index: int) -> None:
        """A vCPU met a triple fault."""
        self._vcpu_ended(index, OutcomeKind.TRIPLE_FAULT, "the guest stopped with a triple fault")

    def vcpu_failed(self, index: int, message: str) -> None:
        """A vCPU's engine or a device cannot go on."""
        self._vcpu_ended(index, OutcomeKind.INTERNAL_ERROR, message or "the CPU engine failed")

    def vcpu_system_event(self, index: int, event: int) -> None:
        """The guest asked the engine to power off (event 1) or to reset (event 2)."""
        if event in {_SYSTEM_EVENT_SHUTDOWN, _SYSTEM_EVENT_RESET}:
            self._guest_wish(_Wish.POWER_OFF if event == _SYSTEM_EVENT_SHUTDOWN else _Wish.RESET)
        else:
            self._vcpu_ended(index, OutcomeKind.INTERNAL_ERROR, f"the guest crashed (system event {event})")

    def _vcpu_ended(self, index: int, kind: OutcomeKind, message: str) -> None:
        parts = self.parts
        try:
            detail = describe_vcpu(parts.runners[index].vcpu.read_registers(), parts.vm.memory)
        except Exception as error:  # noqa: BLE001 - a report about a broken engine must not fail itself
            detail = f"registers cannot be read: {error}"
        self._park_all()
        self._wish(_Wish.FAILED, Outcome(kind, f"vCPU {index}: {message}", detail))

    def _guest_wish(self, wish: _Wish) -> None:
        self._park_all()
        self._wish(wish)

    def _park_all(self) -> None:
        for runner in self.parts.runners:
            runner.park()

    def _wish(self, wish: _Wish, outcome: Outcome | None = None) -> None:
        self._wishes.put((wish, outcome))

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
        if self.state is not MachineState.SHUTDOWN:
            self.lifecycle.enter(MachineState.SHUTDOWN)
        if self._parts is None:
            return
        parts = self._parts
        for runner in parts.runners:
            runner.stop()
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
        if parts.boot is not None:
            parts.boot()
        self.lifecycle.enter(MachineState.RUNNING)
        parts.io.start()
        for chardev, receiver in parts.consoles:
            chardev.start(parts.loop, receiver)
        for runner in parts.runners:
            runner.start()

    def _serve(self) -> Outcome:
        deadline = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        while True:
            try:
                remaining_s = None if deadline is None else max(deadline - time.monotonic(), 0)
                wish, outcome = self._wishes.get(timeout=remaining_s)
            except queue.Empty:
                return self._finish(Outcome(OutcomeKind.TIMEOUT, f"gave up after {self._timeout_s:g} s"))
            match wish:
                case _Wish.FAILED if outcome is not None:
                    return self._finish(outcome)
                case _Wish.STOP:
                    return self._finish(Outcome(OutcomeKind.STOPPED, "stopped"))
                case _Wish.POWER_OFF:
                    return self._finish(Outcome(OutcomeKind.POWERED_OFF))
                case _Wish.RESET if self._no_reboot:
                    return self._finish(Outcome(OutcomeKind.RESET, "the guest asked for a reset"))
                case _Wish.RESET:
                    failure = self._reset()
                    if failure is not None:
                        return self._finish(failure)
                case _Wish.PAUSE if self.state is MachineState.RUNNING:
                    self._park_all()
                    self.lifecycle.enter(MachineState.PAUSED)
                case _Wish.RESUME if self.state is MachineState.PAUSED:
                    self.lifecycle.enter(MachineState.RUNNING)
                    self._unpark_all()
                case _Wish.POWER_BUTTON if self.parts.pm is not None:
                    with self.parts.lock:
                        self.parts.pm.press_power_button()
                case _:
                    pass

    def _finish(self, outcome: Outcome) -> Outcome:
        """Output that still waits belongs to the run."""
        with self.parts.lock:
            for _, receiver in self.parts.consoles:
                flush = getattr(receiver, "flush", None)
                if flush is not None:
                    flush()
        return outcome

    def _unpark_all(self) -> None:
        for runner in self.parts.runners:
            runner.unpark()

    def _reset(self) -> Outcome | None:
        """Restart in place; an outcome when that is not possible."""
        parts = self.parts
        was_paused = self.state is MachineState.PAUSED
        self.lifecycle.enter(MachineState.RESETTING)
        for runner in parts.runners:
            if not runner.wait_parked(_PARK_TIMEOUT_S):
                return Outcome(OutcomeKind.INTERNAL_ERROR, f"vCPU {runner.vcpu.index} does not stop for the reset")
        while not self._wishes.empty():
            wish, outcome = self._wishes.get()
            if wish not in {_Wish.RESET, _Wish.PAUSE, _Wish.RESUME}:
                self._wishes.put((wish, outcome))
                break
        with parts.lock:
            for reset in parts.resets:
                reset()
            for runner in parts.runners:
                runner.vcpu.reset()
                runner.power_on()
            if parts.boot is not None:
                parts.boot()
        self.lifecycle.enter(MachineState.PAUSED if was_paused else MachineState.RUNNING)
        if not was_paused:
            self._unpark_all()
        return None


_SYSTEM_EVENT_SHUTDOWN = 1
_SYSTEM_EVENT_RESET = 2
