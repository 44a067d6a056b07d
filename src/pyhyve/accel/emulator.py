"""The translator as an accelerator: `Vm` and `Vcpu` over the x86 engine.

Each vCPU has its own code cache and TLBs; guest memory is shared. The machine brings the interrupt controllers.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import mmap
import struct
from typing import TYPE_CHECKING, ClassVar

from pyhyve.accel.api import ExitKind, VcpuExit
from pyhyve.accel.counter import HostCounter
from pyhyve.accel.cpu_models import HOST, check_model, filter_cpuid
from pyhyve.accel.emulator_apic import EngineApicVectors
from pyhyve.accel.emulator_queues import EngineQueues
from pyhyve.accel.emulator_registers import read_registers, reset_registers, write_registers
from pyhyve.accel.emulator_sleep import SleepListener
from pyhyve.accel.emulator_state import EmulatorState, EmulatorVcpuState, load_vcpu, save_vcpu
from pyhyve.accel.emulator_strings import move_ahead
from pyhyve.cpu.engine.state import INVALIDATE_RING, MAX_ACCESSES, Request
from pyhyve.cpu.engine.vcpu import EngineVcpu
from pyhyve.cpu.isa.x86 import cpuid
from pyhyve.cpu.isa.x86.library import x86_library
from pyhyve.cpu.isa.x86.state import STATE, TLB_TABLES
from pyhyve.kvm.cpuid import CpuidEntry
from pyhyve.state.errors import StateError
from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pyhyve.accel.api import ApicVectors, InterruptChip, WalkedLayout, WalkedQueue
    from pyhyve.accel.cpu_models import CpuModel
    from pyhyve.memory.dirty import DirtyTable
    from pyhyve.memory.guest import GuestMemory

_LOG = logging.getLogger(__name__)
_PAGE_SHIFT = 12
_PAGE_MASK = 0xFFF
_MAX_VCPUS = 64
_TSC_TOLERANCE = 1000
"""A counter whose frequency differs by more than one part in so many would make the guest's clock wrong."""
_READS = frozenset({ExitKind.IO, ExitKind.MMIO, ExitKind.MSR_READ, ExitKind.MSR_WRITE})
_RECORD = struct.Struct("<IIII QQ")
_MASKS = tuple((1 << 8 * size) - 1 if size else (1 << 64) - 1 for size in range(9))


def _word(field: str) -> int:
    """Index of a 64-bit field among the state's words."""
    word, rest = divmod(STATE.offset(field), 8)
    assert not rest, field  # noqa: S101 - the layout is a constant of this package
    return word


_ACCESS_DONE = _word("access_done")
_ACCESS_VALUES = _word("access_values")
_MSR_FAILED = _word("msr_failed")
_SINGLE = _word("single")
_EVENT_INJECT = _word("event_inject")
_DIRTY = _word("dirty")


class EmulatorVcpu:
    """One vCPU of the translator; see `accel.api.Vcpu`.

    Hot path: `run` is called for every exit. It reads the exit in one piece and touches the state through a view of
    64-bit words.
    """

    state_type: ClassVar = EmulatorVcpuState
    state_version: ClassVar = 1

    def __init__(self, vm: EmulatorVm, index: int) -> None:
        self.index = index
        self.exit = VcpuExit()
        regions = [(r.gpa, r.size_bytes, r.hva, r.readonly) for r in vm.memory.regions]
        self.engine = EngineVcpu(vm.library, STATE, regions, TLB_TABLES)
        self._vm = vm
        self._pending = False
        self._record_at = STATE.offset("exit_kind")
        self._words = self.engine.view.cast("Q")
        self._run = self.engine.bind("x86.run")
        self._change_request = self.engine.bind_quick("x86.change_request")
        self._pages = _page_ranges(regions)
        self.listener = SleepListener(self.engine)
        self.apic_vectors: ApicVectors = EngineApicVectors(self.engine, self.listener)

    @property
    def tsc_hz(self) -> int:
        """Frequency of the guest's time-stamp counter."""
        return self._vm.tsc_hz

    def run(self) -> VcpuExit:
        """Run guest code until the machine is needed."""
        exit_ = self.exit
        if self._pending:
            self._pending = False
            if not self._finish_access(exit_.size, exit_.value, exit_.failed):
                return self._too_many_accesses()
        view, at, notified, enter = self.engine.view, self._record_at, self._vm.notified, self._run
        while True:
            enter()
            kind, size, is_write, _, address, value = _RECORD.unpack_from(view, at)
            if not is_write or kind > ExitKind.MMIO:
                break
            watch = notified.get(address if kind else ~address)
            if watch is None or watch[0] != size:
                break
            watch[1](value)
            if not self._finish_access(size, 0, failed=False):
                return self._too_many_accesses()
        exit_.kind = kind
        exit_.address = address
        exit_.size = size
        exit_.is_write = bool(is_write)
        if kind in _READS:
            if kind == ExitKind.IO and not is_write and address in self._vm.buffered_ports:
                move_ahead(self.engine, self._vm.memory, size, self._vm.buffered_ports[address])
            exit_.value = value if is_write or kind == ExitKind.MSR_WRITE else 0
            exit_.failed = False
            self._pending = True
        elif kind == ExitKind.INTERNAL_ERROR:
            exit_.message = f"the guest executes at {self.engine.get('pc'):#x}, where there is no memory"
        return exit_

    def _finish_access(self, size: int, value: int, failed: bool) -> bool:  # noqa: FBT001 - hot path
        """Record the machine's answer; the instruction runs again and finds it. False when there is no more room."""
        words = self._words
        done = words[_ACCESS_DONE]
        if done >= MAX_ACCESSES:
            return False
        words[_ACCESS_VALUES + done] = value & _MASKS[size]
        words[_ACCESS_DONE] = done + 1
        words[_MSR_FAILED] = failed
        words[_SINGLE] = 1
        return True

    def _too_many_accesses(self) -> VcpuExit:
        at = self.engine.get("pc")
        self.exit.kind = ExitKind.INTERNAL_ERROR
        self.exit.message = f"the guest makes more than {MAX_ACCESSES} device accesses in one instruction at {at:#x}"
        return self.exit

    def kick(self) -> None:
        """Leave guest mode soon."""
        self._change_request(Request.KICK, 0)

    def set_interrupt(self, *, pending: bool) -> None:
        """Drive INTR."""
        self.engine.set("interrupt_line", int(pending))
        if pending:
            self._change_request(Request.INTERRUPT, 0)
        else:
            self._change_request(0, Request.INTERRUPT)

    def sleep_by_itself(self) -> None:
        """Have HLT wait in compiled code."""
        self.engine.set("sleeps", 1)

    def rest(self) -> None:
        """Begin the next run in HLT."""
        self.engine.set("rests", 1)
        self._change_request(Request.INTERRUPT, 0)

    def look_for_interrupts(self) -> None:
        """Have compiled code look at the local APIC."""
        self._change_request(Request.INTERRUPT, 0)

    def inject(self, vector: int) -> None:
        """Deliver external interrupt `vector` at the start of the next run."""
        self._words[_EVENT_INJECT] = 0x100 | vector
        self._change_request(Request.INTERRUPT, 0)

    def raise_nmi(self) -> None:
        """Latch an NMI."""
        self._change_request(Request.NMI, 0)

    def read_registers(self) -> Mapping[str, int]:
        """All registers by name."""
        return read_registers(self.engine)

    def write_registers(self, values: Mapping[str, int]) -> None:
        """Set registers by name; KeyError for a name that does not exist."""
        write_registers(self.engine, values)

    def reset(self) -> None:
        """Put the processor in its state after RESET."""
        self._pending = False
        self.engine.set("rests", 0)
        reset_registers(self.engine, self.index)
        self._place_cpuid()
        self._change_request(Request.INVALIDATE, 0)
        self.engine.call("dispatch.forget_code")
        self.engine.call("mmu.flush_all")

    def save(self) -> EmulatorVcpuState:
        """The vCPU between two instructions; an access that the machine has answered is part of it."""
        if self._pending:
            self._pending = False
            if not self._finish_access(self.exit.size, self.exit.value, self.exit.failed):
                msg = "the processor stands in an instruction with too many device accesses"
                raise StateError(msg)
        return save_vcpu(self.engine, self._vm.tsc_skew(self.index))

    def load(self, state: EmulatorVcpuState) -> None:
        """Take over a saved vCPU; the state of the whole VM must have been loaded before."""
        self.reset()
        load_vcpu(self.engine, state)
        self._change_request(Request.INVALIDATE, 0)
        self._vm.set_tsc_skew(self.index, state.tsc_skew)

    def _place_cpuid(self) -> None:
        rows = _guest_rows(cpuid.rows(self.index, self._vm.tsc_hz), self._vm.cpu_model)
        self.engine.set_table("cpuid", b"".join(struct.pack("<6I", *row) for row in rows))
        self.engine.set("cpuid_count", len(rows))

    def log_dirty(self, address: int) -> None:
        """Where to mark pages that are written; 0 for nowhere. Compiled code may look at any time: it is one store."""
        self._words[_DIRTY] = address

    def note_write(self, gpa: int, length: int) -> None:
        """The host wrote guest memory: drop translated code there. Any thread, never waits."""
        engine = self.engine
        end = gpa + length
        for start, stop, page in self._pages:
            if gpa < stop and start < end:
                # RAM pages are numbered through all regions: `page` is the number that address 0 would have.
                first = page + (max(gpa, start) >> _PAGE_SHIFT)
                last = page + (min(end, stop) + _PAGE_MASK >> _PAGE_SHIFT)
                hit = engine.code_pages(first, last)
                if hit:
                    self._drop_code([number - page << _PAGE_SHIFT for number in hit])

    def _drop_code(self, addresses: list[int]) -> None:
        """Queue pages for the vCPU; when they are too many, as while it sleeps, have it forget all code instead."""
        if len(addresses) > INVALIDATE_RING:
            self._change_request(Request.FORGET, 0)
            return
        for address in addresses:
            self.engine.call("sharing.post", address)


def _cpuid_entries(rows: list[tuple[int, ...]]) -> list[CpuidEntry]:
    """The engine's CPUID table, in the form that models are applied to."""
    return [CpuidEntry(row[0], 0 if row[1] == cpuid.ANY_SUBLEAF else row[1], 0, *row[2:]) for row in rows]


def _guest_rows(rows: list[tuple[int, ...]], model: CpuModel) -> list[tuple[int, ...]]:
    """The table without the features that `model` does not have."""
    entries = filter_cpuid(_cpuid_entries(rows), model)
    return [(*row[:2], entry.eax, entry.ebx, entry.ecx, entry.edx) for row, entry in zip(rows, entries, strict=True)]


def _page_ranges(regions: list[tuple[int, int, int, bool]]) -> list[tuple[int, int, int]]:
    """Start, end and page number offset of each region."""
    ranges = []
    number = 0
    for gpa, size, _, _ in regions:
        ranges.append((gpa, gpa + size, number - (gpa >> _PAGE_SHIFT)))
        number += size >> _PAGE_SHIFT
    return ranges


class EmulatorVm:
    """A virtual machine run by the translator; see `accel.api.Vm`."""

    has_kernel_irqchip = False
    state_type: ClassVar = EmulatorState
    state_version: ClassVar = 1

    def __init__(
        self,
        memory: GuestMemory,
        progress: Callable[[int, int], None] | None = None,
        cpu_model: CpuModel = HOST,
    ) -> None:
        """`progress(done, total)` is called while the engine is compiled, the first time on a host.

        A feature that `cpu_model` lacks is not announced by CPUID; the instructions are there all the same. Raises
        CpuUnavailableError for one with features that the engine lacks.
        """
        check_model(_cpuid_entries(cpuid.rows(0, cpuid.CRYSTAL_HZ)), cpu_model, "the emulator")
        self.cpu_model = cpu_model
        self.memory = memory
        self.library = x86_library(progress)
        self._queues = EngineQueues(memory)
        self.vcpus: list[EmulatorVcpu] = []
        self._shared: mmap.mmap | None = None
        self.tsc_hz = 0
        """Frequency of the time-stamp counter, as the guest was told."""
        self._host_counter: HostCounter | None = None
        self._instant_ns = 0
        self._tsc_base = 0
        self.notified: dict[int, tuple[int, Callable[[int], None]]] = {}
        """Watched addresses, ports complemented: the size of the write, and whom to call."""
        self.buffered_ports: dict[int, Callable[[int, int], bytes]] = {}
        """Ports behind which devices have buffers; see `accel.api.BufferedReads`."""
        self._dirty_tables: list[DirtyTable] = []
        memory.on_write(self._written)

    def create_vcpu(self, index: int) -> EmulatorVcpu:
        """Add a vCPU, in its state after RESET; all memory must have been added before."""
        vcpu = EmulatorVcpu(self, index)
        self._share([*self.vcpus, vcpu])
        if self._host_counter is None:
            self._host_counter = HostCounter(functools.partial(_counter, vcpu.engine))
            self.tsc_hz = self._host_counter.frequency_hz()
        vcpu.reset()
        self.vcpus.append(vcpu)
        return vcpu

    def _share(self, vcpus: list[EmulatorVcpu]) -> None:
        """Let the vCPUs hear of one another's writes to code."""
        if len(vcpus) > _MAX_VCPUS:
            msg = f"the translator runs at most {_MAX_VCPUS} vCPUs"
            raise UserError(msg)
        if self._shared is None:
            pages = sum(region.size_bytes for region in self.memory.regions) >> _PAGE_SHIFT
            self._shared = mmap.mmap(-1, 8 * (_MAX_VCPUS + pages), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        peers = ctypes.addressof(ctypes.c_char.from_buffer(self._shared))
        for number, vcpu in enumerate(vcpus):
            struct.pack_into("<Q", self._shared, 8 * number, vcpu.engine.address)
            vcpu.engine.share(number, peers + 8 * _MAX_VCPUS, peers, len(vcpus))

    def irqchip(self) -> InterruptChip:
        """There is none: the machine brings its own."""
        msg = "the translator has no interrupt chip of its own"
        raise TypeError(msg)

    def read_tsc(self, index: int) -> int:
        """The guest's time-stamp counter on vCPU `index` now."""
        engine = self.vcpus[index].engine
        return (_counter(engine) + engine.get("tsc_offset")) % (1 << 64)

    def set_instant(self, monotonic_ns: int) -> None:
        """The moment whose time `save` gives, and from which `load` lets time go on."""
        self._instant_ns = monotonic_ns

    @property
    def _counter_at_instant(self) -> int:
        if self._host_counter is None:
            msg = "the machine has no processor"
            raise StateError(msg)
        return self._host_counter.at(self._instant_ns)

    def save(self) -> EmulatorState:
        """The counter of vCPU 0 at the instant."""
        tsc = (self._counter_at_instant + self.vcpus[0].engine.get("tsc_offset")) % (1 << 64)
        return EmulatorState(tsc=tsc, tsc_hz=self.tsc_hz, cpuid=self._cpuid())

    def load(self, state: EmulatorState) -> None:
        """Let the counter go on from where it stood; the vCPUs follow with their own states.

        Raises StateError when this host's counter runs at another frequency, or this version has another processor.
        """
        if abs(state.tsc_hz - self.tsc_hz) * _TSC_TOLERANCE > self.tsc_hz:
            theirs, ours = round(state.tsc_hz / 1e6), round(self.tsc_hz / 1e6)
            msg = f"the state is from a host whose time-stamp counter runs at {theirs} MHz; here it is {ours} MHz"
            raise StateError(msg)
        measured, self.tsc_hz = self.tsc_hz, state.tsc_hz
        if self._cpuid() != state.cpuid:
            self.tsc_hz = measured
            msg = "the state is of another processor model: it was saved by another version of pyhyve"
            raise StateError(msg)
        self._tsc_base = (state.tsc - self._counter_at_instant) % (1 << 64)

    def _cpuid(self) -> tuple[int, ...]:
        rows = _guest_rows(cpuid.rows(0, self.tsc_hz), self.cpu_model)
        return tuple(number for row in rows for number in row)

    def tsc_skew(self, index: int) -> int:
        """How far the counter of vCPU `index` is ahead of vCPU 0's."""
        ahead = (self.vcpus[index].engine.get("tsc_offset") - self.vcpus[0].engine.get("tsc_offset")) % (1 << 64)
        return ahead - (1 << 64) if ahead >> 63 else ahead

    def set_tsc_skew(self, index: int, skew: int) -> None:
        """Place the counter of vCPU `index` beside the one that was loaded."""
        self.vcpus[index].engine.set("tsc_offset", (self._tsc_base + skew) % (1 << 64))

    def advance_time(self, duration_ns: int) -> None:
        """Let the guest's counters jump ahead."""
        ticks = 0 if self._host_counter is None else self._host_counter.ticks(duration_ns)
        for vcpu in self.vcpus:
            vcpu.engine.set("tsc_offset", vcpu.engine.get("tsc_offset") + ticks)

    def sleeps(self, index: int) -> bool:
        """Never: the machine looks after sleeping vCPUs."""
        del index
        return False

    def has_interrupt_pending(self) -> bool:
        """Whether the interrupt input of a vCPU is high."""
        return any(
            vcpu.engine.get("interrupt_line") or vcpu.engine.get("event_inject") or vcpu.apic_vectors.irr
            for vcpu in self.vcpus
        )

    def _written(self, gpa: int, length: int) -> None:
        for vcpu in self.vcpus:
            vcpu.note_write(gpa, length)

    def on_notify(self, address: int, size: int, callback: Callable[[int], None], *, is_port: bool = False) -> None:
        """Call `callback(value)` for each guest write of `size` bytes here, past the bus and without the machine lock.

        It is called on the vCPU's thread: what takes long belongs on a thread of its own.
        """

        def notify(value: int) -> None:
            try:
                callback(value)
            except Exception:  # noqa: BLE001 - one device's fault must not silence the others
                _LOG.exception("a notification handler failed")

        self.notified[~address if is_port else address] = (size, notify)

    def on_buffered_read(self, port: int, take: Callable[[int, int], bytes]) -> None:
        """Let string instructions empty a buffer behind `port`."""
        self.buffered_ports[port] = take

    def start_dirty_log(self, table: DirtyTable) -> None:
        """Have vCPUs and compiled queues mark what they write in `table`."""
        if all(each is not table for each in self._dirty_tables):
            self._dirty_tables.append(table)  # which compiled code may look at for a moment after the end
        for vcpu in self.vcpus:
            vcpu.log_dirty(table.address)
        self.sync_dirty_log()

    def sync_dirty_log(self) -> None:
        """Have the next write to each page marked. Marks are in the table as they are made."""
        for kernel in ("sharing.drain", "mmu.forget_writes"):
            # Of writes to code that the others hold they are told by whoever has lost a fast way to it: before it does.
            for vcpu in self.vcpus:
                vcpu.engine.call(kernel)

    def stop_dirty_log(self) -> None:
        """Leave off."""
        for vcpu in self.vcpus:
            vcpu.log_dirty(0)

    def remove_notify(self, address: int, *, is_port: bool = False) -> None:
        """Undo `on_notify` at `address`; nothing happens when there was none."""
        self.notified.pop(~address if is_port else address, None)

    def walk_queue(self, layout: WalkedLayout) -> WalkedQueue | None:
        """Serve a split virtqueue in compiled code; None before there is a vCPU."""
        if not self.vcpus:
            return None
        return self._queues.walk(layout, [vcpu.engine for vcpu in self.vcpus], self.tsc_hz)

    def close(self) -> None:
        """Free the vCPUs' memory."""
        for vcpu in self.vcpus:
            vcpu.listener.close()
            vcpu.engine.close()
        self.vcpus.clear()
        self._queues.close()


def _counter(engine: EngineVcpu) -> int:
    engine.call("x86.sample_counter")
    return engine.get("bounce")
