"""Whether this host's `/dev/kvm` can run a kernel, found out by running a few instructions on it."""

from __future__ import annotations

import errno
import grp
import mmap
import os
from ctypes import addressof, c_char
from functools import cache

from pyhyve.kvm import structures as s
from pyhyve.kvm.abi import Cap, ExitReason
from pyhyve.kvm.ioctls import KvmError
from pyhyve.kvm.system import DEVICE_PATH, KvmSystem
from pyhyve.support.enums import StrEnum
from pyhyve.support.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyhyve.kvm.vcpu import VcpuHandle


class KvmKind(StrEnum):
    """What stands behind `/dev/kvm`."""

    HARDWARE = "hardware"
    """Guest code runs on the processor (VMX, SVM; nested counts)."""
    SOFTWARE = "software"
    """A flavour that interprets unmodified guests: slow, and without most instructions."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class KvmProbe:
    """What `probe` found."""

    present: bool
    """There is a `/dev/kvm`."""
    usable: bool
    """It opens, and runs an ordinary kernel at speed: `--accel auto` takes KVM."""
    api_version: int | None
    kind: KvmKind
    reason: str
    """One line: what was found and, when something is missing, what to do."""


# Long mode, identity-mapped: SSE and x87 work, then the sum goes out of a port. An interpreter of real-mode and integer
# code (KVM's own instruction emulator, which software flavours rely on) stops at the first SSE instruction.
#   mov eax, 0x2a / movd xmm0, eax / paddd xmm0, xmm0 / movd eax, xmm0 / out 0x10, al
_PAYLOAD = bytes.fromhex("b82a000000 660f6ec0 660ffec0 660f7ec0 e610 f4")
_EXPECTED = 0x54
_PORT = 0x10
_MEMORY_SIZE_BYTES = 0x5000
_PML4, _PDPT, _PD, _CODE = 0x1000, 0x2000, 0x3000, 0x4000
_REQUIRED = (Cap.USER_MEMORY, Cap.IRQCHIP, Cap.IMMEDIATE_EXIT, Cap.IOEVENTFD, Cap.IRQFD, Cap.SIGNAL_MSI)


def long_mode_sregs(
    current: Mapping[str, int | bytes | tuple[int, ...]], page_table: int
) -> dict[str, int | bytes | tuple[int, ...]]:
    """`current` changed to flat 64-bit mode with paging on at `page_table` and SSE enabled."""
    values = dict(current)
    for name in ("cs", "ds", "es", "fs", "gs", "ss"):
        is_code = name == "cs"
        fields = {
            "base": 0, "limit": 0xFFFFFFFF, "selector": 0x08 if is_code else 0x10, "type": 11 if is_code else 3,
            "present": 1, "dpl": 0, "db": 0 if is_code else 1, "s": 1, "l": int(is_code), "g": 1, "unusable": 0,
        }  # fmt: skip
        values |= {f"{name}.{field}": value for field, value in fields.items()}
    # CR0: PE, MP, ET, NE, PG; CR4: PAE, OSFXSR, OSXMMEXCPT; EFER: LME, LMA
    values |= {"cr0": 0x80000033, "cr3": page_table, "cr4": 0x620, "efer": 0x500}
    return values


def _run_payload(system: KvmSystem) -> str | None:
    """None when the payload ran as on a processor, else what happened."""
    memory = mmap.mmap(-1, _MEMORY_SIZE_BYTES)
    memory[_PML4 : _PML4 + 8] = (_PDPT | 3).to_bytes(8, "little")
    memory[_PDPT : _PDPT + 8] = (_PD | 3).to_bytes(8, "little")
    memory[_PD : _PD + 8] = (0x83).to_bytes(8, "little")  # one 2 MiB page at 0
    memory[_CODE : _CODE + len(_PAYLOAD)] = _PAYLOAD
    with system.create_vm() as vm:
        vm.set_memory(0, 0, _MEMORY_SIZE_BYTES, addressof(c_char.from_buffer(memory)))
        if system.check(Cap.SET_TSS_ADDR):
            vm.set_tss_address(0xFFFBD000)
        with vm.create_vcpu(0) as vcpu:
            vcpu.set_cpuid(system.supported_cpuid())
            vcpu.set_sregs(long_mode_sregs(vcpu.sregs(), _PML4))
            vcpu.set_regs({"rip": _CODE, "rflags": 2})
            return _run_once(vcpu)


def _run_once(vcpu: VcpuHandle) -> str | None:
    # The payload has no loop, and every way out of it leaves KVM_RUN: this cannot hang.
    for _ in range(8):
        if vcpu.run():
            break
    else:
        return "it was interrupted too often"
    reason = s.RUN.unpack_ints(vcpu.shared)["exit_reason"]
    if reason == ExitReason.IO:
        exit_io = s.RUN_IO.unpack_ints(vcpu.shared)
        value = vcpu.shared[exit_io["io.data_offset"]]
        return None if (exit_io["io.port"], value) == (_PORT, _EXPECTED) else f"SSE gave {value:#x}"
    if reason == ExitReason.INTERNAL_ERROR:
        return "it cannot run SSE instructions"
    return f"a test program ended with exit {reason}"


_HINTS = {
    errno.EBUSY: ": another hypervisor holds the processor's virtualization, end it first",
    errno.ENOMEM: ": the host has too little memory left",
    errno.EMFILE: ": this process has too many open files (ulimit -n)",
    errno.ENFILE: ": the host has too many open files",
}
"""What to do about a host that is busy or too small."""


def _flavour() -> str:
    """Name of the KVM back-end module, when the kernel shows it."""
    for module, name in (("kvm_intel", "VMX"), ("kvm_amd", "SVM"), ("kvm_pvm", "PVM")):
        if os.path.exists(f"/sys/module/{module}"):  # noqa: PTH110 - a plain string stays cheap at start-up
            return f" ({name})"
    return ""


def _no_permission(path: str) -> str:
    try:
        group_id = os.stat(path).st_gid  # noqa: PTH116 - ditto
        group = grp.getgrgid(group_id).gr_name
    except (OSError, KeyError):
        return f"no permission to open {path}"
    if group == "root":
        return f"no permission to open {path}: it belongs to root alone; let the group kvm use it, and join that"
    return f"no permission to open {path}: join the group {group} (usermod -aG {group} USER, then log in again)"


def probe(path: str = DEVICE_PATH) -> KvmProbe:
    """Look at `path`; takes some milliseconds, never raises."""
    present = os.path.exists(path)  # noqa: PTH110 - a plain string stays cheap at start-up
    try:
        system = KvmSystem(path)
    except PermissionError:
        return KvmProbe(present, usable=False, api_version=None, kind=KvmKind.NONE, reason=_no_permission(path))
    except FileNotFoundError:
        reason = f"no {path}: load kvm_intel or kvm_amd, and turn virtualization on in the firmware"
        return KvmProbe(present, usable=False, api_version=None, kind=KvmKind.NONE, reason=reason)
    except OSError as error:
        reason = f"{path}: {error.strerror}"
        return KvmProbe(present, usable=False, api_version=None, kind=KvmKind.NONE, reason=reason)
    with system:
        version = system.api_version
        try:
            missing = [capability.name for capability in _REQUIRED if not system.check(capability)]
            trouble = _run_payload(system)
        except KvmError as error:
            reason = f"{path} opens but {error.strerror}{_HINTS.get(error.errno or 0, '')}"
            return KvmProbe(present, usable=False, api_version=version, kind=KvmKind.NONE, reason=reason)
    if trouble is not None:
        reason = f"{path} is a software flavour of KVM{_flavour()}: {trouble}"
        return KvmProbe(present, usable=False, api_version=version, kind=KvmKind.SOFTWARE, reason=reason)
    if missing:
        reason = f"{path} lacks {', '.join(missing)}: the host kernel is too old"
        return KvmProbe(present, usable=False, api_version=version, kind=KvmKind.HARDWARE, reason=reason)
    reason = f"{path} runs guests in hardware{_flavour()}"
    return KvmProbe(present, usable=True, api_version=version, kind=KvmKind.HARDWARE, reason=reason)


@cache
def cached_probe() -> KvmProbe:
    """`probe()` of the host, asked once per process."""
    return probe()
