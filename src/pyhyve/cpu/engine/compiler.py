"""Compiles IR text to object code through LLVM: the runtime (kernels) and stencils."""

from __future__ import annotations

import re
from typing import Any

import llvmlite.binding as llvm

_ready = False


def _initialize() -> None:
    global _ready  # noqa: PLW0603 - LLVM's own state is global
    if not _ready:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        llvm.initialize_native_asmparser()
        _ready = True


def _machine(*, pic: bool) -> Any:
    return llvm.Target.from_default_triple().create_target_machine(
        cpu="x86-64-v2", opt=2, codemodel="small", reloc="pic" if pic else "static", jit=False
    )


def _optimized(text: str, machine: Any) -> Any:
    module = llvm.parse_assembly(text)
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = False
    options.slp_vectorization = False
    options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return module


def compile_runtime(text: str) -> bytes:
    """Object code of a module of kernels, position-independent."""
    _initialize()
    machine = _machine(pic=True)
    return bytes(machine.emit_object(_optimized(text, machine)))


def compile_stencils(text: str) -> bytes:
    """Object code of a module of stencils: each `NAME` in section `.text.NAME`, its cold part in `.cold.NAME`.

    LLVM lays a stencil out as the expected path up to the jump to NEXT, then the unexpected ones. The cut is made in
    the assembly text, after that jump, so that the assembler turns every crossing into a relocation.
    """
    _initialize()
    machine = _machine(pic=False)
    assembly = machine.emit_assembly(_optimized(text, machine))
    quoted = "\n".join(
        f'module asm "{line}"' for line in _split(assembly).replace("\\", "\\5C").replace('"', "\\22").splitlines()
    )
    return bytes(machine.emit_object(llvm.parse_assembly(quoted)))


_LABEL = re.compile(r"^(s\w+):")
_DROP = re.compile(r"^\s*\.(size|type|file|globl|ident|section|text|p2align|addrsig|cfi_)")


_CONDITIONAL = re.compile(r"^\s*j(\w+)\s+NEXT@PLT")
_INVERSE = {
    "e": "ne",
    "ne": "e",
    "b": "ae",
    "ae": "b",
    "a": "be",
    "be": "a",
    "l": "ge",
    "ge": "l",
    "g": "le",
    "le": "g",
    "s": "ns",
    "ns": "s",
    "o": "no",
    "no": "o",
    "p": "np",
    "np": "p",
}


def _split(assembly: str) -> str:
    lines: list[str] = []
    body: list[str] = []
    name = ""
    for line in assembly.splitlines():
        label = _LABEL.match(line)
        if label:
            lines += _cut(name, body)
            name, body = label[1], []
            continue
        if name and not _DROP.match(line):
            body.append(line.split("#")[0].rstrip())
    return "\n".join(lines + _cut(name, body))


def _cut(name: str, body: list[str]) -> list[str]:
    """One stencil in its two sections."""
    if not name:
        return []
    head = [f'.section .text.{name},"ax",@progbits', f"{name}:"]
    cold = f'.section .cold.{name},"ax",@progbits'
    for index, line in enumerate(body):
        if line.split() == ["jmp", "NEXT@PLT"]:
            return [*head, *body[: index + 1], cold, *body[index + 1 :]]
    for index, line in enumerate(body):
        # A conditional jump to NEXT with the unexpected path behind it: turn it round.
        found = _CONDITIONAL.match(line)
        if found and found[1] in _INVERSE:
            label = f".Lcold_{name}"
            turned = [f"j{_INVERSE[found[1]]} {label}", "jmp NEXT@PLT"]
            return [*head, *body[:index], *turned, cold, f"{label}:", *body[index + 1 :]]
    return [*head, *body]
