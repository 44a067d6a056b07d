"""The harness's machine code, assembled and compiled by LLVM: entering and leaving a case, memory diff, comparison.

Functions (System V calling convention; `HarnessCode` holds their addresses):

``hy_run_batch(cases, results, start, end, code_alias, template, progress)``
    runs the cases natively. ``code_alias`` is a writable mapping of the code pages. ``template`` is what ``DATA`` and
    ``STACK`` hold before each case (they are put back after it). ``progress`` (u32) is the case under way.
``hy_diff(memory, template, lines, first_line, result)``
    adds the 64-byte lines of ``memory`` that differ from ``template`` to the result record and puts them back.
``hy_compare(cases, a, b, count, indices) -> count``
    writes the (u32) indices of cases whose results differ.
``hy_signal(signal, info, context)``
    the signal handler: records the exception in the save page and returns from ``hy_run_one``.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import layout as at

if TYPE_CHECKING:
    import llvmlite.binding as llvm

GPRS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))

# Offsets in the save page. Its first 0x300 bytes have the layout of a result record.
_HOST_RSP = at.SAVE + 0x400
_ACTIVE = at.SAVE + 0x408
_MXCSR = at.SAVE + 0x410
_FRAME = at.SAVE + 0x440
_SAVED_FS = at.SAVE + 0x480
_SAVED_GS = at.SAVE + 0x488

# struct ucontext_t of Linux x86-64 (arch/x86/include/uapi/asm/sigcontext.h): uc_mcontext starts at 40.
_CONTEXT = 40
_CONTEXT_ORDER = (
    *(f"r{n}" for n in range(8, 16)), "rdi", "rsi", "rbp", "rbx", "rdx", "rax", "rcx", "rsp",
)  # fmt: skip
_CONTEXT_RIP = _CONTEXT + 16 * 8
_CONTEXT_EFLAGS = _CONTEXT + 17 * 8
_CONTEXT_ERR = _CONTEXT + 19 * 8
_CONTEXT_TRAPNO = _CONTEXT + 20 * 8
_CONTEXT_CR2 = _CONTEXT + 22 * 8
_CONTEXT_FPSTATE = _CONTEXT + 23 * 8


def _enter_assembly() -> list[str]:
    """``hy_run_one(case)``: load the case's whole state; IRETQ also serialises, so freshly written code is seen."""
    code = [f"push {r}" for r in ("rbx", "rbp", "r12", "r13", "r14", "r15")]
    code += [
        f"mov qword ptr [{_HOST_RSP}], rsp",
        f"mov qword ptr [{_ACTIVE}], 1",
        f"mov rax, qword ptr [rdi + {at.CASE_EIP}]",
        f"mov qword ptr [{_FRAME}], rax",
        f"movzx eax, word ptr [rdi + {at.CASE_SELECTORS}]",
        f"mov qword ptr [{_FRAME + 8}], rax",
        f"mov rax, qword ptr [rdi + {at.CASE_RFLAGS}]",
        f"mov qword ptr [{_FRAME + 16}], rax",
        f"mov rax, qword ptr [rdi + {at.CASE_GPR + 4 * 8}]",
        f"mov qword ptr [{_FRAME + 24}], rax",
        f"movzx eax, word ptr [rdi + {at.CASE_SELECTORS + 2}]",
        f"mov qword ptr [{_FRAME + 32}], rax",
        f"mov ds, word ptr [rdi + {at.CASE_SELECTORS + 4}]",
        f"mov es, word ptr [rdi + {at.CASE_SELECTORS + 6}]",
        f"fxrstor64 [rdi + {at.CASE_FX}]",
    ]
    order = [n for n, name in enumerate(GPRS) if name not in ("rsp", "rdi")] + [GPRS.index("rdi")]
    code += [f"mov {GPRS[n]}, qword ptr [rdi + {at.CASE_GPR + 8 * n}]" for n in order]
    return [*code, f"mov rsp, {_FRAME}", "iretq"]


def _restore_host() -> list[str]:
    code = [
        f"mov rsp, qword ptr [{_HOST_RSP}]",
        "push 2",
        "popfq",
        "fninit",
        f"mov dword ptr [{_MXCSR}], 0x1f80",
        f"ldmxcsr dword ptr [{_MXCSR}]",
        f"mov qword ptr [{_ACTIVE}], 0",
    ]
    return [*code, *(f"pop {r}" for r in ("r15", "r14", "r13", "r12", "rbp", "rbx")), "ret"]


def _leave_assembly() -> list[str]:
    """``hy_leave``: jumped to with the case's final state in the registers; ends ``hy_run_one``."""
    code = [f"mov qword ptr [{at.SAVE + at.RESULT_GPR + 8 * n}], {name}" for n, name in enumerate(GPRS)]
    return [
        *code,
        f"mov rsp, qword ptr [{_HOST_RSP}]",
        "pushfq",
        f"pop qword ptr [{at.SAVE + at.RESULT_RFLAGS}]",
        f"fxsave64 [{at.SAVE + at.RESULT_FX}]",
        f"mov qword ptr [{at.SAVE + at.RESULT_RIP}], {at.STUB}",
        f"mov qword ptr [{at.SAVE + at.RESULT_VECTOR}], {at.VECTOR_DONE}",
        f"mov qword ptr [{at.SAVE + at.RESULT_ERROR}], 0",
        f"mov qword ptr [{at.SAVE + at.RESULT_CR2}], 0",
        *_restore_host(),
    ]


def _signal_assembly() -> list[str]:
    """``hy_signal``: never returns to the kernel, which notices by the stack pointer that the signal stack is free."""
    code = [
        "push 2",
        "popfq",
        f"cmp qword ptr [{_ACTIVE}], 0",
        "jne 1f",
        "mov edi, 99",  # not a case's fault but the child's own: exit_group(99)
        "mov eax, 231",
        "syscall",
        "1:",
    ]

    def copy(source: int, target: int) -> None:
        code.append(f"mov rax, qword ptr [rdx + {source}]")
        code.append(f"mov qword ptr [{at.SAVE + target}], rax")

    for n, name in enumerate(_CONTEXT_ORDER):
        copy(_CONTEXT + 8 * n, at.RESULT_GPR + 8 * GPRS.index(name))
    copy(_CONTEXT_RIP, at.RESULT_RIP)
    copy(_CONTEXT_EFLAGS, at.RESULT_RFLAGS)
    copy(_CONTEXT_TRAPNO, at.RESULT_VECTOR)
    copy(_CONTEXT_ERR, at.RESULT_ERROR)
    copy(_CONTEXT_CR2, at.RESULT_CR2)
    code += [
        f"mov rsi, qword ptr [rdx + {_CONTEXT_FPSTATE}]",
        f"mov edi, {at.SAVE + at.RESULT_FX}",
        f"mov ecx, {at.FX_SIZE // 8}",
        "rep movsq",
    ]
    return code + _restore_host()


def _bases_assembly(*, enter: bool) -> list[str]:
    """``hy_bases_enter`` / ``hy_bases_leave``: arch_prctl(2) of the FS and GS bases (158; 0x1001..0x1004)."""

    def prctl(code: int, argument: str) -> list[str]:
        return [f"mov edi, {code}", f"mov rsi, {argument}", "mov eax, 158", "syscall"]

    set_gs, set_fs, get_fs, get_gs = 0x1001, 0x1002, 0x1003, 0x1004
    if not enter:
        return [
            *prctl(set_fs, f"qword ptr [{_SAVED_FS}]"),
            *prctl(set_gs, f"qword ptr [{_SAVED_GS}]"),
            "ret",
        ]
    return [
        *prctl(get_fs, str(_SAVED_FS)),
        *prctl(get_gs, str(_SAVED_GS)),
        *prctl(set_fs, str(at.FS_BASE)),
        *prctl(set_gs, str(at.GS_BASE)),
        "ret",
    ]


def _assembly() -> str:
    functions = {
        "hy_run_one": _enter_assembly(),
        "hy_leave": _leave_assembly(),
        "hy_signal": _signal_assembly(),
        "hy_bases_enter": _bases_assembly(enter=True),
        "hy_bases_leave": _bases_assembly(enter=False),
    }
    lines = [".intel_syntax noprefix", ".text"]
    for name, code in functions.items():
        lines += [f".globl {name}", ".p2align 4", f"{name}:", *code]
    lines.append(".att_syntax")
    return "\n".join(f'module asm "{line}"' for line in lines)


_IR = f"""
declare void @hy_run_one(ptr)
declare void @hy_leave()
declare void @hy_signal()
declare void @hy_bases_enter()
declare void @hy_bases_leave()
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare i32 @memcmp(ptr, ptr, i64)
declare i64 @llvm.vector.reduce.or.v8i64(<8 x i64>)

define ptr @hy_leave_address() {{ ret ptr @hy_leave }}
define ptr @hy_signal_address() {{ ret ptr @hy_signal }}

define void @hy_diff(ptr %memory, ptr %template, i32 %lines, i32 %first, ptr %result) {{
entry:
  %count_at = getelementptr i8, ptr %result, i64 {at.RESULT_DIRTY}
  br label %loop
loop:
  %i = phi i32 [ 0, %entry ], [ %i2, %next ]
  %i64 = zext i32 %i to i64
  %offset = mul i64 %i64, {at.LINE}
  %a_at = getelementptr i8, ptr %memory, i64 %offset
  %b_at = getelementptr i8, ptr %template, i64 %offset
  %a = load <8 x i64>, ptr %a_at, align 64
  %b = load <8 x i64>, ptr %b_at, align 8
  %x = xor <8 x i64> %a, %b
  %any = call i64 @llvm.vector.reduce.or.v8i64(<8 x i64> %x)
  %same = icmp eq i64 %any, 0
  br i1 %same, label %next, label %dirty
dirty:
  %count = load i32, ptr %count_at
  %count2 = add i32 %count, 1
  store i32 %count2, ptr %count_at
  %fits = icmp ult i32 %count, {at.MAX_LINES}
  br i1 %fits, label %keep, label %put_back
keep:
  %c64 = zext i32 %count to i64
  %index_off = mul i64 %c64, 2
  %index_off2 = add i64 %index_off, {at.RESULT_LINE_INDEX}
  %index_at = getelementptr i8, ptr %result, i64 %index_off2
  %line = add i32 %i, %first
  %line16 = trunc i32 %line to i16
  store i16 %line16, ptr %index_at
  %line_off = mul i64 %c64, {at.LINE}
  %line_off2 = add i64 %line_off, {at.RESULT_LINES}
  %line_at = getelementptr i8, ptr %result, i64 %line_off2
  store <8 x i64> %a, ptr %line_at, align 8
  br label %put_back
put_back:
  store <8 x i64> %b, ptr %a_at, align 64
  br label %next
next:
  %i2 = add i32 %i, 1
  %done = icmp eq i32 %i2, %lines
  br i1 %done, label %out, label %loop
out:
  ret void
}}

define void @hy_run_batch(ptr %cases, ptr %results, i32 %start, i32 %end, ptr %alias, ptr %template, ptr %progress) {{
entry:
  %none = icmp eq i32 %start, %end
  br i1 %none, label %out, label %begin
begin:
  call void @hy_bases_enter()
  %stack_template = getelementptr i8, ptr %template, i64 {at.DATA_SIZE}
  br label %loop
loop:
  %i = phi i32 [ %start, %begin ], [ %i2, %after ]
  store volatile i32 %i, ptr %progress
  %i64 = zext i32 %i to i64
  %case_off = mul i64 %i64, {at.CASE_SIZE}
  %case = getelementptr i8, ptr %cases, i64 %case_off
  %result_off = mul i64 %i64, {at.RESULT_SIZE}
  %result = getelementptr i8, ptr %results, i64 %result_off
  %rip_at = getelementptr i8, ptr %case, i64 {at.CASE_RIP}
  %rip = load i64, ptr %rip_at
  %len_at = getelementptr i8, ptr %case, i64 {at.CASE_CODE_LEN}
  %len32 = load i32, ptr %len_at
  %len = zext i32 %len32 to i64
  %off = sub i64 %rip, {at.CODE}
  %target = getelementptr i8, ptr %alias, i64 %off
  %code = getelementptr i8, ptr %case, i64 {at.CASE_CODE}
  call void @llvm.memcpy.p0.p0.i64(ptr %target, ptr %code, i64 %len, i1 false)
  %code_end = add i64 %off, %len
  %pad_end = add i64 %code_end, {at.LANDING_PAD_SIZE}
  %has_room = icmp ule i64 %pad_end, {at.CODE_SIZE}
  %cs_at = getelementptr i8, ptr %case, i64 {at.CASE_SELECTORS}
  %cs = load i16, ptr %cs_at
  %is_64 = icmp eq i16 %cs, {at.SELECTOR_CS}
  %fits = and i1 %has_room, %is_64
  br i1 %fits, label %pad, label %run
pad:
  %pad_at = getelementptr i8, ptr %alias, i64 %code_end
  store i8 -23, ptr %pad_at
  %rel_at = getelementptr i8, ptr %pad_at, i64 1
  %rel = sub i64 {at.STUB - at.CODE}, %pad_end
  %rel32 = trunc i64 %rel to i32
  store i32 %rel32, ptr %rel_at, align 1
  br label %run
run:
  %used_end = select i1 %fits, i64 %pad_end, i64 %code_end
  %used = sub i64 %used_end, %off
  call void @hy_run_one(ptr %case)
  call void @llvm.memset.p0.i64(ptr %target, i8 -52, i64 %used, i1 false)
  call void @llvm.memcpy.p0.p0.i64(ptr %result, ptr inttoptr (i64 {at.SAVE} to ptr), i64 {at.RESULT_LINES}, i1 false)
  %fx_extra = getelementptr i8, ptr %result, i64 {at.RESULT_FX + at.FX_FOP}
  call void @llvm.memset.p0.i64(ptr %fx_extra, i8 0, i64 {at.FX_MXCSR - at.FX_FOP}, i1 false)
  %fx_mask = getelementptr i8, ptr %result, i64 {at.RESULT_FX + at.FX_MXCSR_MASK}
  store i32 0, ptr %fx_mask
  %fx_end = getelementptr i8, ptr %result, i64 {at.RESULT_FX + at.FX_END}
  call void @llvm.memset.p0.i64(ptr %fx_end, i8 0, i64 {at.FX_SIZE - at.FX_END}, i1 false)
  %vector_at = getelementptr i8, ptr %result, i64 {at.RESULT_VECTOR}
  %vector = load i64, ptr %vector_at
  %page_fault = icmp eq i64 %vector, 14
  br i1 %page_fault, label %after, label %no_cr2
no_cr2:
  %cr2_at = getelementptr i8, ptr %result, i64 {at.RESULT_CR2}
  store i64 0, ptr %cr2_at
  br label %after
after:
  call void @hy_diff(ptr inttoptr (i64 {at.DATA} to ptr), ptr %template, i32 {at.DATA_SIZE // at.LINE}, i32 0,
                     ptr %result)
  call void @hy_diff(ptr inttoptr (i64 {at.STACK} to ptr), ptr %stack_template, i32 {at.STACK_SIZE // at.LINE},
                     i32 {at.DATA_SIZE // at.LINE}, ptr %result)
  %i2 = add i32 %i, 1
  %done = icmp eq i32 %i2, %end
  br i1 %done, label %finish, label %loop
finish:
  call void @hy_bases_leave()
  store volatile i32 %end, ptr %progress
  br label %out
out:
  ret void
}}

define i32 @hy_compare(ptr %cases, ptr %a_all, ptr %b_all, i32 %n, ptr %indices) {{
entry:
  %none = icmp eq i32 %n, 0
  br i1 %none, label %out, label %loop
loop:
  %i = phi i32 [ 0, %entry ], [ %i2, %next ]
  %found = phi i32 [ 0, %entry ], [ %found2, %next ]
  %i64 = zext i32 %i to i64
  %case_off = mul i64 %i64, {at.CASE_SIZE}
  %case = getelementptr i8, ptr %cases, i64 %case_off
  %off = mul i64 %i64, {at.RESULT_SIZE}
  %a = getelementptr i8, ptr %a_all, i64 %off
  %b = getelementptr i8, ptr %b_all, i64 %off
  ; GPRs and RIP
  %gprs = call i32 @memcmp(ptr %a, ptr %b, i64 {at.RESULT_RFLAGS})
  %gprs_differ = icmp ne i32 %gprs, 0
  ; RFLAGS under the mask
  %mask_at = getelementptr i8, ptr %case, i64 {at.CASE_FLAGS_MASK}
  %mask = load i64, ptr %mask_at
  %fa_at = getelementptr i8, ptr %a, i64 {at.RESULT_RFLAGS}
  %fb_at = getelementptr i8, ptr %b, i64 {at.RESULT_RFLAGS}
  %fa = load i64, ptr %fa_at
  %fb = load i64, ptr %fb_at
  %fx = xor i64 %fa, %fb
  %fm = and i64 %fx, %mask
  %flags_differ = icmp ne i64 %fm, 0
  ; vector, error code, CR2, number of dirty lines and their indices
  %va_at = getelementptr i8, ptr %a, i64 {at.RESULT_VECTOR}
  %vb_at = getelementptr i8, ptr %b, i64 {at.RESULT_VECTOR}
  %v = call i32 @memcmp(ptr %va_at, ptr %vb_at, i64 {at.RESULT_FX - at.RESULT_VECTOR})
  %v_differ = icmp ne i32 %v, 0
  ; x87 status word under the mask, the rest of the FXSAVE image
  %swm_at = getelementptr i8, ptr %case, i64 {at.CASE_SW_MASK}
  %swm = load i16, ptr %swm_at
  %cwa_at = getelementptr i8, ptr %a, i64 {at.RESULT_FX}
  %cwb_at = getelementptr i8, ptr %b, i64 {at.RESULT_FX}
  %cwa = load i16, ptr %cwa_at
  %cwb = load i16, ptr %cwb_at
  %cw_differ = icmp ne i16 %cwa, %cwb
  %swa_at = getelementptr i8, ptr %cwa_at, i64 {at.FX_SW}
  %swb_at = getelementptr i8, ptr %cwb_at, i64 {at.FX_SW}
  %swa = load i16, ptr %swa_at
  %swb = load i16, ptr %swb_at
  %swx = xor i16 %swa, %swb
  %sw = and i16 %swx, %swm
  %sw_differ = icmp ne i16 %sw, 0
  %ra_at = getelementptr i8, ptr %cwa_at, i64 {at.FX_TW}
  %rb_at = getelementptr i8, ptr %cwb_at, i64 {at.FX_TW}
  %r = call i32 @memcmp(ptr %ra_at, ptr %rb_at, i64 {at.FX_END - at.FX_TW})
  %r_differ = icmp ne i32 %r, 0
  ; the dirty lines
  %da_at = getelementptr i8, ptr %a, i64 {at.RESULT_DIRTY}
  %da = load i32, ptr %da_at
  %many = icmp ugt i32 %da, {at.MAX_LINES}
  %lines = select i1 %many, i32 {at.MAX_LINES}, i32 %da
  %lines64 = zext i32 %lines to i64
  %bytes = mul i64 %lines64, {at.LINE}
  %la_at = getelementptr i8, ptr %a, i64 {at.RESULT_LINES}
  %lb_at = getelementptr i8, ptr %b, i64 {at.RESULT_LINES}
  %l = call i32 @memcmp(ptr %la_at, ptr %lb_at, i64 %bytes)
  %l_differ = icmp ne i32 %l, 0
  %o1 = or i1 %gprs_differ, %flags_differ
  %o2 = or i1 %v_differ, %cw_differ
  %o3 = or i1 %sw_differ, %r_differ
  %o4 = or i1 %o1, %o2
  %o5 = or i1 %o3, %l_differ
  %differ = or i1 %o4, %o5
  br i1 %differ, label %note, label %next
note:
  %f64 = zext i32 %found to i64
  %slot = getelementptr i32, ptr %indices, i64 %f64
  store i32 %i, ptr %slot
  br label %next
next:
  %one = zext i1 %differ to i32
  %found2 = add i32 %found, %one
  %i2 = add i32 %i, 1
  %done = icmp eq i32 %i2, %n
  br i1 %done, label %out, label %loop
out:
  %total = phi i32 [ 0, %entry ], [ %found2, %next ]
  ret i32 %total
}}
"""


@dataclass(frozen=True, slots=True)
class HarnessCode:
    """Addresses of the compiled functions; they stay valid as long as this object lives."""

    run_batch: int
    diff: int
    compare: int
    leave: int
    signal: int
    engine: llvm.ExecutionEngine


@functools.cache
def harness_code() -> HarnessCode:
    """Compile the harness once per process.

    Raises:
        RuntimeError: LLVM rejected the code, or this is no x86-64 host.
    """
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    triple = llvm.get_process_triple()
    if not triple.startswith("x86_64"):
        message = f"the native oracle needs an x86-64 host, this is {triple}"
        raise RuntimeError(message)
    module = llvm.parse_assembly(f'target triple = "{triple}"\n{_assembly()}\n{_IR}')
    module.verify()
    # Large vectors would dirty state that a case can see nothing of; SSE2 is enough and never switches it.
    machine = llvm.Target.from_triple(triple).create_target_machine(opt=2, features="+sse2,-avx")
    llvm_engine = llvm.create_mcjit_compiler(module, machine)
    llvm_engine.finalize_object()
    getter = ctypes.CFUNCTYPE(ctypes.c_uint64)

    def address(name: str) -> int:
        return int(llvm_engine.get_function_address(name))

    return HarnessCode(
        run_batch=address("hy_run_batch"),
        diff=address("hy_diff"),
        compare=address("hy_compare"),
        leave=int(getter(address("hy_leave_address"))()),
        signal=int(getter(address("hy_signal_address"))()),
        engine=llvm_engine,
    )
