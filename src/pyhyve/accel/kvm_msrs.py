"""Model-specific registers of a vCPU in bulk, whatever this KVM makes of one of them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pyhyve.kvm.vcpu import VcpuHandle

MSR_TSC, MSR_TSC_ADJUST, MSR_TSC_DEADLINE = 0x10, 0x3B, 0x6E0


def read_msrs(handle: VcpuHandle, indices: Iterable[int]) -> dict[int, int]:
    """All MSRs that KVM gives: it stops at one it refuses."""
    wanted = list(indices)
    found: dict[int, int] = {}
    while wanted:
        part = handle.msrs(wanted)
        found |= part
        wanted = wanted[len(part) + 1 :]
    return found


def write_msrs(handle: VcpuHandle, values: Mapping[int, int]) -> None:
    """Set all MSRs that KVM takes: it stops at one that it reads but does not write."""
    remaining = dict(values)
    while remaining:
        taken = handle.set_msrs(remaining)
        for index in list(remaining)[: taken + 1]:
            del remaining[index]
