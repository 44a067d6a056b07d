"""What only the kernel's KVM tells of a host's CPU."""

from __future__ import annotations

from typing import Final

from pyhyve.kvm import structures as s
from pyhyve.kvm.abi import Cap, Ioctl
from pyhyve.kvm.ioctls import KvmError, call
from pyhyve.kvm.system import KvmSystem

__all__ = ["feature_msr", "supported_leaves", "tsc_frequency"]

_HZ_PER_KHZ: Final = 1000


def feature_msr(index: int) -> int | None:
    """Return a register that lists features, as KVM shows it to guests; None where there is no KVM or register."""
    try:
        with KvmSystem() as system:
            buffer = bytearray(s.MSRS.pack(1) + s.MSR_ENTRY.pack(index, 0))
            if call(system.fd, Ioctl.GET_MSRS, buffer) != 1:
                return None
            return s.MSR_ENTRY.unpack_ints(buffer, s.MSRS.size_bytes)["data"]
    except (OSError, KvmError):
        return None


def supported_leaves() -> dict[tuple[int, int], tuple[int, int, int, int]]:
    """Return what CPUID can answer a guest, by leaf and subleaf; nothing where there is no KVM."""
    try:
        with KvmSystem() as system:
            entries = system.supported_cpuid()
    except (OSError, KvmError):
        return {}
    return {(entry.function, entry.index): (entry.eax, entry.ebx, entry.ecx, entry.edx) for entry in entries}


def tsc_frequency() -> tuple[int, bool] | None:
    """Return the time stamp counter's frequency in Hz, and whether guests may have another; None without KVM."""
    try:
        with KvmSystem() as system:
            if not system.check(Cap.GET_TSC_KHZ):
                return None
            scaling = bool(system.check(Cap.TSC_CONTROL))
            with system.create_vm() as machine, machine.create_vcpu(0) as vcpu:
                return vcpu.tsc_khz() * _HZ_PER_KHZ, scaling
    except (OSError, KvmError):
        return None
