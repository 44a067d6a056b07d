"""kvmclock and the vCPUs' time-stamp counters, read and set for an instant of the host's monotonic clock.

The counter is moved by its offset (`KVM_VCPU_TSC_OFFSET`, Linux 5.16). Where there is none it is written, which KVM
takes for an attempt to synchronise vCPUs, and ignores, when it changes the counter by less than a second.
"""

from __future__ import annotations

import struct
import time

from pyhyve.accel.counter import CounterSample, sample
from pyhyve.accel.kvm_msrs import MSR_TSC, MSR_TSC_DEADLINE, write_msrs
from pyhyve.kvm.device import DeviceHandle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyhyve.kvm.vcpu import VcpuHandle
    from pyhyve.kvm.vm import VmHandle

_TSC_CTRL = _TSC_OFFSET = 0
_OFFSET = struct.Struct("<Q")
_ATTEMPTS = 4
_WRAP = 1 << 64


def _sample_tsc(handle: VcpuHandle) -> CounterSample:
    return sample(lambda: handle.msrs([MSR_TSC])[MSR_TSC], _ATTEMPTS)


def _ticks(handle: VcpuHandle, duration_ns: int) -> int:
    return duration_ns * handle.tsc_khz() // 1_000_000


def tsc_at(handle: VcpuHandle, instant_ns: int) -> int:
    """What the vCPU's counter showed at `instant_ns`."""
    now = _sample_tsc(handle)
    return (now.counter - _ticks(handle, now.monotonic_ns - instant_ns)) % _WRAP


def place_tsc(handle: VcpuHandle, tsc: int, instant_ns: int) -> None:
    """Set the vCPU's counter so that it showed `tsc` at `instant_ns`; the vCPU must not run."""
    now = _sample_tsc(handle)
    move_tsc(handle, tsc + _ticks(handle, now.monotonic_ns - instant_ns) - now.counter)


def advance_tsc(handle: VcpuHandle, duration_ns: int) -> None:
    """Put the vCPU's counter forward, and a timer that waits for it; the vCPU must not run."""
    move_tsc(handle, _ticks(handle, duration_ns))
    deadline = handle.msrs([MSR_TSC_DEADLINE]).get(MSR_TSC_DEADLINE, 0)
    if deadline:
        write_msrs(handle, {MSR_TSC_DEADLINE: deadline})


def move_tsc(handle: VcpuHandle, ticks: int) -> None:
    """Add `ticks` to the vCPU's counter, or take them from it."""
    attributes = DeviceHandle(handle.fd)
    if attributes.has(_TSC_CTRL, _TSC_OFFSET):
        (offset,) = _OFFSET.unpack(attributes.read(_TSC_CTRL, _TSC_OFFSET, _OFFSET.size))
        attributes.write(_TSC_CTRL, _TSC_OFFSET, _OFFSET.pack((offset + ticks) % _WRAP))
    else:
        (now,) = handle.msrs([MSR_TSC]).values()
        write_msrs(handle, {MSR_TSC: (now + ticks) % _WRAP})


def clock_at(handle: VmHandle, instant_ns: int) -> int:
    """What kvmclock showed at `instant_ns`."""
    now = sample(lambda: handle.clock()["clock"], _ATTEMPTS)
    return max(0, now.counter - (now.monotonic_ns - instant_ns))


def place_clock(handle: VmHandle, clock_ns: int, instant_ns: int) -> None:
    """Set kvmclock so that it showed `clock_ns` at `instant_ns`."""
    handle.set_clock(clock_ns + time.monotonic_ns() - instant_ns)


def advance_clock(handle: VmHandle, duration_ns: int) -> None:
    """Put kvmclock forward."""
    instant_ns = time.monotonic_ns()
    place_clock(handle, clock_at(handle, instant_ns) + duration_ns, instant_ns)
