"""Mismatches in words, and cases as text that can be run again."""

from __future__ import annotations

import struct
import zlib
from typing import Final

import capstone

from . import layout as at
from .batch import Batch, Case, Result
from .machine_code import GPRS

_VECTORS: Final = {
    at.VECTOR_DONE: "done", at.VECTOR_HUNG: "hung", at.VECTOR_DIED: "died", 0: "#DE", 1: "#DB", 3: "#BP", 4: "#OF",
    6: "#UD", 7: "#NM", 11: "#NP", 12: "#SS", 13: "#GP", 14: "#PF", 16: "#MF", 17: "#AC", 19: "#XM",
}  # fmt: skip
_PREFIX_WORDS: Final = frozenset(
    {"", "lock", "rep", "repe", "repne", "repz", "repnz", "xacquire", "xrelease", "bnd", "notrack"}
)
_FLAGS: Final = {
    "CF": at.CF, "PF": at.PF, "AF": at.AF, "ZF": at.ZF, "SF": at.SF, "TF": at.TF, "DF": at.DF, "OF": at.OF, "NT": at.NT,
    "AC": at.AC, "ID": at.ID,
}  # fmt: skip


def disassemble(case: Case) -> list[str]:
    """One line per instruction: bytes and text."""
    return _disassemble(case, 0)


def _disassemble(case: Case, offset: int) -> list[str]:
    modes = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
    disassembler = capstone.Cs(capstone.CS_ARCH_X86, modes[case.bits])
    disassembler.skipdata = True
    return [
        f"{instruction.bytes.hex():<24} {instruction.mnemonic} {instruction.op_str}".rstrip()
        for instruction in disassembler.disasm(case.code[max(offset, 0) :], case.rip)
    ]


def at_offset(case: Case, offset: int) -> str:
    """The instruction at an offset in the code, without prefixes; nothing if there is none."""
    for line in _disassemble(case, offset):
        return " ".join(word for word in line[25:].split(" ") if word not in _PREFIX_WORDS)
    return ""


def mnemonic(case: Case) -> str:
    """What to file a mismatch under: the only instruction's mnemonic, or all of them."""
    names = []
    for line in disassemble(case):
        words = [word for word in line[25:].split(" ") if word not in _PREFIX_WORDS]
        names.append(words[0] if words else "?")
    return " ".join(names)


def differences(case: Case, template: bytes, native: Result, engine: Result) -> list[str]:
    """The differing fields, each with its initial value and both outcomes."""
    lines = []
    if native.vector != engine.vector:
        lines.append(f"outcome: native {_outcome(native)}, engine {_outcome(engine)}")
    elif (native.error, native.cr2) != (engine.error, engine.cr2):
        lines.append(f"fault: native {_outcome(native)}, engine {_outcome(engine)}")
    for name, before, ours, theirs in zip(
        (*GPRS, "rip"), (*case.gprs, case.rip), (*native.gprs, native.rip), (*engine.gprs, engine.rip), strict=True
    ):
        if ours != theirs:
            lines.append(f"{name}: {before:#x} -> native {ours:#x}, engine {theirs:#x}")
    if (native.rflags ^ engine.rflags) & case.flags_mask:
        names = [name for name, bit in _FLAGS.items() if (native.rflags ^ engine.rflags) & case.flags_mask & bit]
        lines.append(
            f"rflags ({' '.join(names)}): {case.rflags:#x} -> native {native.rflags:#x}, engine {engine.rflags:#x}"
        )
    lines += _fx_differences(case, native, engine)
    lines += _memory_differences(template, native, engine)
    return lines


def vector_name(vector: int) -> str:
    """The manual's name of an exception, or how else a case ended."""
    return _VECTORS.get(vector, f"vector {vector}")


def _outcome(result: Result) -> str:
    text = vector_name(result.vector)
    if result.vector >= 0:
        text += f"({result.error:#x})"
    return f"{text} cr2 {result.cr2:#x}" if result.vector == 14 else text


def _fx_differences(case: Case, native: Result, engine: Result) -> list[str]:
    lines = []
    before, ours, theirs = case.fx, native.fx, engine.fx
    for name, offset, size, mask in (
        ("cw", at.FX_CW, 2, 0xFFFF), ("sw", at.FX_SW, 2, case.sw_mask), ("tw", at.FX_TW, 1, 0xFF),
        ("mxcsr", at.FX_MXCSR, 4, 0xFFFF_FFFF),
    ):  # fmt: skip
        values = [int.from_bytes(image[offset : offset + size], "little") for image in (before, ours, theirs)]
        if (values[1] ^ values[2]) & mask:
            lines.append(f"{name}: {values[0]:#x} -> native {values[1]:#x}, engine {values[2]:#x}")
    for name, start, count in (("st", at.FX_ST, 8), ("xmm", at.FX_XMM, 16)):
        for n in range(count):
            part = slice(start + 16 * n, start + 16 * n + 16)
            if ours[part] != theirs[part]:
                texts = [image[part][::-1].hex() for image in (before, ours, theirs)]
                lines.append(f"{name}{n}: {texts[0]} -> native {texts[1]}, engine {texts[2]}")
    return lines


def _memory_differences(template: bytes, native: Result, engine: Result) -> list[str]:
    lines = []
    if native.dirty != engine.dirty:
        lines.append(f"changed lines of memory: native {native.dirty}, engine {engine.dirty}")
    ours, theirs = native.lines(), engine.lines()
    for address in sorted(ours.keys() | theirs.keys()):
        offset = address - at.DATA if address < at.STACK else address - at.STACK + at.DATA_SIZE
        before = template[offset : offset + at.LINE]
        mine, other = ours.get(address, before), theirs.get(address, before)
        for word in range(0, at.LINE, 8):
            part = slice(word, word + 8)
            if mine[part] != other[part]:
                texts = [line[part][::-1].hex() for line in (before, mine, other)]
                lines.append(f"[{address + word:#x}]: {texts[0]} -> native {texts[1]}, engine {texts[2]}")
    return lines


def describe(batch: Batch, index: int, native: Result, engine: Result) -> str:
    """A whole mismatch, with its input and how to run it again."""
    case = batch.case(index)
    registers = [f"{name} {value:x}" for name, value in zip(GPRS, case.gprs, strict=True)]
    control, status, tags, mxcsr = struct.unpack_from("<HHB19xI", case.fx)
    lines = [
        *(f"  {line}" for line in disassemble(case)),
        f"  at {case.rip:#x}, {' '.join(registers[:8])}",
        *(
            [f"  {case.bits} bits, eip {case.eip:#x}, cs ss ds es " + " ".join(f"{s:x}" for s in case.selectors)]
            if case.bits != 64
            else []
        ),
        f"  {' '.join(registers[8:])} rflags {case.rflags:x} cw {control:x} sw {status:x} tw {tags:x} mxcsr {mxcsr:x}",
        *(f"    {line}" for line in differences(case, batch.template, native, engine)),
    ]
    return "\n".join(lines)


def to_text(batch: Batch, index: int) -> str:
    """A case and its memory as hexadecimal text."""
    return zlib.compress(batch.case(index).record + batch.template, 9).hex()


def from_text(text: str) -> Batch:
    """The batch of one case that `to_text` wrote.

    Raises:
        ValueError: the text is not such a case.
    """
    try:
        data = zlib.decompress(bytes.fromhex(text))
    except zlib.error as error:
        message = f"not a case: {error}"
        raise ValueError(message) from None
    if len(data) != at.CASE_SIZE + at.TEMPLATE_SIZE:
        message = f"not a case: {len(data)} bytes"
        raise ValueError(message)
    return Batch(data[at.CASE_SIZE :], bytearray(data[: at.CASE_SIZE]), [()])
