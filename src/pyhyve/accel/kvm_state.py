"""A virtual machine of KVM as values: what its ioctls give, byte for byte (Documentation/virt/kvm/api.rst)."""

from __future__ import annotations

from pyhyve.accel.kvm_clock import place_tsc, tsc_at
from pyhyve.accel.kvm_msrs import MSR_TSC, MSR_TSC_DEADLINE, read_msrs, write_msrs
from pyhyve.kvm import structures as s
from pyhyve.kvm.abi import MpState
from pyhyve.kvm.cpuid import CpuidEntry
from pyhyve.state.errors import StateError
from pyhyve.state.record import U32, U64, Size, record
from pyhyve.support.hints import Annotated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyhyve.kvm.vcpu import VcpuHandle

_CHIP_BYTES = 512
_FEATURES = {
    (1, 0): ("ecx", "edx"),
    (7, 0): ("ebx", "ecx", "edx"),
    (7, 1): ("eax",),
    (0xD, 0): ("eax",),
    (0xD, 1): ("eax",),
    (0x8000_0001, 0): ("ecx", "edx"),
}
"""Leaf and subleaf that hold feature flags, and in which registers (SDM Vol. 2A, CPUID)."""
_NOT_OF_THE_HOST = {(1, "ecx"): 1 << 31 | 1 << 27 | 1 << 24, (1, "edx"): 1 << 28}
"""Flags that a machine sets itself: hypervisor, OSXSAVE, TSC deadline, HTT."""


@record
class MsrState:
    """A model-specific register."""

    index: U32
    data: U64


@record
class KvmVcpuState:
    """One vCPU. `cpuid` holds seven numbers a leaf: function, index, flags, EAX, EBX, ECX, EDX."""

    cpuid: tuple[U32, ...]
    tsc_khz: U32
    regs: Annotated[bytes, Size(s.REGS.size_bytes)]
    sregs: Annotated[bytes, Size(s.SREGS.size_bytes)]
    xsave: bytes
    xcrs: tuple[MsrState, ...]
    debugregs: Annotated[bytes, Size(s.DEBUGREGS.size_bytes)]
    events: Annotated[bytes, Size(s.VCPU_EVENTS.size_bytes)]
    msrs: tuple[MsrState, ...]
    lapic: bytes | None
    mp_state: U32


@record
class KvmState:
    """What the VM has in the kernel beside its vCPUs; the chips are None where the machine has its own."""

    clock_ns: U64
    pic_master: Annotated[bytes, Size(_CHIP_BYTES)] | None
    pic_slave: Annotated[bytes, Size(_CHIP_BYTES)] | None
    ioapic: Annotated[bytes, Size(_CHIP_BYTES)] | None
    pit: Annotated[bytes, Size(s.PIT_STATE2.size_bytes)] | None


def save_vcpu(
    handle: VcpuHandle, msr_indices: Iterable[int], *, has_lapic: bool, xsave_size_bytes: int, instant_ns: int
) -> KvmVcpuState:
    """The vCPU as a value, its counter as at `instant_ns`; it must have left the guest and finished its access."""
    msrs = read_msrs(handle, msr_indices)
    if MSR_TSC in msrs:
        msrs[MSR_TSC] = tsc_at(handle, instant_ns)
    return KvmVcpuState(
        cpuid=tuple(
            number
            for entry in handle.cpuid()
            for number in (entry.function, entry.index, entry.flags, entry.eax, entry.ebx, entry.ecx, entry.edx)
        ),
        tsc_khz=handle.tsc_khz(),
        regs=bytes(s.REGS.pack_fields(handle.regs())),
        sregs=bytes(s.SREGS.pack_fields(handle.sregs())),
        xsave=handle.xsave(xsave_size_bytes),
        xcrs=tuple(MsrState(index=number, data=value) for number, value in handle.xcrs().items()),
        debugregs=bytes(s.DEBUGREGS.pack_fields(handle.debugregs())),
        events=bytes(s.VCPU_EVENTS.pack_fields(handle.events())),
        msrs=tuple(MsrState(index=index, data=value) for index, value in msrs.items()),
        lapic=handle.lapic() if has_lapic else None,
        mp_state=int(handle.mp_state()) if has_lapic else 0,
    )


def load_vcpu(handle: VcpuHandle, state: KvmVcpuState, supported: Iterable[CpuidEntry], instant_ns: int) -> None:
    """Put the vCPU into a saved state, from which its time goes on at `instant_ns`.

    Raises StateError when this host cannot provide its processor.
    """
    entries = _entries(state.cpuid)
    if entries != handle.cpuid():
        _check_features(entries, supported)
        handle.set_cpuid(entries)
    if state.tsc_khz != handle.tsc_khz():
        handle.set_tsc_khz(state.tsc_khz)
    try:
        mp_state = MpState(state.mp_state)
    except ValueError as error:
        msg = f"state of processor: unknown run state {state.mp_state}"
        raise StateError(msg) from error
    msrs = {msr.index: msr.data for msr in state.msrs}
    deadline = msrs.pop(MSR_TSC_DEADLINE, None)
    handle.set_sregs(s.SREGS.unpack(state.sregs))
    handle.set_regs(s.REGS.unpack_ints(state.regs))
    if state.xcrs:
        handle.set_xcrs({entry.index: entry.data for entry in state.xcrs})
    handle.set_xsave(state.xsave)
    handle.set_debugregs(s.DEBUGREGS.unpack(state.debugregs))
    write_msrs(handle, msrs)
    if MSR_TSC in msrs:
        place_tsc(handle, msrs[MSR_TSC], instant_ns)
    if state.lapic is not None:
        handle.set_lapic(state.lapic)
        handle.set_mp_state(mp_state)
    if deadline is not None:  # it needs the counter and the timer's mode, which are set by now
        write_msrs(handle, {MSR_TSC_DEADLINE: deadline})
    handle.set_events(s.VCPU_EVENTS.unpack_ints(state.events))


def _entries(numbers: tuple[int, ...]) -> tuple[CpuidEntry, ...]:
    if len(numbers) % 7:
        msg = "state of processor: CPUID leaves are cut off"
        raise StateError(msg)
    return tuple(CpuidEntry(*numbers[at : at + 7]) for at in range(0, len(numbers), 7))


def _check_features(wanted: Iterable[CpuidEntry], supported: Iterable[CpuidEntry]) -> None:
    """Raise StateError when the guest was told of features that this host lacks."""
    here = {(entry.function, entry.index): entry for entry in supported}
    for entry in wanted:
        for name in _FEATURES.get((entry.function, entry.index), ()):
            offered = here.get((entry.function, entry.index))
            missing = getattr(entry, name) & ~(0 if offered is None else getattr(offered, name))
            missing &= ~_NOT_OF_THE_HOST.get((entry.function, name), 0)
            if missing:
                where = f"leaf {entry.function:#x}, {name.upper()} {missing:#x}"
                msg = f"the guest's processor has features that this host lacks (CPUID {where})"
                raise StateError(msg)
