"""This host's CPU, as its CPUID instruction and the kernel tell.

The instruction runs as a few bytes of machine code in a page of its own, since Python has no other way to it; where the
system forbids such pages, the kernel's list of flags has to do. Source: Intel SDM Vol. 2A (CPUID), AMD APM Vol. 3.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import re
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.cpu.kvm import feature_msr, supported_leaves
from pyhyve.daemon.cpu.model import VENDOR_STRINGS, feature_places

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HostCpu", "host_cpu", "kvm_features"]

Registers = tuple[int, int, int, int]
_NAMES: Final = ("eax", "ebx", "ecx", "edx")
_CODE: Final = bytes.fromhex(
    "53"  # push rbx
    "4989d0"  # mov r8, rdx
    "89f8"  # mov eax, edi
    "89f1"  # mov ecx, esi
    "0fa2"  # cpuid
    "418900"  # mov [r8], eax
    "41895804"  # mov [r8 + 4], ebx
    "41894808"  # mov [r8 + 8], ecx
    "4189500c"  # mov [r8 + 12], edx
    "5b"  # pop rbx
    "c3"  # ret
)
_ARCH_CAPABILITIES: Final = 0x10A
_KERNEL_NAMES: Final = {
    "cr8_legacy": "cr8legacy",
    "ds_cpl": "ds_cpl",
    "pclmulqdq": "pclmuldq",
    "sha_ni": "sha-ni",
    "sse4_1": "sse4.1",
    "sse4_2": "sse4.2",
    "tsc_adjust": "tsc_adjust",
    "tsc_deadline_timer": "tsc-deadline",
    "constant_tsc": "",
    "nonstop_tsc": "invtsc",
    "lahf_lm": "lahf_lm",
}
"""The kernel's names of flags that libvirt calls otherwise; most others differ by a hyphen at most."""


@dataclass(frozen=True, slots=True)
class HostCpu:
    """A host's CPU."""

    vendor: str | None
    """Short name, as in the tables."""
    family: int
    model: int
    stepping: int
    features: frozenset[str]
    physical_address_bits: int | None = None
    microcode: int | None = None


def _instruction() -> Callable[[int, int], Registers] | None:
    """Return a function that runs CPUID, or None where that cannot be."""
    if platform.machine() != "x86_64":
        return None
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:
        return None
    page.write(_CODE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    kind = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)
    function = kind(address)
    out = (ctypes.c_uint32 * 4)()

    def cpuid(leaf: int, subleaf: int = 0, *, _page: mmap.mmap = page) -> Registers:
        function(leaf, subleaf, ctypes.addressof(out))
        return out[0], out[1], out[2], out[3]

    return cpuid


def _msr(index: int) -> int:
    """Return a model-specific register, from KVM or the kernel's msr device; 0 where it cannot be read."""
    known = feature_msr(index)
    if known is not None:
        return known
    try:
        descriptor = os.open("/dev/cpu/0/msr", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return int(struct.unpack("<Q", os.pread(descriptor, 8, index))[0])
    except (OSError, struct.error):
        return 0
    finally:
        os.close(descriptor)


def _from_instruction(cpuid: Callable[[int, int], Registers]) -> HostCpu:
    highest, ebx, ecx, edx = cpuid(0, 0)
    highest_extended = cpuid(0x8000_0000, 0)[0]
    vendor = struct.pack("<III", ebx, edx, ecx).decode("ascii", "replace")
    leaves: dict[tuple[int, int], Registers] = {}
    found = set()
    capabilities = _msr(_ARCH_CAPABILITIES) if highest >= 7 and cpuid(7, 0)[3] >> 29 & 1 else 0
    for name, places in feature_places.items():
        for place in places:
            if place.msr:
                word = capabilities >> (32 if place.register == "edx" else 0) if place.leaf == _ARCH_CAPABILITIES else 0
            elif place.leaf > (highest_extended if place.leaf >= 0x8000_0000 else highest):
                word = 0
            else:
                key = (place.leaf, place.subleaf)
                if key not in leaves:
                    leaves[key] = cpuid(*key)
                word = leaves[key][_NAMES.index(place.register)]
            if not word >> place.bit & 1:
                break
        else:
            if places:
                found.add(name)
    signature = cpuid(1, 0)[0]
    family, model = signature >> 8 & 0xF, signature >> 4 & 0xF
    if family in {6, 15}:
        model |= signature >> 12 & 0xF0
    if family == 15:
        family += signature >> 20 & 0xFF
    bits = cpuid(0x8000_0008, 0)[0] & 0xFF if highest_extended >= 0x8000_0008 else None
    return HostCpu(
        VENDOR_STRINGS.get(vendor), family, model, signature & 0xF, frozenset(found), bits, _microcode(_cpu_text())
    )


def _cpu_text() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return ""


def _field(text: str, name: str) -> str:
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def _microcode(text: str) -> int | None:
    value = _field(text, "microcode")
    return int(value, 0) if value else None


def from_kernel(text: str) -> HostCpu:
    """Return what the kernel says of its first CPU (``/proc/cpuinfo``)."""
    features = set()
    for flag in _field(text, "flags").split():
        for name in (_KERNEL_NAMES.get(flag, flag), flag.replace("_", "-")):
            if name in feature_places:
                features.add(name)
    numbers = [int(_field(text, name) or 0) for name in ("cpu family", "model", "stepping")]
    bits = re.match(r"(\d+) bits physical", _field(text, "address sizes"))
    return HostCpu(
        VENDOR_STRINGS.get(_field(text, "vendor_id")),
        numbers[0],
        numbers[1],
        numbers[2],
        frozenset(features),
        int(bits[1]) if bits else None,
        _microcode(text),
    )


@cache
def kvm_features() -> frozenset[str]:
    """Return the features KVM can give a guest here; none where there is no KVM."""
    leaves = supported_leaves()
    if not leaves:
        return frozenset()
    return _from_instruction(lambda leaf, subleaf: leaves.get((leaf, subleaf), (0, 0, 0, 0))).features


@cache
def host_cpu() -> HostCpu:
    """Return this host's CPU."""
    cpuid = _instruction()
    return from_kernel(_cpu_text()) if cpuid is None else _from_instruction(cpuid)
