"""A processor without a translator: x86 kernels compiled alone and called on a state and guest memory of the test's."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import llvmlite.binding as llvm
import pytest

from pyhyve.cpu.engine.state import (
    JUMP_CACHE_ENTRIES,
    JUMP_ENTRY,
    JUMP_PAGES,
    TLB_BYTES,
    TLB_ENTRIES,
    TLB_ENTRY,
    TLB_VICTIMS,
)
from pyhyve.cpu.isa.x86.state import STATE, TLB_TABLES, Gpr, Seg
from pyhyve.cpu.lang import Array, Int, Kernel, Module, Pointer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RAM_BYTES = 1 << 20
FLAT_CODE = 0xC09B
FLAT_DATA = 0xC093
LONG_CODE = 0xA09B


class Processor:
    """State, one megabyte of RAM at 0, and the compiled kernels by name (`processor.call("deliver")`)."""

    def __init__(self, kernels: dict[str, Callable[..., int]]) -> None:
        self.kernels = kernels
        self._state = (ctypes.c_uint8 * (STATE.size_bytes + 64))()
        self.base = ctypes.addressof(self._state) + 63 & ~63
        self.ram = (ctypes.c_uint8 * (RAM_BYTES + 4096))()
        self.ram_base = ctypes.addressof(self.ram) + 4095 & ~4095
        self._tlb = (ctypes.c_uint8 * (TLB_BYTES * TLB_TABLES + 64))()
        self._victims = (ctypes.c_uint8 * (TLB_ENTRY.size_bytes * TLB_VICTIMS * TLB_TABLES))()
        self._victim_marks = (ctypes.c_uint8 * (TLB_VICTIMS * TLB_TABLES))()
        self._marks = (ctypes.c_uint8 * (TLB_ENTRIES * TLB_TABLES))()
        self._log = (ctypes.c_uint16 * (TLB_ENTRIES * TLB_TABLES))()
        self._jump = (ctypes.c_uint8 * (JUMP_CACHE_ENTRIES * JUMP_ENTRY.size_bytes + 64))()
        self._jump_pages = (ctypes.c_uint8 * JUMP_PAGES)()
        self._page_code = (ctypes.c_uint64 * (RAM_BYTES >> 12))()
        self._page_blocks = (ctypes.c_uint32 * (RAM_BYTES >> 12))()
        self._owners = (ctypes.c_uint64 * (RAM_BYTES >> 12))()
        self.reset()

    def reset(self) -> None:
        """Real mode, zeroed memory."""
        ctypes.memset(self.base, 0, STATE.size_bytes)
        ctypes.memset(self.ram, 0, ctypes.sizeof(self.ram))
        ctypes.memset(self._tlb, 0xFF, ctypes.sizeof(self._tlb))
        align = 63
        self["tlb_base"] = ctypes.addressof(self._tlb) + align & ~align
        self["tlb"] = self["tlb_base"]
        self["tlb_marks"], self["tlb_log"] = ctypes.addressof(self._marks), ctypes.addressof(self._log)
        self["tlb_victims"] = ctypes.addressof(self._victims)
        self["tlb_victim_marks"] = ctypes.addressof(self._victim_marks)
        ctypes.memset(self._victims, 0xFF, ctypes.sizeof(self._victims))
        ctypes.memset(self._marks, 0, ctypes.sizeof(self._marks))
        for name in ("large_base", "large_mask", "large_global_base", "large_global_mask"):
            self[name] = (1 << 64) - 1
        self["jump_cache"] = ctypes.addressof(self._jump) + align & ~align
        self["jump_pages"] = ctypes.addressof(self._jump_pages)
        self["page_code"] = ctypes.addressof(self._page_code)
        self["page_blocks"] = ctypes.addressof(self._page_blocks)
        self["owners"] = ctypes.addressof(self._owners)
        self["owner_bit"] = 1
        offset = STATE.offset("regions")
        self.poke(self.base + offset, [0, RAM_BYTES, self.ram_base, 0, 0])
        self["region_count"] = 1
        self["physical_bits"] = 40
        self["eflags"] = 2
        self["cr0"] = 0x10
        self["idt_limit"] = 0x3FF
        self["pat"] = 0x0007040600070406
        for seg in range(6):
            self.segment(Seg(seg), 0, 0, 0xFFFF, 0x9B if seg == Seg.CS else 0x93)
        self.segment(Seg.LDTR, 0, 0, 0, 1 << 16)
        self.segment(Seg.TR, 0, 0, 0xFFFF, 0x8B)
        self.call("mode_changed")

    @staticmethod
    def poke(address: int, values: Sequence[int]) -> None:
        """Write 64-bit words to host memory."""
        ctypes.memmove(address, b"".join((v & (1 << 64) - 1).to_bytes(8, "little") for v in values), 8 * len(values))

    def _field(self, name: str | tuple[str, int]) -> tuple[int, int]:
        name, index = name if isinstance(name, tuple) else (name, 0)
        kind: Any = STATE.fields[name][1]
        if isinstance(kind, Array):
            kind = kind.element
        size = 8 if isinstance(kind, Pointer) else kind.size_bytes if isinstance(kind, Int) else 0
        return self.base + STATE.offset(name, index), size

    def __getitem__(self, name: str | tuple[str, int]) -> int:
        address, size = self._field(name)
        return int.from_bytes(ctypes.string_at(address, size), "little")

    def __setitem__(self, name: str | tuple[str, int], value: int) -> None:
        address, size = self._field(name)
        ctypes.memmove(address, (value & (1 << size * 8) - 1).to_bytes(size, "little"), size)

    def call(self, name: str, *arguments: int) -> int:
        """Call the kernel `x86.<name>`."""
        return self.kernels[name](self.base, *(a & (1 << 64) - 1 for a in arguments))

    def read(self, gpa: int, size: int = 8) -> int:
        """Guest memory."""
        return int.from_bytes(ctypes.string_at(self.ram_base + gpa, size), "little")

    def write(self, gpa: int, value: int, size: int = 8) -> None:
        """Guest memory."""
        ctypes.memmove(self.ram_base + gpa, (value & (1 << size * 8) - 1).to_bytes(size, "little"), size)

    def segment(self, seg: Seg, selector: int, base: int, limit: int, attr: int) -> None:
        """Fill a descriptor cache."""
        for name, value in (("sel", selector), ("base", base), ("limit", limit), ("attr", attr)):
            self["seg_" + name, seg] = value

    def descriptor(self, gpa: int, base: int, limit: int, attr: int) -> None:
        """Write an 8-byte descriptor; `limit` in units of the G bit in `attr`."""
        low = limit & 0xFFFF | (base & 0xFFFFFF) << 16 | (attr & 0xFF) << 40
        high = (limit >> 16 & 15) << 48 | (attr >> 12 & 15) << 52 | (base >> 24 & 0xFF) << 56
        self.write(gpa, low | high)

    def flush(self) -> None:
        """Empty the TLB after changing tables behind the processor's back."""
        ctypes.memset(self._tlb, 0xFF, ctypes.sizeof(self._tlb))
        ctypes.memset(self._victims, 0xFF, ctypes.sizeof(self._victims))
        ctypes.memset(self._marks, 0, ctypes.sizeof(self._marks))
        self["tlb_log_count"] = 0

    @property
    def exception(self) -> tuple[int, int | None] | None:
        """The pending (vector, error code), which is taken away; None when nothing stopped."""
        if self["stop"] == 0:
            return None
        assert self["stop"] == 1
        self["stop"] = 0
        self["event_pending"] = 0
        return self["event_vector"], self["event_error"] if self["event_has_error"] else None

    def gpr(self, number: Gpr) -> int:
        """A general register."""
        return self["gpr", number]

    # Usual set-ups
    def protected(self, cpl: int = 0) -> None:
        """Flat 32-bit protected mode: GDT at 0x1000 (8 code0, 10 data0, 18 code3, 20 data3), IDT at 0x2000."""
        self["cr0"] = 0x11
        self["gdt_base"], self["gdt_limit"] = 0x1000, 0xFF
        self["idt_base"], self["idt_limit"] = 0x2000, 0x7FF
        self.descriptor(0x1008, 0, 0xFFFFF, FLAT_CODE)
        self.descriptor(0x1010, 0, 0xFFFFF, FLAT_DATA)
        self.descriptor(0x1018, 0, 0xFFFFF, FLAT_CODE | 3 << 5)
        self.descriptor(0x1020, 0, 0xFFFFF, FLAT_DATA | 3 << 5)
        dpl = cpl << 5
        self.segment(Seg.CS, 0x18 | 3 if cpl else 8, 0, 0xFFFFFFFF, FLAT_CODE | dpl)
        for seg in (Seg.SS, Seg.DS, Seg.ES):
            self.segment(seg, 0x20 | 3 if cpl else 0x10, 0, 0xFFFFFFFF, FLAT_DATA | dpl)
        self.segment(Seg.TR, 0x40, 0x3000, 0x67, 0x8B)
        self["cpl"] = cpl
        self.call("mode_changed")

    def long(self, cpl: int = 0, *, compat: bool = False) -> None:
        """Long mode, identity-mapped by 2 MiB user pages: tables at 0x8000; GDT as `protected` plus 28 code64/0,
        30 data3, 38 code64/3."""
        self.protected(cpl)
        self.write(0x8000, 0x9007)
        self.write(0x9000, 0xA007)
        self.write(0xA000, 0xE7)
        self["cr3"] = 0x8000
        self["cr4"] = 0x20
        self["efer"] = 0xD01
        self["cr0"] = 0x80010011
        self.descriptor(0x1028, 0, 0xFFFFF, LONG_CODE)
        self.descriptor(0x1030, 0, 0xFFFFF, FLAT_DATA | 3 << 5)
        self.descriptor(0x1038, 0, 0xFFFFF, LONG_CODE | 3 << 5)
        if not compat:
            self.segment(Seg.CS, 0x38 | 3 if cpl else 0x28, 0, 0xFFFFFFFF, LONG_CODE | cpl << 5)
        self.call("mode_changed")


def _compile(kernels: dict[str, Kernel]) -> tuple[Any, dict[str, Callable[..., int]]]:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    module = Module()
    for item in kernels.values():
        module.need(item)
    before = {k: k.exported for k in kernels.values()}
    for item in kernels.values():
        item.exported = True
    try:
        text = module.render()
    finally:
        for item, exported in before.items():
            item.exported = exported
    parsed = llvm.parse_assembly(text)
    parsed.verify()
    machine = llvm.Target.from_default_triple().create_target_machine(opt=1)
    engine = llvm.create_mcjit_compiler(parsed, machine)
    engine.finalize_object()
    functions = {}
    for short, item in kernels.items():
        result = None if item.result is None else ctypes.c_uint64
        kinds = [ctypes.c_void_p if isinstance(k, Pointer) else ctypes.c_uint64 for k in item.parameters]
        functions[short] = ctypes.CFUNCTYPE(result, *kinds)(engine.get_function_address(item.name))
    return engine, functions


@pytest.fixture(scope="session")
def x86_kernels() -> Any:
    """Every system kernel of the x86 instruction set, compiled once."""
    from pyhyve.cpu.isa.x86 import (
        control,
        cpuid,
        debug,
        descriptors,
        events,
        faults,
        mode,
        msr,
        paging,
        segments,
        tasks,
        transfer,
    )

    kernels = {}
    for module in (control, cpuid, debug, descriptors, events, faults, mode, msr, paging, segments, tasks, transfer):
        for item in vars(module).values():
            if isinstance(item, Kernel) and item.name.startswith("x86."):
                kernels[item.name.removeprefix("x86.")] = item
    engine, functions = _compile(kernels)
    yield functions
    del engine


@pytest.fixture
def processor(x86_kernels: Any) -> Processor:
    """A processor in real mode."""
    return Processor(x86_kernels)
