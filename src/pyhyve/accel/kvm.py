"""A machine's engine on the host's KVM, with the interrupt chip and the timer in the kernel."""

from __future__ import annotations

import contextlib
import signal
import threading
import time

from pyhyve.accel.cpu_models import HOST, CpuUnavailableError, guest_cpuid
from pyhyve.accel.kvm_clock import advance_clock, clock_at, place_clock
from pyhyve.accel.kvm_notify import NotifyThread
from pyhyve.accel.kvm_state import KvmState
from pyhyve.accel.kvm_vcpu import KICK_SIGNAL, KvmVcpu
from pyhyve.kvm.abi import IOAPIC_PINS, Cap, IrqchipId, MemFlag, MpState
from pyhyve.kvm.dirty import DirtyRing, bitmap_pages
from pyhyve.kvm.ioctls import KvmError
from pyhyve.kvm.system import KvmSystem
from pyhyve.kvm.vm import IrqchipRoute, MsiRoute
from pyhyve.state.errors import StateError
from pyhyve.support.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ClassVar

    from pyhyve.accel.cpu_models import CpuModel
    from pyhyve.kvm.cpuid import CpuidEntry
    from pyhyve.kvm.stats import StatisticsFile
    from pyhyve.memory.dirty import DirtyTable
    from pyhyve.memory.guest import GuestMemory, MemoryRegion

_TSS_GPA = 0xFFFBD000
_IDENTITY_MAP_GPA = 0xFFFBC000
"""Four pages that VMX without unrestricted guest needs, where PC firmware keeps them: below the flash."""
_ISA_IRQS = 16
_PIC_PINS = 8
_PAGE_SHIFT = 12


class KvmSetupError(UserError):
    """KVM is there but cannot make this VM."""


class KernelIrqchip:
    """The kernel's 8259s, I/O APIC and local APICs; see `accel.api.InterruptChip`."""

    def __init__(self, vm: KvmVm) -> None:
        self._vm = vm
        self._routes: list[IrqchipRoute | MsiRoute] = []
        for gsi in range(IOAPIC_PINS):
            if gsi < _ISA_IRQS:
                chip = IrqchipId.PIC_SLAVE if gsi >= _PIC_PINS else IrqchipId.PIC_MASTER
                self._routes.append(IrqchipRoute(gsi, chip, gsi % _PIC_PINS))
            self._routes.append(IrqchipRoute(gsi, IrqchipId.IOAPIC, gsi))
        self._messages: dict[int, MsiRoute] = {}
        self._lock = threading.Lock()

    def set_gsi(self, gsi: int, *, level: bool) -> None:
        """Drive global system interrupt `gsi` (0-23)."""
        self._vm.handle.set_irq(gsi, level=level)

    def send_msi(self, address: int, data: int) -> None:
        """Deliver a message-signalled interrupt."""
        self._vm.handle.signal_msi(address, data)

    def route_msi(self, address: int, data: int, gsi: int | None = None) -> int:
        """A GSI whose `attach_irqfd` sends this message; give `gsi` to change the message of one made before."""
        with self._lock:
            if gsi is None:
                gsi = next(number for number in range(IOAPIC_PINS, 4096) if number not in self._messages)
            self._messages[gsi] = MsiRoute(gsi, address, data)
            self._vm.handle.set_routes([*self._routes, *self._messages.values()])
            return gsi

    def drop_route(self, gsi: int) -> None:
        """Give up a GSI of `route_msi`."""
        with self._lock:
            if self._messages.pop(gsi, None) is not None:
                self._vm.handle.set_routes([*self._routes, *self._messages.values()])

    def attach_irqfd(self, event_fd: int, gsi: int, resample_fd: int | None = None) -> None:
        """Each write to `event_fd` raises `gsi`, from the kernel (vhost) or any process."""
        self._vm.handle.attach_irqfd(event_fd, gsi, resample_fd=resample_fd)

    def detach_irqfd(self, event_fd: int, gsi: int) -> None:
        """Undo `attach_irqfd`."""
        self._vm.handle.detach_irqfd(event_fd, gsi)


class KvmVm:
    """One virtual machine on KVM; see `accel.api.Vm`. Create it on the main thread (it installs a signal handler)."""

    state_type: ClassVar = KvmState
    state_version: ClassVar = 1

    def __init__(
        self,
        memory: GuestMemory,
        *,
        cpu_model: CpuModel = HOST,
        kernel_irqchip: bool = True,
        tsc_khz: int | None = None,
        dirty_ring_size_bytes: int = 0,
    ) -> None:
        """Map all regions of `memory`; `map_region` adds later ones.

        `dirty_ring_size_bytes` is a power of two of pages, or 0 for bitmaps. Raises KvmSetupError when KVM refuses,
        CpuUnavailableError when the host lacks a feature of `cpu_model`.
        """
        self.memory = memory
        self.has_kernel_irqchip = kernel_irqchip
        self.coalesced_lock = threading.Lock()
        self._cpu_model = cpu_model
        self._tsc_khz = tsc_khz
        self._instant_ns: int | None = None
        self._statistics: dict[int | None, StatisticsFile] = {}
        self._ring_size_bytes = dirty_ring_size_bytes
        self._rings: list[DirtyRing] = []
        self._ring_pages: set[tuple[int, int]] = set()
        self._slots: dict[int, MemoryRegion] = {}
        self._next_slot = 0
        self._log_dirty = False
        self._dirty_table: DirtyTable | None = None
        self._vcpus: list[KvmVcpu] = []
        self._prepared = False
        self._msr_indices: tuple[int, ...] | None = None
        self._prepare_lock = threading.Lock()
        self._dirty_lock = threading.Lock()
        self._notify = NotifyThread()
        self._ioeventfds: list[tuple[int, int, int, int | None, bool]] = []
        self._watch_coalesced = False
        _install_kick_handler()
        try:
            self._system = KvmSystem()
            self.handle = self._system.create_vm()
            self._create()
        except CpuUnavailableError:
            self.close()
            raise
        except OSError as error:
            self._notify.close()
            msg = f"KVM cannot make a machine: {error.strerror}"
            raise KvmSetupError(msg) from error

    def _create(self) -> None:
        self._supported_cpuid = self._system.supported_cpuid()
        self._cpuid(0, 1)  # a model that this host cannot provide is refused before anything is made
        if self._system.check(Cap.SET_TSS_ADDR):
            self.handle.set_tss_address(_TSS_GPA)
        if self._system.check(Cap.SET_IDENTITY_MAP_ADDR):
            self.handle.set_identity_map_address(_IDENTITY_MAP_GPA)
        if self._ring_size_bytes:
            self.handle.enable_dirty_ring(self._ring_size_bytes)
        if self.has_kernel_irqchip:
            self.handle.create_irqchip()
            self.handle.create_pit()
            self._irqchip = KernelIrqchip(self)
            chips = (IrqchipId.PIC_MASTER, IrqchipId.PIC_SLAVE, IrqchipId.IOAPIC)
            self._chip_states = {chip: self.handle.irqchip_state(chip) for chip in chips}
            self._pit_state = self.handle.pit_state()
        for region in self.memory.regions:
            self.map_region(region)

    # --- memory -------------------------------------------------------------------------------------------------------

    def map_region(self, region: MemoryRegion) -> None:
        """Make `region` visible to the guest; also while it runs (hot-add). Raises KvmError."""
        slot, self._next_slot = self._next_slot, self._next_slot + 1
        self._slots[slot] = region
        self._set_slot(slot, region)

    def _set_slot(self, slot: int, region: MemoryRegion) -> None:
        flags = MemFlag.READONLY if region.readonly else MemFlag(0)
        if self._log_dirty and not region.readonly:
            flags |= MemFlag.LOG_DIRTY_PAGES
        self.handle.set_memory(slot, region.gpa, region.size_bytes, region.hva, flags)

    def unmap_region(self, region: MemoryRegion) -> None:
        """Take `region` away from the guest. Raises KeyError when it is not mapped."""
        for slot, mapped in self._slots.items():
            if mapped is region:
                self.handle.set_memory(slot, region.gpa, 0, region.hva)
                del self._slots[slot]
                return
        raise KeyError(region.name)

    def has_memory(self, gpa: int) -> bool:
        """Whether a mapped region holds `gpa`."""
        return any(region.gpa <= gpa < region.gpa + region.size_bytes for region in self._slots.values())

    def log_dirty(self, *, enable: bool) -> None:
        """Record which pages the guest writes, from now on, or stop that."""
        self._log_dirty = enable
        for slot, region in self._slots.items():
            self._set_slot(slot, region)

    def take_dirty(self) -> list[int]:
        """Guest physical addresses of the pages written since the last call, rising."""
        if self._ring_size_bytes:
            self.collect_dirty()
            with self._dirty_lock:
                pages, self._ring_pages = self._ring_pages, set()
            return sorted(self._slots[slot].gpa + (page << _PAGE_SHIFT) for slot, page in pages if slot in self._slots)
        found = []
        for slot, region in self._slots.items():
            if not region.readonly:
                bitmap = self.handle.dirty_bitmap(slot, region.size_bytes)
                found += [region.gpa + (page << _PAGE_SHIFT) for page in bitmap_pages(bitmap)]
        return sorted(found)

    def start_dirty_log(self, table: DirtyTable) -> None:
        """Have KVM log what the guest writes, for `table`."""
        self._dirty_table = table
        self.log_dirty(enable=True)
        self.take_dirty()

    def sync_dirty_log(self) -> None:
        """Take KVM's marks over."""
        table = self._dirty_table
        if table is None:
            return
        if self._ring_size_bytes:
            for gpa in self.take_dirty():
                table.mark(gpa, 1 << _PAGE_SHIFT)
            return
        for slot, region in self._slots.items():
            if not region.readonly:
                table.mark_bits(region.gpa, self.handle.dirty_bitmap(slot, region.size_bytes))

    def stop_dirty_log(self) -> None:
        """Leave off."""
        if self._dirty_table is not None:
            self._dirty_table = None
            self.log_dirty(enable=False)

    def collect_dirty(self) -> None:
        """Empty the dirty rings into this object, so that vCPUs with a full one go on."""
        with self._dirty_lock:
            for ring in self._rings:
                self._ring_pages.update(ring.collect())
            if self._rings:
                self.handle.reset_dirty_rings()

    # --- vCPUs --------------------------------------------------------------------------------------------------------

    def create_vcpu(self, index: int) -> KvmVcpu:
        """Add a vCPU; all must be there before the first runs. Raises KvmSetupError."""
        try:
            vcpu = KvmVcpu(self.handle.create_vcpu(index), self)
        except KvmError as error:
            most = self._system.check(Cap.MAX_VCPUS)
            msg = f"KVM cannot make vCPU {index} (this host allows {most}): {error.strerror}"
            raise KvmSetupError(msg) from error
        if self._ring_size_bytes:
            self._rings.append(DirtyRing(vcpu.handle.fd, self._ring_size_bytes))
        if self._watch_coalesced:
            vcpu.watch_coalesced()
        self._vcpus.append(vcpu)
        self._prepared = False
        return vcpu

    def prepare(self) -> None:
        """Give every vCPU its CPUID, TSC frequency and reset state, once all are there."""
        with self._prepare_lock:
            if self._prepared:
                return
            for vcpu in self._vcpus:
                vcpu.handle.set_cpuid(self._cpuid(vcpu.index, len(self._vcpus)))
                if self._tsc_khz is not None:
                    self._set_tsc_khz(vcpu, self._tsc_khz)
                vcpu.remember_power_on()
            self._prepared = True

    def _cpuid(self, index: int, cpu_count: int) -> tuple[CpuidEntry, ...]:
        """What the guest's CPUID answers. Raises CpuUnavailableError."""
        deadline = self.has_kernel_irqchip and bool(self._system.check(Cap.TSC_DEADLINE_TIMER))
        return guest_cpuid(self._supported_cpuid, self._cpu_model, index, cpu_count, has_tsc_deadline=deadline)

    @staticmethod
    def _set_tsc_khz(vcpu: KvmVcpu, khz: int) -> None:
        try:
            vcpu.handle.set_tsc_khz(khz)
        except KvmError as error:
            msg = f"the host's TSC runs at {vcpu.handle.tsc_khz()} kHz and cannot be scaled to {khz} kHz"
            raise KvmSetupError(msg) from error

    def msr_indices(self) -> tuple[int, ...]:
        """MSRs that hold vCPU state on this host."""
        if self._msr_indices is None:
            self._msr_indices = self._system.msr_indices()
        return self._msr_indices

    def reset_chips(self) -> None:
        """Put the interrupt chip and the timer in their power-on state."""
        if self.has_kernel_irqchip:
            for chip, state in self._chip_states.items():
                self.handle.set_irqchip_state(chip, state)
            self.handle.set_pit_state(self._pit_state)

    # --- state --------------------------------------------------------------------------------------------------------

    def supported_cpuid(self) -> tuple[CpuidEntry, ...]:
        """The CPUID leaves this host and KVM can give a guest."""
        return self._supported_cpuid

    def xsave_size_bytes(self) -> int:
        """Size of a vCPU's XSAVE area."""
        return max(self.handle.check(Cap.XSAVE2), 4096)

    def set_instant(self, monotonic_ns: int) -> None:
        """The moment whose time `save` gives, and from which `load` lets time go on."""
        self._instant_ns = monotonic_ns

    @property
    def instant_ns(self) -> int:
        """What `set_instant` was given; the present when it was not called."""
        return time.monotonic_ns() if self._instant_ns is None else self._instant_ns

    def save(self) -> KvmState:
        """Clock, interrupt chip and timer; no vCPU may run."""
        has_chips = self.has_kernel_irqchip
        chip = self.handle.irqchip_state
        return KvmState(
            clock_ns=clock_at(self.handle, self.instant_ns),
            pic_master=chip(IrqchipId.PIC_MASTER) if has_chips else None,
            pic_slave=chip(IrqchipId.PIC_SLAVE) if has_chips else None,
            ioapic=chip(IrqchipId.IOAPIC) if has_chips else None,
            pit=self.handle.pit_state() if has_chips else None,
        )

    def load(self, state: KvmState) -> None:
        """Take over clock, interrupt chip and timer; raises StateError when one of the two has no chips here."""
        if state.pic_master is None or state.pic_slave is None or state.ioapic is None or state.pit is None:
            if self.has_kernel_irqchip:
                msg = "the state is of a machine without an interrupt chip in the kernel"
                raise StateError(msg)
        elif not self.has_kernel_irqchip:
            msg = "the state is of a machine with an interrupt chip in the kernel"
            raise StateError(msg)
        else:
            self.handle.set_irqchip_state(IrqchipId.PIC_MASTER, state.pic_master)
            self.handle.set_irqchip_state(IrqchipId.PIC_SLAVE, state.pic_slave)
            self.handle.set_irqchip_state(IrqchipId.IOAPIC, state.ioapic)
            self.handle.set_pit_state(state.pit)
        place_clock(self.handle, state.clock_ns, self.instant_ns)

    def advance_time(self, duration_ns: int) -> None:
        """Put kvmclock and the vCPUs' counters forward."""
        for vcpu in self._vcpus:
            vcpu.advance_tsc(duration_ns)
        advance_clock(self.handle, duration_ns)

    def sleeps(self, index: int) -> bool:
        """Whether the kernel has vCPU `index` wait: in HLT, or for a start-up message."""
        return self.has_kernel_irqchip and self._vcpus[index].handle.mp_state() is not MpState.RUNNABLE

    def has_interrupt_pending(self) -> bool:
        """Whether a local APIC of the kernel's holds requests."""
        return self.has_kernel_irqchip and any(vcpu.has_interrupt_pending() for vcpu in self._vcpus)

    def statistics(self, index: int | None) -> StatisticsFile:
        """What KVM counts of vCPU `index`, or of the VM. Raises KvmError; no vCPU may run the first time."""
        if index not in self._statistics:
            from pyhyve.kvm.stats import StatisticsFile  # noqa: PLC0415 - few clients ask

            handle = self.handle if index is None else self._vcpus[index].handle
            self._statistics[index] = StatisticsFile(handle.fd)
        return self._statistics[index]

    # --- interrupts and notifications ---------------------------------------------------------------------------------

    def irqchip(self) -> KernelIrqchip:
        """The kernel's interrupt chip. Raises RuntimeError when the VM was made without."""
        if not self.has_kernel_irqchip:
            msg = "this VM has no in-kernel interrupt chip"
            raise RuntimeError(msg)
        return self._irqchip

    def on_notify(
        self,
        address: int,
        size: int,
        callback: Callable[[int], None],
        *,
        is_port: bool = False,
        match: int | None = None,
    ) -> None:
        """Call `callback` off the vCPU thread for each guest write here, or each write of `match`.

        KVM does not tell what was written: the callback gets `match`, or 0 when every value counts. Writes that
        come in quick succession may make one call.
        """
        value = match or 0
        event_fd = self._notify.add(lambda: callback(value))
        try:
            self.attach_ioeventfd(event_fd, address, size, is_port=is_port, match=match)
        except KvmError:
            self._notify.remove(event_fd)
            raise

    def remove_notify(self, address: int) -> None:
        """Undo every `on_notify` and `attach_ioeventfd` at `address`."""
        for entry in [entry for entry in self._ioeventfds if entry[1] == address]:
            event_fd, _, size, match, is_port = entry
            self.handle.set_ioeventfd(event_fd, address, size, match=match, is_port=is_port, enable=False)
            self._ioeventfds.remove(entry)
            self._notify.remove(event_fd)

    def attach_ioeventfd(
        self, event_fd: int, address: int, size: int, *, is_port: bool = False, match: int | None = None
    ) -> None:
        """Let the kernel signal `event_fd` (a vhost back end's kick) on a guest write. Raises KvmError."""
        self.handle.set_ioeventfd(event_fd, address, size, match=match, is_port=is_port)
        self._ioeventfds.append((event_fd, address, size, match, is_port))

    def route_event(self, event_fd: int, address: int, data: int) -> Callable[[], None] | None:
        """Send this MSI for each signal of `event_fd` (a vhost back end's call); returns what ends that.

        None when that cannot be done: without the in-kernel chip, or when KVM has no more routes.
        """
        if not self.has_kernel_irqchip:
            return None
        chip = self._irqchip
        try:
            gsi = chip.route_msi(address, data)
        except (KvmError, StopIteration):
            return None
        try:
            chip.attach_irqfd(event_fd, gsi)
        except KvmError:
            chip.drop_route(gsi)
            return None

        def end() -> None:
            with contextlib.suppress(KvmError):
                chip.detach_irqfd(event_fd, gsi)
                chip.drop_route(gsi)

        return end

    def coalesce(self, address: int, size_bytes: int, *, is_port: bool = False) -> None:
        """Deliver writes here only together with the next exit of another kind (VGA memory, an index port)."""
        self.handle.coalesce(address, size_bytes, is_port=is_port)
        self._watch_coalesced = True
        for vcpu in self._vcpus:
            vcpu.watch_coalesced()

    # --- time and end -------------------------------------------------------------------------------------------------

    def clock_ns(self) -> int:
        """Now on the guest's kvmclock."""
        return self.handle.clock()["clock"]

    def resume_clock(self, clock_ns: int) -> None:
        """Set kvmclock."""
        self.handle.set_clock(clock_ns)

    def note_pause(self) -> None:
        """The vCPUs stood still: keep the soft-lockup watchdogs of guests with kvmclock quiet. No vCPU may run."""
        for vcpu in self._vcpus:
            with contextlib.suppress(KvmError):  # a guest that does not use kvmclock
                vcpu.handle.note_pause()

    def close(self) -> None:
        """Free everything; idempotent. No vCPU may be running."""
        self._notify.close()
        for ring in self._rings:
            ring.close()
        self._rings.clear()
        for statistics in self._statistics.values():
            statistics.close()
        self._statistics.clear()
        for vcpu in self._vcpus:
            vcpu.close()
        self._vcpus.clear()
        self._slots.clear()
        self.handle.close()
        self._system.close()


def _ignore(_signal: int, _frame: object) -> None:
    """A kick only interrupts `KVM_RUN`."""


def _install_kick_handler() -> None:
    if signal.getsignal(KICK_SIGNAL) is not _ignore:
        signal.signal(KICK_SIGNAL, _ignore)
