"""One vCPU on KVM.

Hot path: `KvmVcpu.run` handles every exit of the guest. It reads the shared page through `memoryview` casts, fills
the one `VcpuExit` and allocates nothing of its own; `benchmarks start` and `boot --accel kvm` watch it.
"""

from __future__ import annotations

import errno
import mmap
import os
import signal
import threading
from collections import deque
from fcntl import ioctl

from pyhyve.accel.api import ExitKind, VcpuExit
from pyhyve.accel.kvm_clock import advance_tsc
from pyhyve.accel.kvm_msrs import MSR_TSC, MSR_TSC_ADJUST, MSR_TSC_DEADLINE
from pyhyve.accel.kvm_registers import GENERAL, names_to_system, system_to_names
from pyhyve.accel.kvm_report import describe_exit
from pyhyve.accel.kvm_state import KvmVcpuState, load_vcpu, save_vcpu
from pyhyve.kvm.abi import COALESCED_MMIO_PAGE_OFFSET, ExitReason, Ioctl, MpState
from pyhyve.kvm.ioctls import KvmError, kick_thread
from pyhyve.kvm.structures import COALESCED_MMIO, COALESCED_MMIO_RING
from pyhyve.support.hints import Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import ClassVar

    from pyhyve.kvm.cpuid import CpuidEntry
    from pyhyve.kvm.vcpu import VcpuHandle

KICK_SIGNAL = signal.SIGRTMIN + 2

_RUN = int(Ioctl.RUN)
_IO, _MMIO, _HLT = int(ExitReason.IO), int(ExitReason.MMIO), int(ExitReason.HLT)
_WINDOW = int(ExitReason.IRQ_WINDOW_OPEN)
_SETTLED = int(ExitReason.INTR)
_KIND_IO, _KIND_MMIO, _KIND_KICKED = ExitKind.IO, ExitKind.MMIO, ExitKind.KICKED

# Offsets in struct kvm_run (checked by tests/unit/kvm/test_abi.py), in units of the view used.
_B_REQUEST_WINDOW, _B_IMMEDIATE_EXIT, _B_READY = 0, 1, 12
_I_REASON = 2
_Q_UNION = 4  # io: direction, size, port, count; mmio: address; fail_entry: reason
_Q_SECOND = 5  # io: offset of the data; mmio: data
_Q_THIRD = 6  # mmio: length, is_write
_B_MSR_ERROR = 32
_I_MSR_INDEX, _Q_MSR_DATA = 11, 6
_I_EVENT_TYPE = 8

_COALESCED_RING = COALESCED_MMIO_PAGE_OFFSET * mmap.PAGESIZE
_COALESCED_MAX = (mmap.PAGESIZE - COALESCED_MMIO_RING.size_bytes) // COALESCED_MMIO.size_bytes
_MAX_SETTLE = 64
_IRR = 0x200
_NOT_RESET = {MSR_TSC, MSR_TSC_ADJUST, MSR_TSC_DEADLINE}


class KvmVcpu:
    """One virtual CPU; see `accel.api.Vcpu`."""

    state_type: ClassVar = KvmVcpuState
    state_version: ClassVar = 1

    def __init__(self, handle: VcpuHandle, host: KvmVcpuHost) -> None:
        """Made by `KvmVm.create_vcpu`."""
        self.index = handle.index
        self.exit = VcpuExit()
        self.handle = handle
        self._host = host
        self._fd = handle.fd
        view = memoryview(handle.shared)
        self._bytes = view
        self._words = view.cast("I")
        self._quads = view.cast("Q")
        self._sized = {1: view, 2: view.cast("H"), 4: self._words, 8: self._quads}
        self._thread_id = 0
        self._native_id = 0
        self._interrupt_line = False
        self._finish: Callable[[], None] | None = None
        self._pieces: deque[tuple[ExitKind, int, int, bool, int]] = deque()
        self._nmi_wanted = False
        self._host_cpus: frozenset[int] | None = None
        self._ring: memoryview | None = None
        self._held = False
        self._power_on: _ResetState | None = None

    # --- the loop's side ----------------------------------------------------------------------------------------------

    def run(self) -> VcpuExit:
        """Run guest code until something needs the machine."""
        out = self.exit
        if self._finish is not None:
            self._finish()
        if self._pieces:
            return self._next_piece()
        if self._held:
            self._held = False
            return self._decode()
        if self._thread_id != threading.get_ident():
            self._enter_thread()
        if self._interrupt_line and self._bytes[_B_READY]:
            out.kind = ExitKind.INTERRUPT_WINDOW
            return out
        try:
            ioctl(self._fd, _RUN)
        except OSError as error:
            return self._interrupted(error)
        ring = self._ring
        if ring is not None and ring[0] != ring[1]:
            self._take_coalesced(ring)
            if self._pieces:
                self._held = True
                return self._next_piece()
        return self._decode()

    def _decode(self) -> VcpuExit:
        out = self.exit
        reason = self._words[_I_REASON]
        if reason == _IO:
            quads = self._quads
            key = quads[_Q_UNION]
            if key >> 32 != 1:
                return self._string_io(key)
            size = key >> 8 & 0xFF
            out.kind = _KIND_IO
            out.address = key >> 16 & 0xFFFF
            out.size = size
            if key & 1:
                out.is_write = True
                out.value = self._sized[size][quads[_Q_SECOND] // size]
            else:
                out.is_write = False
                self._finish = self._finish_in
            return out
        if reason == _MMIO:
            quads = self._quads
            tail = quads[_Q_THIRD]
            size = tail & 0xFF
            if size not in self._sized:
                return self._odd_mmio(size, is_write=bool(tail >> 32 & 1))
            out.kind = _KIND_MMIO
            out.address = quads[_Q_UNION]
            out.size = size
            if tail >> 32 & 1:
                out.is_write = True
                out.value = self._sized[size][40 // size]
            else:
                out.is_write = False
                self._finish = self._finish_mmio
            return out
        return self._rare(reason)

    def _finish_in(self) -> None:
        self._finish = None
        size = self.exit.size
        self._sized[size][self._quads[_Q_SECOND] // size] = self.exit.value & (1 << 8 * size) - 1

    def _finish_mmio(self) -> None:
        self._finish = None
        self._quads[_Q_SECOND] = self.exit.value & (1 << 8 * self.exit.size) - 1

    def _enter_thread(self) -> None:
        self._host.prepare()
        self._thread_id = threading.get_ident()
        self._native_id = threading.get_native_id()
        if self._host_cpus is not None:
            os.sched_setaffinity(0, self._host_cpus)

    def _interrupted(self, error: OSError) -> VcpuExit:
        if error.errno not in {errno.EINTR, errno.EAGAIN}:
            out = self.exit
            out.kind = ExitKind.INTERNAL_ERROR
            out.message = f"KVM_RUN: {error.strerror}"
            return out
        if error.errno == errno.EINTR:
            self._bytes[_B_IMMEDIATE_EXIT] = 0
            if self._nmi_wanted:
                self._nmi_wanted = False
                self.handle.nmi()
        self._words[_I_REASON] = _SETTLED
        self.exit.kind = _KIND_KICKED
        return self.exit

    def _rare(self, reason: int) -> VcpuExit:
        out = self.exit
        if reason == _HLT:
            out.kind = ExitKind.HALT
        elif reason == _WINDOW:
            out.kind = ExitKind.INTERRUPT_WINDOW
        elif reason == ExitReason.SHUTDOWN:
            out.kind = ExitKind.SHUTDOWN
        elif reason == ExitReason.SYSTEM_EVENT:
            out.kind = ExitKind.SYSTEM_EVENT
            out.address = self._words[_I_EVENT_TYPE]
        elif reason in {ExitReason.X86_RDMSR, ExitReason.X86_WRMSR}:
            out.is_write = reason == ExitReason.X86_WRMSR
            out.kind = ExitKind.MSR_WRITE if out.is_write else ExitKind.MSR_READ
            out.address = self._words[_I_MSR_INDEX]
            out.size = 8
            out.value = self._quads[_Q_MSR_DATA]
            out.failed = False
            self._finish = self._finish_msr
        elif reason == ExitReason.DIRTY_RING_FULL:
            self._host.collect_dirty()
            out.kind = _KIND_KICKED
        elif reason in {ExitReason.INTR, ExitReason.X86_BUS_LOCK, ExitReason.IOAPIC_EOI}:
            out.kind = _KIND_KICKED
        else:
            out.kind = ExitKind.INTERNAL_ERROR
            out.message = self._describe_fatal(reason)
        return out

    def _describe_fatal(self, reason: int) -> str:
        """What KVM says, or better, when the guest runs where nothing is: KVM only finds no instruction to emulate."""
        if reason == ExitReason.INTERNAL_ERROR:
            base = self.handle.sregs()["cs.base"]
            at = self.handle.regs()["rip"] + (base if isinstance(base, int) else 0)
            gpa = self.handle.translate(at)
            if gpa is not None and not self._host.has_memory(gpa):
                return f"the guest executes at {at:#x}, where there is no memory"
        return describe_exit(self.handle.shared)

    def _finish_msr(self) -> None:
        self._finish = None
        self._bytes[_B_MSR_ERROR] = self.exit.failed
        if not self.exit.is_write:
            self._quads[_Q_MSR_DATA] = self.exit.value

    # --- accesses that come in pieces ---------------------------------------------------------------------------------

    def _string_io(self, key: int) -> VcpuExit:
        """INS and OUTS with REP: one exit per element."""
        size, port, count = key >> 8 & 0xFF, key >> 16 & 0xFFFF, key >> 32
        first, view, is_write = self._quads[_Q_SECOND] // size, self._sized[size], bool(key & 1)
        self._pieces.extend(
            (_KIND_IO, port, size, is_write, view[slot] if is_write else slot) for slot in range(first, first + count)
        )
        return self._next_piece()

    def _odd_mmio(self, size: int, *, is_write: bool) -> VcpuExit:
        """A part of an access that crossed a page: 3, 5, 6 or 7 bytes, handed on in aligned powers of two."""
        address, at = self._quads[_Q_UNION], 40
        while size:
            part = min(1 << size.bit_length() - 1, address & -address or 8, at & -at)
            slot = at // part
            self._pieces.append((_KIND_MMIO, address, part, is_write, self._sized[part][slot] if is_write else slot))
            address, at, size = address + part, at + part, size - part
        return self._next_piece()

    def _next_piece(self) -> VcpuExit:
        out = self.exit
        out.kind, out.address, out.size, out.is_write, out.value = self._pieces.popleft()
        if not out.is_write:
            slot = out.value

            def finish() -> None:
                self._finish = None
                self._sized[out.size][slot] = out.value & (1 << 8 * out.size) - 1

            self._finish = finish
        return out

    def watch_coalesced(self) -> None:
        """Look into the ring of coalesced writes from now on."""
        self._ring = self._words[_COALESCED_RING // 4 :]

    def _take_coalesced(self, ring: memoryview) -> None:
        """Queue the writes that gathered, of all vCPUs, to come before the exit at hand."""
        with self._host.coalesced_lock:
            while ring[0] != ring[1]:
                at = _COALESCED_RING + COALESCED_MMIO_RING.size_bytes + ring[0] * COALESCED_MMIO.size_bytes
                entry = COALESCED_MMIO.unpack(self._bytes, at)
                address, size, is_port, data = (entry[name] for name in ("phys_addr", "len", "pio", "data"))
                if not (isinstance(address, int) and isinstance(size, int) and isinstance(data, bytes)):
                    raise TypeError
                value = int.from_bytes(data[:size], "little")
                self._pieces.append((_KIND_IO if is_port else _KIND_MMIO, address, size, True, value))
                ring[0] = (ring[0] + 1) % _COALESCED_MAX

    # --- any thread ---------------------------------------------------------------------------------------------------

    def kick(self) -> None:
        """Make a run in progress, or else the next one, return with `ExitKind.KICKED`."""
        try:
            self._bytes[_B_IMMEDIATE_EXIT] = 1
        except ValueError:  # the vCPU is closed: nothing of it runs any more
            return
        if self._native_id and self._thread_id != threading.get_ident():
            kick_thread(self._native_id, KICK_SIGNAL)

    def pin(self, host_cpus: Iterable[int]) -> None:
        """Run on these host CPUs only, from the next entry on. OSError from that entry when none of them is there."""
        self._host_cpus = frozenset(host_cpus)
        self._thread_id = 0

    def set_interrupt(self, *, pending: bool) -> None:
        """Drive INTR (without the in-kernel interrupt chip)."""
        self._interrupt_line = pending
        self._bytes[_B_REQUEST_WINDOW] = pending
        if pending:
            self.kick()  # a guest that runs does not see the request before it is entered again

    def inject(self, vector: int) -> None:
        """Deliver external interrupt `vector` at the start of the next run."""
        self._bytes[_B_READY] = 0
        self.handle.interrupt(vector)

    def raise_nmi(self) -> None:
        """Latch a non-maskable interrupt: `KVM_NMI` would wait for a run in progress, so the run itself issues it."""
        self._nmi_wanted = True
        self.kick()

    # --- registers ----------------------------------------------------------------------------------------------------

    def read_registers(self) -> dict[str, int]:
        """All registers by the names of `accel.api`."""
        self._settle()
        return self.handle.regs() | system_to_names(self.handle.sregs())

    def write_registers(self, values: Mapping[str, int]) -> None:
        """Set some registers; KeyError for a name that is none."""
        self._settle()
        general = {name: value for name, value in values.items() if name in GENERAL}
        system = {name: value for name, value in values.items() if name not in GENERAL}
        if system:
            sregs = self.handle.sregs()
            names_to_system(system, sregs)
            self.handle.set_sregs(sregs)
        if general:
            self.handle.set_regs(self.handle.regs() | general)

    def reset(self) -> None:
        """Back to the state after power-on; vCPU 0 takes the in-kernel interrupt chip and timer with it."""
        self._settle()
        if self._power_on is not None:
            self._power_on.restore(self.handle)
        self._interrupt_line = False
        self._bytes[_B_REQUEST_WINDOW] = 0
        if self.index == 0:
            self._host.reset_chips()

    def save(self) -> KvmVcpuState:
        """All that KVM keeps of the vCPU."""
        self._settle()
        return save_vcpu(
            self.handle,
            self._host.msr_indices(),
            has_lapic=self._host.has_kernel_irqchip,
            xsave_size_bytes=self._host.xsave_size_bytes(),
            instant_ns=self._host.instant_ns,
        )

    def load(self, state: KvmVcpuState) -> None:
        """Take over a saved vCPU."""
        self._settle()
        load_vcpu(self.handle, state, self._host.supported_cpuid(), self._host.instant_ns)

    def has_interrupt_pending(self) -> bool:
        """Whether the local APIC has requests (IRR, SDM Vol. 3A, 10.8.4)."""
        registers = self.handle.lapic()
        return any(any(registers[at : at + 4]) for at in range(_IRR, _IRR + 0x80, 0x10))

    def advance_tsc(self, duration_ns: int) -> None:
        """Put the time-stamp counter forward."""
        advance_tsc(self.handle, duration_ns)

    def remember_power_on(self) -> None:
        """Take the state that `reset` goes back to; before the first run."""
        self._power_on = _ResetState(self.handle, self._host.msr_indices(), has_lapic=self._host.has_kernel_irqchip)

    def _settle(self) -> None:
        """Let KVM finish the access it left the guest for, so that registers are those after the instruction."""
        self._host.prepare()
        if self._words[_I_REASON] not in {_IO, _MMIO, ExitReason.X86_RDMSR, ExitReason.X86_WRMSR}:
            return
        kicked = self._bytes[_B_IMMEDIATE_EXIT]
        for _ in range(_MAX_SETTLE):
            if self._finish is not None:
                self._finish()
            self._pieces.clear()
            self._bytes[_B_IMMEDIATE_EXIT] = 1
            try:
                ioctl(self._fd, _RUN)
            except OSError as error:
                if error.errno not in {errno.EINTR, errno.EAGAIN}:
                    raise KvmError(error.errno, f"KVM_RUN: {error.strerror}") from error
                break
        self._bytes[_B_IMMEDIATE_EXIT] = kicked
        self._words[_I_REASON] = _SETTLED

    def close(self) -> None:
        """Give up the descriptor; idempotent."""
        if self._ring is not None:
            self._ring.release()
        for view in (*self._sized.values(), self._bytes):
            view.release()
        self.handle.close()


class KvmVcpuHost(Protocol):
    """What a vCPU asks of its VM; `KvmVm` is one."""

    has_kernel_irqchip: bool
    coalesced_lock: threading.Lock

    @property
    def instant_ns(self) -> int:
        """The moment, on the host's monotonic clock, that a saved time belongs to."""

    def prepare(self) -> None:
        """Do what must precede the first run or register access."""

    def collect_dirty(self) -> None:
        """Empty the dirty rings."""

    def has_memory(self, gpa: int) -> bool:
        """Whether memory backs this address."""

    def reset_chips(self) -> None:
        """Reset the in-kernel interrupt chip and timer."""

    def msr_indices(self) -> tuple[int, ...]:
        """MSRs that a reset sets."""

    def supported_cpuid(self) -> tuple[CpuidEntry, ...]:
        """What this host can offer."""

    def xsave_size_bytes(self) -> int:
        """Size of the XSAVE area."""


class _ResetState:
    """All that a reset puts back, as KVM made it."""

    def __init__(self, handle: VcpuHandle, msr_indices: tuple[int, ...], *, has_lapic: bool) -> None:
        self._regs, self._sregs, self._fpu = handle.regs(), handle.sregs(), handle.fpu()
        self._xcrs, self._debugregs, self._events = handle.xcrs(), handle.debugregs(), handle.events()
        self._msrs = handle.msrs(index for index in msr_indices if index not in _NOT_RESET)
        self._lapic = handle.lapic() if has_lapic else None
        self._mp_state = handle.mp_state() if has_lapic else MpState.RUNNABLE

    def restore(self, handle: VcpuHandle) -> None:
        handle.set_sregs(self._sregs)
        handle.set_regs(self._regs)
        handle.set_fpu(self._fpu)
        if self._xcrs:
            handle.set_xcrs(self._xcrs)
        handle.set_debugregs(self._debugregs)
        remaining = dict(self._msrs)
        while remaining:  # KVM stops at an MSR that it reads but does not write
            taken = handle.set_msrs(remaining)
            for index in list(remaining)[: taken + 1]:
                del remaining[index]
        if self._lapic is not None:
            handle.set_lapic(self._lapic)
            handle.set_mp_state(self._mp_state)
        handle.set_events(self._events)
