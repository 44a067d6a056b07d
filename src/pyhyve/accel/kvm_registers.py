"""Between the register names of `accel.api` and KVM's structures."""

from __future__ import annotations

from pyhyve.kvm.structures import REGS, SEGMENT_NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    Fields = dict[str, int | bytes | tuple[int, ...]]

GENERAL = frozenset(REGS.offsets)
_SEGMENTS = {("ldtr" if name == "ldt" else name): name for name in SEGMENT_NAMES}
_TABLES = {"gdtr": "gdt", "idtr": "idt"}
_CONTROL = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")

# VMX access rights (SDM Vol. 3C, 24.4.1): field, lowest bit, width.
_ATTRIBUTES = (
    ("type", 0, 4), ("s", 4, 1), ("dpl", 5, 2), ("present", 7, 1), ("avl", 12, 1), ("l", 13, 1), ("db", 14, 1),
    ("g", 15, 1), ("unusable", 16, 1),
)  # fmt: skip


def system_to_names(sregs: Mapping[str, int | bytes | tuple[int, ...]]) -> dict[str, int]:
    """Control, table and segment registers by the names of `accel.api`."""
    fields = {name: value for name, value in sregs.items() if isinstance(value, int)}
    result = {name: fields[name] for name in _CONTROL}
    for name, kernel_name in _TABLES.items():
        result |= {f"{name}.{part}": fields[f"{kernel_name}.{part}"] for part in ("base", "limit")}
    for name, kernel_name in _SEGMENTS.items():
        result |= {f"{name}.{part}": fields[f"{kernel_name}.{part}"] for part in ("selector", "base", "limit")}
        result[f"{name}.attributes"] = sum(fields[f"{kernel_name}.{part}"] << low for part, low, _ in _ATTRIBUTES)
    return result


def names_to_system(values: Mapping[str, int], sregs: Fields) -> None:
    """Change `sregs` in place. Raises KeyError for a name that is no system register."""
    for name, value in values.items():
        register, _, part = name.partition(".")
        if name in _CONTROL:
            sregs[name] = value
        elif register in _TABLES and part in {"base", "limit"}:
            sregs[f"{_TABLES[register]}.{part}"] = value
        elif register in _SEGMENTS and part in {"selector", "base", "limit"}:
            sregs[f"{_SEGMENTS[register]}.{part}"] = value
        elif register in _SEGMENTS and part == "attributes":
            for field, low, width in _ATTRIBUTES:
                sregs[f"{_SEGMENTS[register]}.{field}"] = value >> low & (1 << width) - 1
        else:
            msg = f"no register {name}"
            raise KeyError(msg)
