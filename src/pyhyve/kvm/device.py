"""A device object of the kernel (`KVM_CREATE_DEVICE`): attributes by group and number."""

from __future__ import annotations

import ctypes
import errno
import os

from pyhyve.kvm import structures as s
from pyhyve.kvm.abi import Ioctl
from pyhyve.kvm.ioctls import KvmError, call


class DeviceHandle:
    """One in-kernel device."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Close the descriptor; idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def has(self, group: int, attribute: int) -> bool:
        """Whether the device knows this attribute."""
        try:
            call(self.fd, Ioctl.HAS_DEVICE_ATTR, s.DEVICE_ATTR.pack(0, group, attribute, 0))
        except KvmError as error:
            if error.errno in {errno.ENXIO, errno.EPERM}:
                return False
            raise
        return True

    def read(self, group: int, attribute: int, size_bytes: int) -> bytes:
        """Value of an attribute of `size_bytes`."""
        value = ctypes.create_string_buffer(size_bytes)
        call(self.fd, Ioctl.GET_DEVICE_ATTR, s.DEVICE_ATTR.pack(0, group, attribute, ctypes.addressof(value)))
        return value.raw

    def write(self, group: int, attribute: int, value: bytes) -> None:
        """Set an attribute."""
        storage = ctypes.create_string_buffer(value, len(value))
        call(self.fd, Ioctl.SET_DEVICE_ATTR, s.DEVICE_ATTR.pack(0, group, attribute, ctypes.addressof(storage)))
