"""Entering the sandbox, and becoming another user."""

from __future__ import annotations

import ctypes
import errno
import grp
import os
import platform
import pwd
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyhyve.sandbox import landlock
from pyhyve.sandbox.bpf import assemble
from pyhyve.sandbox.rules import machine_rules
from pyhyve.sandbox.syscalls import Call
from pyhyve.support.errors import InputError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_SET_MODE_FILTER = 1
_FILTER_FLAG_TSYNC = 1
_INSTRUCTION_BYTES = 8
_SYSTEM_PATHS = ("/usr", "/lib", "/lib64", "/etc", "/proc", "/sys", "/dev")
_DEVICES = ("/dev/kvm", "/dev/net/tun", "/dev/vhost-net", "/dev/vhost-vsock", "/dev/null", "/dev/tty", "/dev/pts")


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


@dataclass(frozen=True, slots=True)
class Containment:
    """What was done, for those who ask."""

    landlock_version: int


def enter(*, readable: Iterable[Path] = (), writable: Iterable[Path] = (), limits_files: bool = True) -> Containment:
    """Contain this process, all its threads included; there is no way back. Call it before the machine runs.

    With `limits_files`, where the kernel has Landlock, it may read `readable` and write `writable` and what is beneath
    them, beside the system's own files; that counts for threads started from now on. Raises UserError when the kernel
    refuses.
    """
    if platform.machine() != "x86_64":
        msg = f"sandbox: not available on {platform.machine()} hosts"
        raise UserError(msg)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            _fail()
        version = landlock.abi_version() if limits_files else 0
        if version:
            landlock.restrict(
                readable=[*map(Path, _SYSTEM_PATHS), *_interpreter_paths(), *readable],
                writable=[*map(Path, _DEVICES), Path(tempfile.gettempdir()), *writable],
            )
        _install_filter(libc)
    except OSError as error:
        msg = f"sandbox: the kernel refuses it: {error.strerror}"
        raise UserError(msg) from error
    return Containment(version)


def _interpreter_paths() -> set[Path]:
    """Where modules are imported from: some are loaded when they are first needed."""
    places = {sys.prefix, sys.base_prefix, *filter(None, sys.path)}
    return {Path(place) for place in places if place} | {Path(__file__).parents[2]}


def _install_filter(libc: ctypes.CDLL) -> None:
    """Raise OSError when the kernel does not take it for every thread."""
    # glibc starts threads with clone3, whose flags a filter cannot see; told that there is none, it takes clone.
    code = assemble(machine_rules(os.getpid()), error=errno.EPERM, errors=[(Call.CLONE3, errno.ENOSYS)])
    instructions = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // _INSTRUCTION_BYTES, ctypes.addressof(instructions))
    libc.syscall.restype = ctypes.c_long
    result = libc.syscall(
        ctypes.c_long(Call.SECCOMP), _SECCOMP_SET_MODE_FILTER, _FILTER_FLAG_TSYNC, ctypes.byref(program)
    )
    if result:
        _fail()


def _fail() -> None:
    code = ctypes.get_errno()
    raise OSError(code, os.strerror(code))


@dataclass(frozen=True, slots=True)
class Identity:
    """A user to become."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def find_identity(text: str) -> Identity:
    """The user called `text`, or `UID:GID`. Raises InputError."""
    uid, colon, gid = text.partition(":")
    if colon and uid.isascii() and uid.isdigit() and gid.isascii() and gid.isdigit():
        return Identity(text, int(uid), int(gid), ())
    try:
        entry = pwd.getpwnam(text)
    except KeyError as error:
        msg = f"-runas {text}: no such user (use a name or UID:GID)"
        raise InputError(msg) from error
    groups = tuple(group.gr_gid for group in grp.getgrall() if text in group.gr_mem)
    return Identity(text, entry.pw_uid, entry.pw_gid, groups)


def become(identity: Identity) -> None:
    """Give up the present user's rights for good. Raises UserError."""
    try:
        os.setgroups(sorted({identity.gid, *identity.groups}))
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    except OSError as error:
        msg = f"-runas {identity.name}: {error.strerror} (only root can become another user)"
        raise UserError(msg) from error
