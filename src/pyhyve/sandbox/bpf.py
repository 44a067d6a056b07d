"""Classic BPF programs over `struct seccomp_data` (linux/filter.h, linux/seccomp.h), built from rules.

A rule allows one system call, perhaps only with certain arguments. What no rule allows ends in an error.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyhyve.support.enums import IntEnum

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

AUDIT_ARCH_X86_64 = 0xC000003E
X32_BIT = 0x4000_0000
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16
_INSTRUCTION = struct.Struct("<HBBI")
_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
MAX_INSTRUCTIONS = 4096


class Action(IntEnum):
    """What happens to a call (`SECCOMP_RET_*`)."""

    KILL_PROCESS = 0x8000_0000
    ERRNO = 0x0005_0000
    ALLOW = 0x7FFF_0000


@dataclass(frozen=True, slots=True)
class Argument:
    """The low 32 bits of argument `index`, of which only those in `mask` count, must be one of `values`."""

    index: int
    values: tuple[int, ...]
    mask: int = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Rule:
    """A call that is allowed when every one of `arguments` fits and none of `refused` does."""

    arguments: tuple[Argument, ...] = ()
    refused: tuple[Argument, ...] = ()


ANY = Rule()


@dataclass(slots=True)
class _Program:
    code: list[tuple[int, int, int, int]] = field(default_factory=list)

    def add(self, operation: int, value: int, if_true: int = 0, if_false: int = 0) -> None:
        self.code.append((operation, if_true, if_false, value))

    def check(self, argument: Argument, skip: int, *, wanted: bool) -> None:
        """Go on when the argument is (`wanted`) or is not one of its values; else skip `skip` more instructions."""
        self.add(_LOAD, _ARGUMENTS + 8 * argument.index)
        if argument.mask != 0xFFFF_FFFF:
            self.add(_AND, argument.mask)
        count = len(argument.values)
        for number, value in enumerate(argument.values):
            left = count - 1 - number
            if wanted:
                # A match jumps over the comparisons that are left; the last mismatch leaves the rule.
                self.add(_JUMP_EQUAL, value, left, 0 if left else skip)
            else:
                self.add(_JUMP_EQUAL, value, left + skip, 0)


def _length(argument: Argument) -> int:
    return 1 + (argument.mask != 0xFFFF_FFFF) + len(argument.values)


def assemble(rules: Mapping[int, Rule], *, error: int, errors: Iterable[tuple[int, int]] = ()) -> bytes:
    """The filter: calls of `rules` by number, first the most frequent; `errors` are (number, errno) of other refusals.

    Everything else fails with `error`. Another architecture than x86-64, or its x32 variant, ends the process. Raises
    ValueError when the program becomes longer than the kernel takes.
    """
    program = _Program()
    program.add(_LOAD, _ARCH)
    program.add(_JUMP_EQUAL, AUDIT_ARCH_X86_64, 1, 0)
    program.add(_RETURN, Action.KILL_PROCESS)
    program.add(_LOAD, _NUMBER)
    program.add(_JUMP_GREATER_EQUAL, X32_BIT, 0, 1)
    program.add(_RETURN, Action.KILL_PROCESS)
    for number, rule in rules.items():
        checks = [(argument, True) for argument in rule.arguments] + [(argument, False) for argument in rule.refused]
        # After the checks: one return, then (with checks) the number is loaded again for the rules that follow.
        body = sum(_length(argument) for argument, _ in checks) + 1 + bool(checks)
        program.add(_JUMP_EQUAL, number, 0, body)
        left = body
        for argument, wanted in checks:
            left -= _length(argument)
            program.check(argument, left - 1, wanted=wanted)
        program.add(_RETURN, Action.ALLOW)
        if checks:
            program.add(_LOAD, _NUMBER)
    for number, code in errors:
        program.add(_JUMP_EQUAL, number, 0, 1)
        program.add(_RETURN, Action.ERRNO | code)
    program.add(_RETURN, Action.ERRNO | error)
    if len(program.code) > MAX_INSTRUCTIONS:
        msg = f"a filter of {len(program.code)} instructions"
        raise ValueError(msg)
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in program.code)
