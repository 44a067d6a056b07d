"""The translator as an accelerator: `Vm` and `Vcpu` over the x86 engine.

Each vCPU has its own code cache and TLBs; guest memory is shared. The machine brings the interrupt controllers.
"""

from __future__ import annotations

import struct
import threading
import time
from typing import TYPE_CHECKING

from pyhyve.accel.api import ExitKind, VcpuExit
from pyhyve.accel.emulator_registers import read_registers, reset_registers, write_registers
from pyhyve.cpu.engine.state import MAX_ACCESSES, Request
from pyhyve.cpu.engine.vcpu import EngineVcpu
from pyhyve.cpu.isa.x86 import cpuid
from pyhyve.cpu.isa.x86.library import x86_library
from pyhyve.cpu.isa.x86.state import STATE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pyhyve.accel.api import InterruptChip
    from pyhyve.memory.guest import GuestMemory

_TLB_INDEXES = 3
_PAGE_SHIFT = 12
_RING = 256
_CALIBRATION_S = 0.02
_READS = {ExitKind.IO, ExitKind.MMIO, ExitKind.MSR_READ, ExitKind.MSR_WRITE}


class EmulatorVcpu:
    """One vCPU of the translator; see `accel.api.Vcpu`."""

    def __init__(self, vm: EmulatorVm, index: int) -> None:
        self.index = index
        self.exit = VcpuExit()
        regions = [(r.gpa, r.size_bytes, r.hva, r.readonly) for r in vm.memory.regions]
        self.engine = EngineVcpu(vm.library, STATE, regions, _TLB_INDEXES)
        self._vm = vm
        self._pending = False
        self._write_lock = threading.Lock()
        view = self.engine.view
        self._record = struct.Struct("<IIII QQ")
        self._record_at = STATE.offset("exit_kind")
        self._view = view
        self._run = self.engine.bind("x86.run")
        self._tables: list[bytes] = []

    @property
    def tsc_hz(self) -> int:
        """Frequency of the guest's time-stamp counter."""
        return self._vm.tsc_hz

    def run(self) -> VcpuExit:
        """Run guest code until the machine is needed."""
        exit_ = self.exit
        if self._pending:
            self._finish_access()
        self._run()
        kind, size, is_write, _, address, value = self._record.unpack_from(self._view, self._record_at)
        exit_.kind = kind
        exit_.address = address
        exit_.size = size
        exit_.is_write = bool(is_write)
        if kind in _READS:
            exit_.value = value if is_write or kind == ExitKind.MSR_WRITE else 0
            exit_.failed = False
            self._pending = True
        elif kind == ExitKind.INTERNAL_ERROR:
            exit_.message = f"the guest executes at {self.engine.get('pc'):#x}, where there is no memory"
        return exit_

    def _finish_access(self) -> None:
        """Record the machine's answer; the instruction runs again and finds it."""
        engine, exit_ = self.engine, self.exit
        self._pending = False
        done = engine.get("access_done")
        if done >= MAX_ACCESSES:
            msg = f"an instruction at {engine.get('pc'):#x} makes more than {MAX_ACCESSES} device accesses"
            raise RuntimeError(msg)
        mask = (1 << (8 * exit_.size)) - 1 if 0 < exit_.size < 8 else (1 << 64) - 1
        engine.set("access_values", exit_.value & mask, done)
        engine.set("access_done", done + 1)
        engine.set("msr_failed", int(exit_.failed))
        engine.set("single", 1)

    def kick(self) -> None:
        """Leave guest mode soon."""
        self.engine.call("x86.change_request", Request.KICK, 0)

    def set_interrupt(self, *, pending: bool) -> None:
        """Drive INTR."""
        self.engine.set("interrupt_line", int(pending))
        if pending:
            self.engine.call("x86.change_request", Request.INTERRUPT, 0)
        else:
            self.engine.call("x86.change_request", 0, Request.INTERRUPT)

    def inject(self, vector: int) -> None:
        """Deliver external interrupt `vector` at the start of the next run."""
        self.engine.set("event_inject", 0x100 | vector)
        self.engine.call("x86.change_request", Request.INTERRUPT, 0)

    def raise_nmi(self) -> None:
        """Latch an NMI."""
        self.engine.call("x86.change_request", Request.NMI, 0)

    def read_registers(self) -> Mapping[str, int]:
        """All registers by name."""
        return read_registers(self.engine)

    def write_registers(self, values: Mapping[str, int]) -> None:
        """Set registers by name; KeyError for a name that does not exist."""
        write_registers(self.engine, values)

    def reset(self) -> None:
        """Put the processor in its state after RESET."""
        self._pending = False
        reset_registers(self.engine, self.index)
        self._place_cpuid()
        self.engine.call("dispatch.forget_code")
        self.engine.call("mmu.flush_all")

    def _place_cpuid(self) -> None:
        rows = cpuid.rows(self.index, self._vm.tsc_hz)
        self.engine.set_table("cpuid", b"".join(struct.pack("<6I", *row) for row in rows))
        self.engine.set("cpuid_count", len(rows))

    def note_write(self, gpa: int, length: int) -> None:
        """The host wrote guest memory: drop translated code there. Any thread."""
        pages = self._vm.code_pages(self, gpa, length)
        if not pages:
            return
        engine = self.engine
        with self._write_lock:
            for page in pages:
                head = engine.get("invalidate_head")
                while head - engine.get("invalidate_tail") >= _RING:
                    time.sleep(0)  # the vCPU drains the ring at its next block
                engine.set("invalidate_ring", page, head % _RING)
                engine.set("invalidate_head", head + 1)
                engine.call("x86.change_request", Request.INVALIDATE, 0)


class EmulatorVm:
    """A virtual machine run by the translator; see `accel.api.Vm`."""

    has_kernel_irqchip = False

    def __init__(self, memory: GuestMemory, progress: Callable[[int, int], None] | None = None) -> None:
        """`progress(done, total)` is called while the engine is compiled, the first time on a host."""
        self.memory = memory
        self.library = x86_library(progress)
        self.vcpus: list[EmulatorVcpu] = []
        self.tsc_hz = 0
        memory.on_write(self._written)

    def create_vcpu(self, index: int) -> EmulatorVcpu:
        """Add a vCPU, in its state after RESET; all memory must have been added before."""
        vcpu = EmulatorVcpu(self, index)
        if not self.tsc_hz:
            self.tsc_hz = _measure_tsc(vcpu.engine)
        vcpu.reset()
        self.vcpus.append(vcpu)
        return vcpu

    def irqchip(self) -> InterruptChip:
        """There is none: the machine brings its own."""
        msg = "the translator has no interrupt chip of its own"
        raise TypeError(msg)

    def read_tsc(self, index: int) -> int:
        """The guest's time-stamp counter on vCPU `index` now."""
        engine = self.vcpus[index].engine
        return (_counter(engine) + engine.get("tsc_offset")) % (1 << 64)

    def code_pages(self, vcpu: EmulatorVcpu, gpa: int, length: int) -> list[int]:
        """Addresses of the pages in `[gpa, gpa + length)` of which `vcpu` holds translated code."""
        pages = []
        index = 0
        for region in self.memory.regions:
            first = max(gpa, region.gpa)
            last = min(gpa + length, region.gpa + region.size_bytes)
            for page in range(first >> _PAGE_SHIFT, -(-last >> _PAGE_SHIFT) if last > first else first >> _PAGE_SHIFT):
                number = index + page - (region.gpa >> _PAGE_SHIFT)
                if vcpu.engine.has_code(number):
                    pages.append(page << _PAGE_SHIFT)
            index += region.size_bytes >> _PAGE_SHIFT
        return pages

    def _written(self, gpa: int, length: int) -> None:
        for vcpu in self.vcpus:
            vcpu.note_write(gpa, length)

    def on_notify(self, address: int, size: int, callback: Callable[[int], None], *, is_port: bool = False) -> None:
        """Not offered: device writes reach the machine as exits."""
        raise NotImplementedError

    def close(self) -> None:
        """Free the vCPUs' memory."""
        for vcpu in self.vcpus:
            vcpu.engine.close()
        self.vcpus.clear()


def _counter(engine: EngineVcpu) -> int:
    engine.call("x86.sample_counter")
    return engine.get("bounce")


def _measure_tsc(engine: EngineVcpu) -> int:
    """Frequency of the counter that RDTSC reads, against the monotonic clock."""
    samples = []
    for wait in (0.0, _CALIBRATION_S):
        time.sleep(wait)
        best = min(
            (after - before, counter, (before + after) // 2)
            for before, counter, after in (
                (time.monotonic_ns(), _counter(engine), time.monotonic_ns()) for _ in range(8)
            )
        )
        samples.append(best[1:])
    (counter0, time0), (counter1, time1) = samples
    return max(1, round((counter1 - counter0) * 1_000_000_000 / (time1 - time0)))
