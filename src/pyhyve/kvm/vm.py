"""A VM descriptor: memory slots, the in-kernel interrupt chip and timer, event descriptors, dirty pages, the clock."""

from __future__ import annotations

import ctypes
import errno
import os

from pyhyve.kvm import structures as s
from pyhyve.kvm.abi import (
    DEV_TYPE_VFIO,
    PIT_SPEAKER_DUMMY,
    Cap,
    Ioctl,
    IoeventfdFlag,
    IrqchipId,
    IrqfdFlag,
    MemFlag,
    RoutingType,
)
from pyhyve.kvm.device import DeviceHandle
from pyhyve.kvm.ioctls import KvmError, call
from pyhyve.kvm.vcpu import VcpuHandle
from pyhyve.support.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

_PAGE_SHIFT = 12
_NO_FLAGS = MemFlag(0)


@dataclass(frozen=True, slots=True)
class IrqchipRoute:
    """Global system interrupt `gsi` drives `pin` of a chip."""

    gsi: int
    chip: IrqchipId
    pin: int


@dataclass(frozen=True, slots=True)
class MsiRoute:
    """Global system interrupt `gsi` sends a message."""

    gsi: int
    address: int
    data: int


class VmHandle:
    """One VM of the kernel."""

    def __init__(self, fd: int, vcpu_mmap_size_bytes: int) -> None:
        self.fd = fd
        self.vcpu_mmap_size_bytes = vcpu_mmap_size_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor; idempotent. The kernel frees the VM with its last vCPU and device descriptor."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def check(self, capability: Cap) -> int:
        """Value of a capability for this VM: 0 when it is absent."""
        return call(self.fd, Ioctl.CHECK_EXTENSION, int(capability))

    def enable(self, capability: Cap, *arguments: int, flags: int = 0) -> None:
        """`KVM_ENABLE_CAP` with up to four arguments."""
        padded = (*arguments, 0, 0, 0, 0)[:4]
        call(
            self.fd,
            Ioctl.ENABLE_CAP,
            s.ENABLE_CAP.pack(int(capability), flags, *padded),
            what=f"KVM_ENABLE_CAP({capability.name})",
        )

    def create_vcpu(self, index: int) -> VcpuHandle:
        """Add the vCPU whose initial APIC ID is `index`."""
        return VcpuHandle(call(self.fd, Ioctl.CREATE_VCPU, index), index, self.vcpu_mmap_size_bytes)

    def create_device(self, device_type: int = DEV_TYPE_VFIO) -> DeviceHandle:
        """A device object of the kernel, by its `KVM_DEV_TYPE_*` number."""
        request = bytearray(s.CREATE_DEVICE.pack(device_type, 0, 0))
        call(self.fd, Ioctl.CREATE_DEVICE, request)
        return DeviceHandle(s.CREATE_DEVICE.unpack_ints(request)["fd"])

    # --- memory -------------------------------------------------------------------------------------------------------

    def set_memory(self, slot: int, gpa: int, size_bytes: int, hva: int, flags: MemFlag = _NO_FLAGS) -> None:
        """Back guest memory with host memory; a size of 0 removes the slot."""
        call(self.fd, Ioctl.SET_USER_MEMORY_REGION, s.USERSPACE_MEMORY_REGION.pack(slot, flags, gpa, size_bytes, hva))

    def set_tss_address(self, gpa: int) -> None:
        """Three pages below 4 GiB for VMX real mode; to be called before the first vCPU on Intel hosts."""
        call(self.fd, Ioctl.SET_TSS_ADDR, gpa)

    def set_identity_map_address(self, gpa: int) -> None:
        """One page below 4 GiB for VMX without unrestricted guest; before the first vCPU."""
        call(self.fd, Ioctl.SET_IDENTITY_MAP_ADDR, gpa.to_bytes(8, "little"))

    def dirty_bitmap(self, slot: int, size_bytes: int) -> bytes:
        """Pages written since the last call, one bit each; the slot must log (`MemFlag.LOG_DIRTY_PAGES`)."""
        words = (size_bytes + (64 << _PAGE_SHIFT) - 1) // (64 << _PAGE_SHIFT)
        bitmap = bytearray(8 * words)
        address = ctypes.addressof(ctypes.c_char.from_buffer(bitmap))
        call(self.fd, Ioctl.GET_DIRTY_LOG, s.DIRTY_LOG.pack(slot, address))
        return bytes(bitmap)

    def clear_dirty(self, slot: int, first_page: int, page_count: int, bitmap: bytes) -> None:
        """Protect again the pages whose bit is set (with `Cap.MANUAL_DIRTY_LOG_PROTECT2` on)."""
        storage = bytearray(bitmap)
        address = ctypes.addressof(ctypes.c_char.from_buffer(storage))
        request = bytearray(s.CLEAR_DIRTY_LOG.pack(slot, page_count, first_page, address))
        call(self.fd, Ioctl.CLEAR_DIRTY_LOG, request)

    def enable_dirty_ring(self, size_bytes: int) -> None:
        """Per-vCPU rings of dirty pages instead of bitmaps; before the first vCPU."""
        acquire_release = self.check(Cap.DIRTY_LOG_RING_ACQ_REL)
        self.enable(Cap.DIRTY_LOG_RING_ACQ_REL if acquire_release else Cap.DIRTY_LOG_RING, size_bytes)

    def reset_dirty_rings(self) -> int:
        """Give collected ring entries back to the kernel; returns how many."""
        return call(self.fd, Ioctl.RESET_DIRTY_RINGS)

    def coalesce(self, address: int, size_bytes: int, *, is_port: bool = False, enable: bool = True) -> None:
        """Let writes here gather in the coalescing ring instead of each leaving to user space."""
        request = Ioctl.REGISTER_COALESCED_MMIO if enable else Ioctl.UNREGISTER_COALESCED_MMIO
        call(self.fd, request, s.COALESCED_MMIO_ZONE.pack(address, size_bytes, is_port))

    # --- interrupts ---------------------------------------------------------------------------------------------------

    def create_irqchip(self) -> None:
        """Two 8259s, an I/O APIC and a local APIC for each vCPU to come."""
        call(self.fd, Ioctl.CREATE_IRQCHIP)

    def create_pit(self, *, speaker_port: bool = True) -> None:
        """The 8254 timer; `speaker_port` also answers port 0x61."""
        call(self.fd, Ioctl.CREATE_PIT2, s.PIT_CONFIG.pack(PIT_SPEAKER_DUMMY if speaker_port else 0))

    def irqchip_state(self, chip: IrqchipId) -> bytes:
        """512 bytes: `struct kvm_pic_state` or `struct kvm_ioapic_state`."""
        request = bytearray(s.IRQCHIP.pack(chip, b""))
        call(self.fd, Ioctl.GET_IRQCHIP, request)
        return bytes(request[8:])

    def set_irqchip_state(self, chip: IrqchipId, state: bytes) -> None:
        """Put back what `irqchip_state` gave."""
        call(self.fd, Ioctl.SET_IRQCHIP, s.IRQCHIP.pack(chip, state))

    def pit_state(self) -> bytes:
        """The timer as `struct kvm_pit_state2`."""
        buffer = bytearray(s.PIT_STATE2.size_bytes)
        call(self.fd, Ioctl.GET_PIT2, buffer)
        return bytes(buffer)

    def set_pit_state(self, state: bytes) -> None:
        """Put back what `pit_state` gave."""
        call(self.fd, Ioctl.SET_PIT2, state)

    def set_irq(self, gsi: int, *, level: bool) -> None:
        """Drive a line of the in-kernel chip."""
        call(self.fd, Ioctl.IRQ_LINE, s.IRQ_LEVEL.pack(gsi, level))

    def signal_msi(self, address: int, data: int) -> None:
        """Send one message-signalled interrupt; a message no APIC takes is dropped, as on the bus."""
        low, high = address & 0xFFFFFFFF, address >> 32
        call(self.fd, Ioctl.SIGNAL_MSI, s.MSI.pack(low, high, data, 0, 0))

    def set_routes(self, routes: Iterable[IrqchipRoute | MsiRoute]) -> None:
        """Replace the whole routing table; an unlisted GSI goes nowhere."""
        entries = []
        for route in routes:
            if isinstance(route, MsiRoute):
                low, high = route.address & 0xFFFFFFFF, route.address >> 32
                entries.append(s.IRQ_ROUTING_ENTRY.pack(route.gsi, RoutingType.MSI, 0, low, high, route.data))
            else:
                entries.append(s.IRQ_ROUTING_ENTRY.pack(route.gsi, RoutingType.IRQCHIP, 0, route.chip, route.pin, 0))
        call(self.fd, Ioctl.SET_GSI_ROUTING, s.IRQ_ROUTING.pack(len(entries), 0) + b"".join(entries))

    def attach_irqfd(self, event_fd: int, gsi: int, *, resample_fd: int | None = None) -> None:
        """Each write to `event_fd` raises `gsi`; with `resample_fd` the line is level-triggered and told of EOI."""
        flags = IrqfdFlag(0) if resample_fd is None else IrqfdFlag.RESAMPLE
        call(self.fd, Ioctl.IRQFD, s.IRQFD.pack(event_fd, gsi, flags, resample_fd or 0))

    def detach_irqfd(self, event_fd: int, gsi: int) -> None:
        """Undo `attach_irqfd`."""
        call(self.fd, Ioctl.IRQFD, s.IRQFD.pack(event_fd, gsi, IrqfdFlag.DEASSIGN, 0))

    def set_ioeventfd(
        self,
        event_fd: int,
        address: int,
        size_bytes: int,
        *,
        match: int | None = None,
        is_port: bool = False,
        enable: bool = True,
    ) -> None:
        """Signal `event_fd` on a guest write (of `match` only, when given) without leaving to user space."""
        flags = IoeventfdFlag(0)
        if match is not None:
            flags |= IoeventfdFlag.DATAMATCH
        if is_port:
            flags |= IoeventfdFlag.PIO
        if not enable:
            flags |= IoeventfdFlag.DEASSIGN
        call(self.fd, Ioctl.IOEVENTFD, s.IOEVENTFD.pack(match or 0, address, size_bytes, event_fd, flags))

    # --- time ---------------------------------------------------------------------------------------------------------

    def clock(self) -> dict[str, int]:
        """kvmclock: `clock` in ns, `flags`, and `realtime` in ns when its flag is set."""
        buffer = bytearray(s.CLOCK_DATA.size_bytes)
        call(self.fd, Ioctl.GET_CLOCK, buffer)
        return s.CLOCK_DATA.unpack_ints(buffer)

    def set_clock(self, clock_ns: int) -> None:
        """Set kvmclock, after a pause or a restore."""
        call(self.fd, Ioctl.SET_CLOCK, s.CLOCK_DATA.pack(clock_ns, 0, 0, 0))

    def set_tsc_khz(self, khz: int) -> None:
        """TSC frequency of vCPUs to come. Raises KvmError (ENOTTY) on kernels before 5.18."""
        if not self.check(Cap.VM_TSC_CONTROL):
            raise KvmError(errno.ENOTTY, "KVM_SET_TSC_KHZ: this kernel sets it per vCPU only")
        call(self.fd, Ioctl.SET_TSC_KHZ, khz)
