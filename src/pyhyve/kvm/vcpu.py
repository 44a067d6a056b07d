"""A vCPU descriptor: its shared page and every piece of state KVM lets user space read and write."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os

from pyhyve.kvm import structures as s
from pyhyve.kvm.abi import GuestDebug, Ioctl, MpState
from pyhyve.kvm.cpuid import CpuidEntry, pack_entries, unpack_entries
from pyhyve.kvm.ioctls import KvmError, call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Self

    from pyhyve.kvm.layout import StructLayout

_IMMEDIATE_EXIT = s.RUN.offsets["immediate_exit"]
_MAX_CPUID_ENTRIES = 256


class VcpuHandle:
    """One vCPU of the kernel. Only the thread that runs it should call its methods (api.rst, 3)."""

    def __init__(self, fd: int, index: int, mmap_size_bytes: int) -> None:
        self.fd = fd
        self.index = index
        self.shared = mmap.mmap(fd, mmap_size_bytes)
        """`struct kvm_run`, then the PIO page and the coalescing ring."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor and unmap the shared page; idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            with contextlib.suppress(BufferError):  # a view is still held: the mapping goes with it
                self.shared.close()

    def run(self) -> bool:
        """Enter the guest; False when a signal or `immediate_exit` ended it before an exit."""
        try:
            call(self.fd, Ioctl.RUN)
        except KvmError as error:
            if error.errno == errno.EINTR:
                return False
            raise
        return True

    @property
    def immediate_exit(self) -> bool:
        """Whether `KVM_RUN` returns before it enters the guest."""
        return self.shared[_IMMEDIATE_EXIT] != 0

    @immediate_exit.setter
    def immediate_exit(self, value: bool) -> None:
        self.shared[_IMMEDIATE_EXIT] = value

    def _get(self, request: Ioctl, layout: StructLayout) -> bytearray:
        buffer = bytearray(layout.size_bytes)
        call(self.fd, request, buffer)
        return buffer

    # --- registers ----------------------------------------------------------------------------------------------------

    def regs(self) -> dict[str, int]:
        """General registers, RIP and RFLAGS."""
        return s.REGS.unpack_ints(self._get(Ioctl.GET_REGS, s.REGS))

    def set_regs(self, values: Mapping[str, int]) -> None:
        """All of `regs`; a register not given becomes 0."""
        call(self.fd, Ioctl.SET_REGS, s.REGS.pack_fields(values))

    def sregs(self) -> dict[str, int | bytes | tuple[int, ...]]:
        """Segment, table and control registers, EFER, APIC base, by `structures.SREGS` names."""
        return s.SREGS.unpack(self._get(Ioctl.GET_SREGS, s.SREGS))

    def set_sregs(self, values: Mapping[str, int | bytes | tuple[int, ...]]) -> None:
        """All of `sregs`."""
        call(self.fd, Ioctl.SET_SREGS, s.SREGS.pack_fields(values))

    def fpu(self) -> dict[str, int | bytes | tuple[int, ...]]:
        """x87 and SSE state."""
        return s.FPU.unpack(self._get(Ioctl.GET_FPU, s.FPU))

    def set_fpu(self, values: Mapping[str, int | bytes | tuple[int, ...]]) -> None:
        """All of `fpu`."""
        call(self.fd, Ioctl.SET_FPU, s.FPU.pack_fields(values))

    def xsave(self, size_bytes: int = 4096) -> bytes:
        """The XSAVE area; `size_bytes` is what `Cap.XSAVE2` answers when that is more than 4096."""
        buffer = bytearray(max(size_bytes, s.XSAVE.size_bytes))
        call(self.fd, Ioctl.GET_XSAVE2 if size_bytes > s.XSAVE.size_bytes else Ioctl.GET_XSAVE, buffer)
        return bytes(buffer)

    def set_xsave(self, area: bytes) -> None:
        """Put back what `xsave` gave."""
        call(self.fd, Ioctl.SET_XSAVE, area)

    def xcrs(self) -> dict[int, int]:
        """Extended control registers by number; XCR0 is 0."""
        fields = s.XCRS.unpack(self._get(Ioctl.GET_XCRS, s.XCRS))
        area, count = fields["xcrs"], fields["nr_xcrs"]
        if not isinstance(area, bytes) or not isinstance(count, int):
            raise TypeError
        entries = [s.XCR.unpack_ints(area, number * s.XCR.size_bytes) for number in range(count)]
        return {entry["xcr"]: entry["value"] for entry in entries}

    def set_xcrs(self, values: Mapping[int, int]) -> None:
        """Set extended control registers."""
        area = b"".join(s.XCR.pack(number, value) for number, value in values.items())
        call(self.fd, Ioctl.SET_XCRS, s.XCRS.pack(len(values), 0, area))

    def debugregs(self) -> dict[str, int | bytes | tuple[int, ...]]:
        """DR0-DR3 as `db`, `dr6`, `dr7`."""
        return s.DEBUGREGS.unpack(self._get(Ioctl.GET_DEBUGREGS, s.DEBUGREGS))

    def set_debugregs(self, values: Mapping[str, int | bytes | tuple[int, ...]]) -> None:
        """All of `debugregs`."""
        call(self.fd, Ioctl.SET_DEBUGREGS, s.DEBUGREGS.pack_fields(values))

    def msrs(self, indices: Iterable[int]) -> dict[int, int]:
        """Values of the MSRs that KVM gives, in order, up to the first it refuses."""
        wanted = list(indices)
        buffer = bytearray(s.MSRS.pack(len(wanted)) + b"".join(s.MSR_ENTRY.pack(index, 0) for index in wanted))
        done = call(self.fd, Ioctl.GET_MSRS, buffer)
        entries = [
            s.MSR_ENTRY.unpack_ints(buffer, s.MSRS.size_bytes + number * s.MSR_ENTRY.size_bytes)
            for number in range(done)
        ]
        return {entry["index"]: entry["data"] for entry in entries}

    def set_msrs(self, values: Mapping[int, int]) -> int:
        """Set MSRs in order, up to the first KVM refuses; returns how many it took."""
        packed = s.MSRS.pack(len(values)) + b"".join(s.MSR_ENTRY.pack(index, value) for index, value in values.items())
        return call(self.fd, Ioctl.SET_MSRS, bytearray(packed))

    def cpuid(self) -> tuple[CpuidEntry, ...]:
        """The leaves set before."""
        buffer = bytearray(s.CPUID2.size_bytes + _MAX_CPUID_ENTRIES * s.CPUID_ENTRY2.size_bytes)
        s.CPUID2.pack_into(buffer, 0, _MAX_CPUID_ENTRIES)
        call(self.fd, Ioctl.GET_CPUID2, buffer)
        return unpack_entries(buffer)

    def set_cpuid(self, entries: Iterable[CpuidEntry]) -> None:
        """What the guest's CPUID answers; before the first run."""
        call(self.fd, Ioctl.SET_CPUID2, pack_entries(entries))

    # --- events -------------------------------------------------------------------------------------------------------

    def events(self) -> dict[str, int]:
        """Exceptions, interrupts and NMIs pending or in flight."""
        return s.VCPU_EVENTS.unpack_ints(self._get(Ioctl.GET_VCPU_EVENTS, s.VCPU_EVENTS))

    def set_events(self, values: Mapping[str, int]) -> None:
        """All of `events`."""
        call(self.fd, Ioctl.SET_VCPU_EVENTS, s.VCPU_EVENTS.pack_fields(values))

    def lapic(self) -> bytes:
        """1 KiB of local APIC registers, each at its own offset (in-kernel chip only)."""
        return bytes(self._get(Ioctl.GET_LAPIC, s.LAPIC_STATE))

    def set_lapic(self, state: bytes) -> None:
        """Put back what `lapic` gave."""
        call(self.fd, Ioctl.SET_LAPIC, state)

    def mp_state(self) -> MpState:
        """Whether it runs, waits for INIT or SIPI, or is halted (in-kernel chip only)."""
        return MpState(s.MP_STATE.unpack_ints(self._get(Ioctl.GET_MP_STATE, s.MP_STATE))["mp_state"])

    def set_mp_state(self, state: MpState) -> None:
        """Set what `mp_state` gives."""
        call(self.fd, Ioctl.SET_MP_STATE, s.MP_STATE.pack(state))

    def interrupt(self, vector: int) -> None:
        """Queue an external interrupt (without the in-kernel chip)."""
        call(self.fd, Ioctl.INTERRUPT, s.INTERRUPT.pack(vector))

    def nmi(self) -> None:
        """Queue a non-maskable interrupt."""
        call(self.fd, Ioctl.NMI)

    # --- time, addresses, debugging -----------------------------------------------------------------------------------

    def tsc_khz(self) -> int:
        """The guest's TSC frequency."""
        return call(self.fd, Ioctl.GET_TSC_KHZ)

    def set_tsc_khz(self, khz: int) -> None:
        """Set it; KvmError (EINVAL) when the host can neither run at it nor scale to it."""
        call(self.fd, Ioctl.SET_TSC_KHZ, khz)

    def note_pause(self) -> None:
        """Tell kvmclock that the guest was stopped, so that its soft-lockup watchdog keeps quiet."""
        call(self.fd, Ioctl.KVMCLOCK_CTRL)

    def translate(self, linear_address: int) -> int | None:
        """Guest physical address of a linear one, by the current page tables; None when unmapped."""
        request = bytearray(s.TRANSLATION.pack(linear_address, 0, 0, 0, 0))
        call(self.fd, Ioctl.TRANSLATE, request)
        fields = s.TRANSLATION.unpack_ints(request)
        return fields["physical_address"] if fields["valid"] else None

    def set_guest_debug(self, control: GuestDebug, debug_registers: tuple[int, ...] = (0,) * 8) -> None:
        """Single steps and breakpoints that leave with `ExitReason.DEBUG`."""
        call(self.fd, Ioctl.SET_GUEST_DEBUG, s.GUEST_DEBUG.pack(control, *debug_registers))
