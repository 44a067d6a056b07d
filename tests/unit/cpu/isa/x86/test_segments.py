"""Segment loads and selector checks: SDM Vol. 2A/B, Vol. 3A chapter 5."""

from __future__ import annotations

from typing import Any

import pytest

from pyhyve.cpu.isa.x86.state import Seg

VALID = 1 << 32


def test_load_segment_real_keeps_limit(processor: Any) -> None:
    cpu = processor
    cpu["seg_limit", Seg.DS] = 0xFFFFFFFF
    cpu.call("load_segment", Seg.DS, 0x1234)
    assert (cpu["seg_base", Seg.DS], cpu["seg_limit", Seg.DS]) == (0x12340, 0xFFFFFFFF)


def test_load_segment_decodes_and_marks_accessed(processor: Any) -> None:
    cpu = processor
    cpu.protected()
    cpu.descriptor(0x1050, 0x8765_4321, 0x12345, 0xC092)
    cpu.call("load_segment", Seg.FS, 0x50)
    assert cpu["stop"] == 0
    assert (cpu["seg_base", Seg.FS], cpu["seg_limit", Seg.FS]) == (0x8765_4321, 0x12345FFF)
    assert (cpu["seg_attr", Seg.FS], cpu["seg_sel", Seg.FS], cpu.read(0x1055, 1)) == (0xC093, 0x50, 0x93)


@pytest.mark.parametrize(
    ("seg", "attr", "selector", "cpl", "expected"),
    [
        (Seg.DS, 0xC092, 0x50, 3, (13, 0x50)),
        (Seg.DS, 0xC0F2, 0x53, 3, None),
        (Seg.DS, 0xC092, 0x53, 0, (13, 0x50)),
        (Seg.DS, 0xC09A, 0x50, 0, None),
        (Seg.DS, 0xC098, 0x50, 0, (13, 0x50)),
        (Seg.DS, 0xC09E, 0x53, 3, None),
        (Seg.DS, 0xC012, 0x50, 0, (11, 0x50)),
        (Seg.SS, 0xC012, 0x50, 0, (12, 0x50)),
        (Seg.SS, 0xC090, 0x50, 0, (13, 0x50)),
        (Seg.SS, 0xC0F2, 0x53, 0, (13, 0x50)),
        (Seg.SS, 0xC0F2, 0x53, 3, None),
        (Seg.SS, 0xC092, 0, 0, (13, 0)),
        (Seg.DS, 0xC092, 3, 0, None),
        (Seg.DS, 0x0082, 0x50, 0, (13, 0x50)),
        (Seg.DS, 0xC092, 0x54, 0, (13, 0x54)),
    ],
)
def test_load_segment_checks(processor: Any, seg: Seg, attr: int, selector: int, cpl: int, expected: Any) -> None:
    cpu = processor
    cpu.protected(cpl)
    cpu.descriptor(0x1050, 0, 0xFFFFF, attr)
    cpu.call("load_segment", seg, selector)
    assert cpu.exception == expected


def test_null_ss_in_64_bit_mode(processor: Any) -> None:
    cpu = processor
    cpu.long()
    cpu.call("load_segment", Seg.SS, 0)
    assert cpu.exception is None
    cpu.call("load_segment", Seg.SS, 1)
    assert cpu.exception == (13, 0)


def test_ltr_lldt_in_long_mode(processor: Any) -> None:
    cpu = processor
    cpu.long()
    cpu.descriptor(0x1050, 0x8000_3000, 0x67, 0x89)
    cpu.write(0x1058, 0xFFFF_FFFF)
    cpu.call("ltr", 0x50)
    assert cpu.exception is None
    assert (cpu["seg_base", Seg.TR], cpu["seg_attr", Seg.TR]) == (0xFFFF_FFFF_8000_3000, 0x8B)
    assert cpu.call("str") == 0x50
    cpu.call("ltr", 0x50)
    assert cpu.exception == (13, 0x50)  # busy
    cpu.descriptor(0x1060, 0x3000, 0x17, 0x82)
    cpu.write(0x1068, 0)
    cpu.call("lldt", 0x60)
    assert cpu.exception is None
    assert (cpu.call("sldt"), cpu["seg_limit", Seg.LDTR]) == (0x60, 0x17)
    cpu.descriptor(0x3008, 0x1000, 0xFFFFF, 0xC092)
    cpu.call("load_segment", Seg.FS, 0x0C)
    assert cpu.exception is None
    assert cpu["seg_base", Seg.FS] == 0x1000


def test_lar_lsl_verr_verw(processor: Any) -> None:
    cpu = processor
    cpu.protected(3)
    cpu.descriptor(0x1050, 0, 0x12345, 0xC0F2)
    assert cpu.call("lar", 0x53) == 0x00C0_F200 | VALID
    assert cpu.call("lsl", 0x53) == 0x12345FFF | VALID
    assert (cpu.call("verr", 0x53), cpu.call("verw", 0x53)) == (1, 1)
    assert (cpu.call("lar", 0x10), cpu.call("verr", 0x10)) == (0, 0)
    assert (cpu.call("verr", 0x1B), cpu.call("verw", 0x1B)) == (1, 0)
    assert cpu.call("lsl", 0) == 0
    assert cpu.exception is None
    assert cpu.call("arpl", 0x50, 0x13) == 0x53 | VALID
    assert cpu.call("arpl", 0x53, 0x10) == 0x53


def test_table_registers(processor: Any) -> None:
    cpu = processor
    cpu.write(0x500, 0x1234, 2)
    cpu.write(0x502, 0x89AB_CDEF, 4)
    cpu.call("lgdt", 0x500, 2)
    assert (cpu["gdt_base"], cpu["gdt_limit"]) == (0xAB_CDEF, 0x1234)
    cpu.long()
    cpu.write(0x502, 0xFFFF_FFFF_89AB_CDEF)
    cpu.call("lidt", 0x500, 8)
    assert cpu["idt_base"] == 0xFFFF_FFFF_89AB_CDEF
    cpu.call("sidt", 0x600)
    assert (cpu.read(0x600, 2), cpu.read(0x602)) == (0x1234, 0xFFFF_FFFF_89AB_CDEF)
    cpu.write(0x502, 1 << 47)
    cpu.call("lidt", 0x500, 8)
    assert cpu.exception == (13, 0)


def test_umip_hides_tables_from_user_mode(processor: Any) -> None:
    cpu = processor
    cpu.long(3)
    cpu.call("sidt", 0x600)
    assert cpu.exception is None
    cpu["cr4"] = 0x20 | 1 << 11
    for name, arguments in (("sidt", (0x600,)), ("sgdt", (0x600,)), ("str", ()), ("sldt", ()), ("smsw", ())):
        cpu.call(name, *arguments)
        assert cpu.exception == (13, 0)
