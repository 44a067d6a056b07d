"""What compiled code asks of the host without Python: system calls of Linux on x86-64, and memory order."""

from __future__ import annotations

from pyhyve.cpu.lang import U64, Value, current

_REGISTERS = ("rdi", "rsi", "rdx", "r10", "r8", "r9")


def fence() -> None:
    """Order earlier stores before later loads."""
    current().asm("mfence", "~{memory}", "void", [])


def system_call(number: int, *arguments: Value) -> Value:
    """A system call; the result as the kernel gives it, a negative error among them."""
    b = current()
    inputs = ",".join(f"{{{name}}}" for name in ("rax", *_REGISTERS[: len(arguments)]))
    operands = [("i64", str(number)), *(("i64", b.value(argument, U64).ir) for argument in arguments)]
    result = b.asm("syscall", f"={{rax}},{inputs},~{{rcx}},~{{r11}},~{{memory}}", "i64", operands)
    return Value(b, result, U64)
