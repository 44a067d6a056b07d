"""Landlock (Documentation/userspace-api/landlock.rst): which files a process may read, write or execute."""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from typing import TYPE_CHECKING, Any

from pyhyve.sandbox.syscalls import Call
from pyhyve.support.enums import IntFlag

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1


class Access(IntFlag):
    """`LANDLOCK_ACCESS_FS_*`."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14


_SINCE = {2: Access.REFER, 3: Access.TRUNCATE}
"""ABI versions that added accesses."""
READING = Access.READ_FILE | Access.READ_DIR
WRITING = (
    READING
    | Access.WRITE_FILE
    | Access.REMOVE_FILE
    | Access.MAKE_REG
    | Access.MAKE_SOCK
    | Access.REFER
    | Access.TRUNCATE
)
_OF_FILES = Access.EXECUTE | Access.WRITE_FILE | Access.READ_FILE | Access.TRUNCATE
"""Accesses that a rule for a file, rather than a directory, can name."""


@functools.cache
def _syscall() -> Any:  # noqa: ANN401 - a foreign function
    function = ctypes.CDLL(None, use_errno=True).syscall
    function.restype = ctypes.c_long
    return function


def abi_version() -> int:
    """Version of Landlock that the kernel has; 0 for none."""
    create = ctypes.c_long(Call.LANDLOCK_CREATE_RULESET)
    version: int = _syscall()(create, None, ctypes.c_size_t(0), _CREATE_RULESET_VERSION)
    return max(version, 0)


def restrict(*, readable: Iterable[Path], writable: Iterable[Path]) -> bool:
    """Leave this thread, and those it starts, only these files and what is beneath these directories; nothing to run.

    False, with nothing done, where the kernel has no Landlock. Needs no-new-privileges. Paths that are missing are
    passed over. Raises OSError.
    """
    version = abi_version()
    if not version:
        return False
    handled = functools.reduce(lambda known, access: known | access, Access)
    for since, access in _SINCE.items():
        if version < since:
            handled &= ~access
    attribute = ctypes.create_string_buffer(struct.pack("<Q", handled))
    ruleset = _check(
        _syscall()(ctypes.c_long(Call.LANDLOCK_CREATE_RULESET), attribute, ctypes.c_size_t(8), 0), "landlock"
    )
    try:
        for access, paths in ((READING, readable), (WRITING, writable)):
            for path in paths:
                _add_rule(ruleset, path, access & handled)
        _check(_syscall()(ctypes.c_long(Call.LANDLOCK_RESTRICT_SELF), ruleset, 0), "landlock")
    finally:
        os.close(ruleset)
    return True


def _add_rule(ruleset: int, path: Path, access: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not path.is_dir():
            access &= _OF_FILES
        rule = ctypes.create_string_buffer(struct.pack("<Qi", access, fd))
        _check(
            _syscall()(ctypes.c_long(Call.LANDLOCK_ADD_RULE), ruleset, _RULE_PATH_BENEATH, rule, 0), f"landlock: {path}"
        )
    finally:
        os.close(fd)


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result
