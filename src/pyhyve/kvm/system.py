"""The `/dev/kvm` descriptor: what this host's KVM can do, and new VMs."""

from __future__ import annotations

import errno
import os

from pyhyve.kvm import structures as s
from pyhyve.kvm.abi import API_VERSION, Cap, Ioctl
from pyhyve.kvm.cpuid import CpuidEntry, unpack_entries
from pyhyve.kvm.ioctls import KvmError, call
from pyhyve.kvm.vm import VmHandle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

DEVICE_PATH = "/dev/kvm"
_MAX_CPUID_ENTRIES = 4096
_SUPPORTED: dict[int, tuple[CpuidEntry, ...]] = {}
"""By device number."""


class KvmSystem:
    """An open `/dev/kvm`."""

    def __init__(self, path: str = DEVICE_PATH) -> None:
        """Open it. Raises OSError when that fails, KvmError for a KVM this package does not speak to."""
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._device = os.fstat(self.fd).st_rdev
            self.api_version = call(self.fd, Ioctl.GET_API_VERSION)
            if self.api_version != API_VERSION:
                raise KvmError(errno.EPROTO, f"{path}: KVM API version {self.api_version}, not {API_VERSION}")
        except BaseException:
            os.close(self.fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor; idempotent. VMs made from it live on."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def check(self, capability: Cap) -> int:
        """Value of a capability: 0 when it is absent."""
        return call(self.fd, Ioctl.CHECK_EXTENSION, int(capability))

    def create_vm(self) -> VmHandle:
        """A VM with no memory, no vCPU, no interrupt chip."""
        while True:
            try:
                fd = call(self.fd, Ioctl.CREATE_VM)
            except KvmError as error:
                if error.errno == errno.EINTR:
                    continue  # api.rst: a signal may interrupt the set-up of the MMU notifier
                raise
            return VmHandle(fd, call(self.fd, Ioctl.GET_VCPU_MMAP_SIZE))

    def supported_cpuid(self) -> tuple[CpuidEntry, ...]:
        """The CPUID leaves this host and KVM can give a guest; asked for once, KVM takes a millisecond to tell."""
        found = _SUPPORTED.get(self._device)
        if found is None:
            found = _SUPPORTED[self._device] = self._cpuid(Ioctl.GET_SUPPORTED_CPUID)
        return found

    def emulated_cpuid(self) -> tuple[CpuidEntry, ...]:
        """The features KVM can offer by emulation only (slow: MOVBE on an old host)."""
        return self._cpuid(Ioctl.GET_EMULATED_CPUID)

    def _cpuid(self, request: Ioctl) -> tuple[CpuidEntry, ...]:
        count = 128
        while True:
            buffer = bytearray(s.CPUID2.size_bytes + count * s.CPUID_ENTRY2.size_bytes)
            s.CPUID2.pack_into(buffer, 0, count)
            try:
                call(self.fd, request, buffer)
            except KvmError as error:
                if error.errno == errno.E2BIG and count < _MAX_CPUID_ENTRIES:
                    count *= 2
                    continue
                raise
            return unpack_entries(buffer)

    def msr_indices(self) -> tuple[int, ...]:
        """MSRs that `KVM_GET_MSRS` and `KVM_SET_MSRS` save and restore."""
        count = 512
        while True:
            buffer = bytearray(4 + 4 * count)
            s.MSR_LIST.pack_into(buffer, 0, count)
            try:
                call(self.fd, Ioctl.GET_MSR_INDEX_LIST, buffer)
            except KvmError as error:
                wanted = int.from_bytes(buffer[:4], "little")
                if error.errno == errno.E2BIG and wanted > count:
                    count = wanted
                    continue
                raise
            found = int.from_bytes(buffer[:4], "little")
            return tuple(memoryview(buffer).cast("I")[1 : 1 + found])
