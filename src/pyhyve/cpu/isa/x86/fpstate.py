"""Saving and restoring floating-point state: FXSAVE, XSAVE and their counterparts, and the control words.

Layouts: SDM Vol. 1, 10.5.1 (FXSAVE) and 13.4 (XSAVE area, standard format, components x87 and SSE).

MXCSR: while guest code runs, the host's MXCSR holds the guest's rounding, DAZ and FTZ bits, all exceptions masked, and
collects the sticky flags; `state.mxcsr` holds the guest's own mask and control bits.
"""

from __future__ import annotations

from typing import Any

from pyhyve.cpu.isa.x86 import faults, save_area
from pyhyve.cpu.isa.x86.spec import Cr0, Cr4
from pyhyve.cpu.isa.x86.state import STATE
from pyhyve.cpu.lang import U8, U16, U32, U64, Pointer, current, inline, kernel, u32, u64

MXCSR_FLAGS = 0x3F
MXCSR_MASKS = 0x1F80
MXCSR_VALID = 0xFFFF
"""MXCSR_MASK: the bits that exist."""
MXCSR_RESET = 0x1F80
FCW_RESET = 0x37F
FCW_VALID = 0x1F3F
FCW_FIXED = 0x40
FSW_SUMMARY = 0x8080
"""ES and B."""
FX_BYTES = 512
X_BYTES = FX_BYTES + 64
MXCSR_WORD, STACK_WORD, XMM_WORD, HEADER_WORD = 3, 4, 20, 64
"""Numbers of 8-byte words in an area: MXCSR and its mask, ST0, XMM0 (what follows the last register is not written),
XSTATE_BV."""
FEATURE_X87 = 1
FEATURE_SSE = 2

POINTER = Pointer(STATE)


@kernel(POINTER, result=U64, name="fpstate.read_mxcsr")
def read_mxcsr(st: Any) -> Any:
    """The guest's MXCSR: its own control bits, the host's sticky flags."""
    current().asm("stmxcsr ($0)", "r,~{memory}", "void", [("ptr", st.ref("fp_pad").ir)])
    return ((st.mxcsr & ~u32(MXCSR_FLAGS)) | (st.fp_pad & MXCSR_FLAGS)).zext(64)


@kernel(POINTER, U64, name="fpstate.write_mxcsr")
def write_mxcsr(st: Any, value: Any) -> None:
    """Replace MXCSR; `value` has no reserved bits."""
    st.mxcsr = value.trunc(32)
    st.fp_pad = value.trunc(32) | MXCSR_MASKS
    current().asm("ldmxcsr ($0)", "r,~{memory}", "void", [("ptr", st.ref("fp_pad").ir)])


@kernel(POINTER, U64, name="fpstate.ldmxcsr")
def ldmxcsr(st: Any, value: Any) -> None:
    """LDMXCSR: #GP(0) for reserved bits."""
    if (value & ~u64(MXCSR_VALID)) != 0:
        faults.gp(st)
    else:
        write_mxcsr(st, value)


@inline
def with_summary(status: Any, control: Any) -> Any:
    """A status word (16 bits, without TOP) whose ES and B follow from its flags and the masks."""
    pending = status & ~control & 0x3F
    clean = status & ~current().value(FSW_SUMMARY, status.get().kind)
    return current().select(pending != 0, clean | FSW_SUMMARY, clean)


@kernel(POINTER, U64, name="fpstate.set_control")
def set_control(st: Any, word: Any) -> None:
    """Replace the x87 control word (16 bits) and the error summary that depends on it."""
    st.fp_control = (word.trunc(16) & FCW_VALID) | FCW_FIXED
    st.fp_status = with_summary(st.fp_status, st.fp_control)


@kernel(POINTER, U64, name="fpstate.set_status")
def set_status(st: Any, word: Any) -> None:
    """Replace the x87 status word, TOP included; the control word must be set before."""
    st.fp_top = ((word >> 11) & 7).trunc(32)
    st.fp_status = with_summary(word.trunc(16) & 0xC77F, st.fp_control)


@kernel(POINTER, result=U64, name="fpstate.status")
def status(st: Any) -> Any:
    """The x87 status word, TOP included."""
    return st.fp_status.zext(64) | (st.fp_top.zext(64) << 11)


@kernel(POINTER, name="fpstate.fninit")
def fninit(st: Any) -> None:
    """FNINIT: control words to their defaults, registers empty (their contents stay)."""
    st.fp_control = FCW_RESET
    st.fp_status = 0
    st.fp_top = 0
    st.fp_valid = 0
    clear_pointers(st)


@inline
def clear_pointers(st: Any) -> None:
    """No last instruction."""
    st.fp_ip = 0
    st.fp_dp = 0
    st.fp_cs = 0
    st.fp_ds = 0
    st.fp_opcode = 0


@kernel(POINTER, name="fpstate.reset_x87")
def reset_x87(st: Any) -> None:
    """The initial configuration of XSAVE component 0."""
    fninit(st)
    i = u64(0)
    while i < 16:
        st.fpr[i] = 0
        i += 1


@kernel(POINTER, U64, name="fpstate.reset_sse")
def reset_sse(st: Any, count: Any) -> None:
    """The initial configuration of XSAVE component 1, without MXCSR, of the first `count` XMM registers."""
    i = u64(0)
    while i < count * 2:
        st.xmm[i] = 0
        i += 1


@kernel(POINTER, U64, U64, name="fpstate.put_x87")
def put_x87(st: Any, area: Any, wide: Any) -> None:
    """Write the x87 part of an FXSAVE area at host address `area`; `wide`: 64-bit pointers (REX.W)."""
    area.cast(U16)[0] = st.fp_control
    area.cast(U16)[1] = status(st).trunc(16)
    area.cast(U16)[2] = (st.fp_valid & 0xFF).trunc(16)
    area.cast(U16)[3] = st.fp_opcode.trunc(16) & 0x7FF
    if wide != 0:
        area.cast(U64)[1] = st.fp_ip
        area.cast(U64)[2] = st.fp_dp
    else:
        area.cast(U64)[1] = (st.fp_ip & 0xFFFFFFFF) | ((st.fp_cs & 0xFFFF).zext(64) << 32)
        area.cast(U64)[2] = (st.fp_dp & 0xFFFFFFFF) | ((st.fp_ds & 0xFFFF).zext(64) << 32)
    i = u64(0)
    while i < 8:
        source = st.fpr.offset(((st.fp_top.zext(64) + i) & 7) * 16)
        target = (area + 32 + i * 16).cast(U64)
        target[0] = source[0]
        target[1] = source[1] & 0xFFFF
        i += 1


@kernel(POINTER, U64, U64, name="fpstate.put_sse")
def put_sse(st: Any, area: Any, count: Any) -> None:
    """Write the first `count` XMM registers of an FXSAVE area."""
    i = u64(0)
    while i < count * 2:
        (area + 160).cast(U64)[i] = st.xmm[i]
        i += 1


@kernel(POINTER, U64, name="fpstate.put_mxcsr")
def put_mxcsr(st: Any, area: Any) -> None:
    """Write MXCSR and its mask."""
    area.cast(U32)[6] = read_mxcsr(st).trunc(32)
    area.cast(U32)[7] = MXCSR_VALID


@kernel(POINTER, U64, U64, name="fpstate.get_x87")
def get_x87(st: Any, area: Any, wide: Any) -> None:
    """Load the x87 part of an FXSAVE area."""
    st.fp_control = (area.cast(U16)[0] & FCW_VALID) | FCW_FIXED
    set_status(st, area.cast(U16)[1].zext(64))
    st.fp_valid = area.cast(U8)[4].zext(32)
    st.fp_opcode = area.cast(U16)[3].zext(32) & 0x7FF
    if wide != 0:
        st.fp_ip = area.cast(U64)[1]
        st.fp_dp = area.cast(U64)[2]
        st.fp_cs = 0
        st.fp_ds = 0
    else:
        st.fp_ip = area.cast(U32)[2].zext(64)
        st.fp_cs = area.cast(U16)[6].zext(32)
        st.fp_dp = area.cast(U32)[4].zext(64)
        st.fp_ds = area.cast(U16)[10].zext(32)
    i = u64(0)
    while i < 8:
        target = st.fpr.offset(((st.fp_top.zext(64) + i) & 7) * 16)
        source = (area + 32 + i * 16).cast(U64)
        target[0] = source[0]
        target[1] = source[1] & 0xFFFF
        i += 1


@kernel(POINTER, U64, U64, name="fpstate.get_sse")
def get_sse(st: Any, area: Any, count: Any) -> None:
    """Load the first `count` XMM registers of an FXSAVE area."""
    i = u64(0)
    while i < count * 2:
        st.xmm[i] = (area + 160).cast(U64)[i]
        i += 1


@kernel(POINTER, result=U64, name="fpstate.unusable")
def unusable(st: Any) -> Any:
    """#NM (and 1) when CR0.EM or CR0.TS is set."""
    if (st.cr0 & (Cr0.EM | Cr0.TS)) != 0:
        faults.nm(st)
        return 1
    return 0


@kernel(POINTER, U64, U64, U64, U64, name="fpstate.fxsave", attributes="nounwind noinline")
def fxsave(st: Any, offset: Any, wide: Any, count: Any, address_bits: Any) -> None:
    """FXSAVE with `count` XMM registers."""
    if unusable(st) != 0:
        return
    address = save_area.start(st, offset, 16)
    if st.stop != 0:
        return
    # As processors do, here and below: the last byte is tried first.
    save_area.try_write(st, offset, u64(FX_BYTES - 1), address_bits)
    if st.stop != 0:
        return
    buffer = current().buffer(FX_BYTES, U8).address()
    host = save_area.plain_target(st, offset, address, u64(FX_BYTES), address_bits)
    if st.stop != 0:
        return
    area = current().select(host != 0, host, buffer)
    put_x87(st, area, wide)
    put_mxcsr(st, area)
    put_sse(st, area, count)
    if host == 0:
        save_area.store_words(st, offset, u64(0), u64(XMM_WORD) + count * 2, address_bits, buffer)


@kernel(POINTER, U64, U64, U64, U64, name="fpstate.fxrstor", attributes="nounwind noinline")
def fxrstor(st: Any, offset: Any, wide: Any, count: Any, address_bits: Any) -> None:
    """FXRSTOR; XMM registers and MXCSR only with CR4.OSFXSR."""
    if unusable(st) != 0:
        return
    address = save_area.start(st, offset, 16)
    if st.stop != 0:
        return
    save_area.try_read(st, offset, u64(FX_BYTES - 1), address_bits)
    if st.stop != 0:
        return
    buffer = current().buffer(FX_BYTES, U8).address()
    host = save_area.plain_source(st, offset, address, u64(FX_BYTES), address_bits)
    if st.stop != 0:
        return
    if host == 0:
        save_area.load_words(st, offset, u64(0), u64(FX_BYTES // 8), address_bits, buffer)
        if st.stop != 0:
            return
    area = current().select(host != 0, host, buffer)
    if (st.cr4 & Cr4.OSFXSR) != 0:
        mxcsr = area.cast(U32)[6].zext(64)
        if (mxcsr & ~u64(MXCSR_VALID)) != 0:
            faults.gp(st)
            return
        write_mxcsr(st, mxcsr)
        get_sse(st, area, count)
    get_x87(st, area, wide)


@kernel(POINTER, result=U64, name="fpstate.extended_unusable")
def extended_unusable(st: Any) -> Any:
    """The checks that XSAVE and XRSTOR begin with; 1 after raising #UD or #NM."""
    if (st.cr4 & Cr4.OSXSAVE) == 0:
        faults.ud(st)
        return 1
    if (st.cr0 & Cr0.TS) != 0:
        faults.nm(st)
        return 1
    return 0


@inline
def _requested(st: Any) -> Any:
    """Components named by EDX:EAX and enabled in XCR0."""
    return st.xcr0 & ((st.gpr[0] & 0xFFFFFFFF) | (st.gpr[2] << 32))


@inline
def _first_access(features: Any) -> Any:
    """Distance of what XSAVE and XRSTOR of `features` (not none) touch first in the legacy region."""
    return current().select((features & FEATURE_X87) != 0, u64(0), u64(8 * MXCSR_WORD))


@kernel(POINTER, U64, U64, U64, U64, name="fpstate.xsave", attributes="nounwind noinline")
def xsave(st: Any, offset: Any, wide: Any, count: Any, address_bits: Any) -> None:
    """XSAVE, standard format: what is not asked for is not touched."""
    if extended_unusable(st) != 0:
        return
    address = save_area.start(st, offset, 64)
    if st.stop != 0:
        return
    save_area.try_write(st, offset, u64(X_BYTES - 1), address_bits)
    if st.stop != 0:
        return
    features = _requested(st)
    if features != 0:
        save_area.try_write(st, offset, _first_access(features), address_bits)
        if st.stop != 0:
            return
    buffer = current().buffer(X_BYTES, U8).address()
    host: U64 = 0
    if features != 0:
        host = save_area.plain_target(st, offset, address, u64(X_BYTES), address_bits)
        if st.stop != 0:
            return
    if host == 0:
        save_area.load_words(st, offset, u64(HEADER_WORD), u64(1), address_bits, buffer)
        if st.stop != 0:
            return
    area = current().select(host != 0, host, buffer)
    if (features & FEATURE_X87) != 0:
        put_x87(st, area, wide)
    if (features & FEATURE_SSE) != 0:
        put_sse(st, area, count)
        put_mxcsr(st, area)
    header = area.cast(U64)[HEADER_WORD] | features
    area.cast(U64)[HEADER_WORD] = header
    if host == 0:
        if (features & FEATURE_X87) != 0:
            save_area.store_words(st, offset, u64(0), u64(MXCSR_WORD), address_bits, buffer)
            if st.stop == 0:
                count_ = u64(XMM_WORD - STACK_WORD)
                save_area.store_words(st, offset, u64(STACK_WORD), count_, address_bits, buffer)
        if st.stop == 0 and (features & FEATURE_SSE) != 0:
            save_area.store_words(st, offset, u64(MXCSR_WORD), u64(1), address_bits, buffer)
            if st.stop == 0:
                save_area.store_words(st, offset, u64(XMM_WORD), count * 2, address_bits, buffer)
        if st.stop == 0:
            save_area.store_words(st, offset, u64(HEADER_WORD), u64(1), address_bits, buffer)


@kernel(POINTER, U64, U64, U64, U64, name="fpstate.xrstor", attributes="nounwind noinline")
def xrstor(st: Any, offset: Any, wide: Any, count: Any, address_bits: Any) -> None:
    """XRSTOR, standard format: #GP(0) for a header or an MXCSR with reserved bits.

    What is not asked for is not read.
    """
    if extended_unusable(st) != 0:
        return
    address = save_area.start(st, offset, 64)
    if st.stop != 0:
        return
    buffer = current().buffer(X_BYTES, U8).address()
    # As processors do: the header first, its second word before the others.
    for word in (HEADER_WORD + 1, HEADER_WORD, HEADER_WORD + 2):
        save_area.load_words(st, offset, u64(word), u64(1), address_bits, buffer)
        if st.stop != 0:
            return
    header = buffer.cast(U64)
    present, compact = header[HEADER_WORD], header[HEADER_WORD + 1]
    features = _requested(st)
    # The legacy region is tried before the header is judged.
    if features != 0:
        save_area.try_read(st, offset, _first_access(features), address_bits)
        if st.stop != 0:
            return
    if (present & ~st.xcr0) != 0 or compact != 0 or header[HEADER_WORD + 2] != 0:
        faults.gp(st)
        return
    if features == 0:
        return
    host = save_area.plain_source(st, offset, address, u64(FX_BYTES), address_bits)
    if st.stop != 0:
        return
    if host == 0:
        save_area.load_words(st, offset, u64(0), u64(XMM_WORD) + count * 2, address_bits, buffer)
        if st.stop != 0:
            return
    area = current().select(host != 0, host, buffer)
    if (features & FEATURE_SSE) != 0:
        mxcsr = area.cast(U32)[6].zext(64)
        if (mxcsr & ~u64(MXCSR_VALID)) != 0:
            faults.gp(st)
            return
        write_mxcsr(st, mxcsr)
    if (features & FEATURE_X87) != 0:
        if (present & FEATURE_X87) != 0:
            get_x87(st, area, wide)
        else:
            reset_x87(st)
    if (features & FEATURE_SSE) != 0:
        if (present & FEATURE_SSE) != 0:
            get_sse(st, area, count)
        else:
            reset_sse(st, count)


@kernel(POINTER, name="fpstate.xgetbv")
def xgetbv(st: Any) -> None:
    """XGETBV: XCR0 in EDX:EAX; #UD without CR4.OSXSAVE, #GP(0) for another register."""
    if (st.cr4 & Cr4.OSXSAVE) == 0:
        faults.ud(st)
        return
    if (st.gpr[1] & 0xFFFFFFFF) != 0:
        faults.gp(st)
        return
    st.gpr[0] = st.xcr0 & 0xFFFFFFFF
    st.gpr[2] = st.xcr0 >> 32
