"""Every structure, ioctl number and constant against the system's own kernel headers, through a C compiler."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyhyve.kvm import abi, structures
from pyhyve.kvm.layout import StructLayout

if TYPE_CHECKING:
    from enum import IntEnum

HEADER = Path("/usr/include/linux/kvm.h")

ENUMS: tuple[tuple[str, type[IntEnum]], ...] = (
    ("KVM_", abi.Ioctl),
    ("KVM_CAP_", abi.Cap),
    ("KVM_EXIT_", abi.ExitReason),
    ("KVM_INTERNAL_ERROR_", abi.InternalError),
    ("KVM_SYSTEM_EVENT_", abi.SystemEvent),
    ("KVM_MP_STATE_", abi.MpState),
    ("KVM_IRQ_ROUTING_", abi.RoutingType),
    ("KVM_IRQCHIP_", abi.IrqchipId),
)
FLAGS = (
    ("KVM_MEM_", abi.MemFlag),
    ("KVM_IRQFD_FLAG_", abi.IrqfdFlag),
    ("KVM_MSR_EXIT_REASON_", abi.MsrExitReason),
    ("KVM_GUESTDBG_", abi.GuestDebug),
)
CONSTANTS = {
    "KVM_API_VERSION": abi.API_VERSION,
    "KVM_IOAPIC_NUM_PINS": abi.IOAPIC_PINS,
    "KVM_CPUID_FLAG_SIGNIFCANT_INDEX": abi.CPUID_FLAG_SIGNIFICANT_INDEX,
    "KVM_PIT_SPEAKER_DUMMY": abi.PIT_SPEAKER_DUMMY,
    "KVM_PIO_PAGE_OFFSET": abi.PIO_PAGE_OFFSET,
    "KVM_COALESCED_MMIO_PAGE_OFFSET": abi.COALESCED_MMIO_PAGE_OFFSET,
    "KVM_DIRTY_LOG_PAGE_OFFSET": abi.DIRTY_LOG_PAGE_OFFSET,
    "KVM_DIRTY_LOG_INITIALLY_SET": abi.DIRTY_LOG_INITIALLY_SET,
    "KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE": abi.DIRTY_LOG_MANUAL_PROTECT_ENABLE,
    "KVM_CLOCK_TSC_STABLE": abi.CLOCK_TSC_STABLE,
    "KVM_CLOCK_REALTIME": abi.CLOCK_REALTIME,
    "KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES": abi.EMULATION_FLAG_INSTRUCTION_BYTES,
    "KVM_DEV_TYPE_VFIO": abi.DEV_TYPE_VFIO,
    "KVM_IOEVENTFD_FLAG_DATAMATCH": abi.IoeventfdFlag.DATAMATCH,
    "KVM_IOEVENTFD_FLAG_PIO": abi.IoeventfdFlag.PIO,
    "KVM_IOEVENTFD_FLAG_DEASSIGN": abi.IoeventfdFlag.DEASSIGN,
    "sizeof(struct kvm_msr_filter)": structures.MSR_FILTER_SIZE_BYTES,
}


def expectations() -> dict[str, int]:
    wanted: dict[str, int] = {}
    for layout in structures.WHOLE + structures.PARTIAL:
        wanted |= {f"offsetof(struct {layout.c_name}, {name})": at for name, at in layout.offsets.items()}
    wanted |= {f"sizeof(struct {layout.c_name})": layout.size_bytes for layout in structures.WHOLE}
    for prefix, enumeration in ENUMS:
        wanted |= {prefix + member.name: int(member) for member in enumeration}
    for prefix, flags in FLAGS:
        wanted |= {prefix + str(member.name): int(member) for member in flags}
    return wanted | {expression: int(value) for expression, value in CONSTANTS.items()}


def test_every_number_matches_the_kernel_headers(tmp_path: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not HEADER.exists():
        pytest.skip("needs a C compiler and linux-libc-dev")
    wanted = expectations()
    lines = "\n".join(f'  printf("%llu\\n", (unsigned long long)({expression}));' for expression in wanted)
    source = tmp_path / "abi.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <linux/kvm.h>\n"
        f"int main(void) {{\n{lines}\n  return 0;\n}}\n"
    )
    program = tmp_path / "abi"
    subprocess.run([compiler, "-o", program, source], check=True, timeout=60)
    output = subprocess.run([program], check=True, capture_output=True, text=True, timeout=60).stdout
    actual = dict(zip(wanted, map(int, output.split()), strict=True))
    assert actual == wanted


def test_layout_names_an_unknown_field() -> None:
    layout = StructLayout("pair", "first:I _:4x second:2Q")
    assert layout.size_bytes == 24
    assert layout.pack_fields({"second": (1, 2)}) == bytes(8) + b"\1" + bytes(7) + b"\2" + bytes(7)
    with pytest.raises(KeyError, match="pair has no field third"):
        layout.pack_fields({"third": 1})


def test_layout_round_trips_values() -> None:
    values = dict.fromkeys(structures.SREGS.offsets, 1) | {"cs.base": 2**64 - 1, "interrupt_bitmap": (1, 2, 3, 4)}
    assert structures.SREGS.unpack(structures.SREGS.pack_fields(values)) == values
