"""The filter, run by a small interpreter of classic BPF: what is allowed, and what each refusal is."""

from __future__ import annotations

import errno
import socket
import struct

import pytest

from pyhyve.sandbox.bpf import ANY, AUDIT_ARCH_X86_64, Action, Argument, Rule, assemble
from pyhyve.sandbox.rules import machine_rules
from pyhyve.sandbox.syscalls import Call

PID = 4321
DENIED = Action.ERRNO | errno.EPERM


def run(program: bytes, number: int, *arguments: int, architecture: int = AUDIT_ARCH_X86_64) -> int:
    """What the kernel would answer (Documentation/networking/filter.rst)."""
    padded = [argument & (1 << 64) - 1 for argument in (*arguments, 0, 0, 0, 0, 0, 0)[:6]]
    data = struct.pack("<IIQ6Q", number, architecture, 0, *padded)
    code = list(struct.iter_unpack("<HBBI", program))
    at = accumulator = 0
    while True:
        operation, if_true, if_false, value = code[at]
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x54:
                accumulator &= value
            case 0x15:
                at += if_true if accumulator == value else if_false
            case 0x35:
                at += if_true if accumulator >= value else if_false
            case 0x06:
                return int(value)
            case _:
                pytest.fail(f"unknown operation {operation:#x}")


def test_rules_with_arguments() -> None:
    rules = {
        1: Rule(arguments=(Argument(1, (5, 6, 7)), Argument(0, (0x100,), 0xF00))),
        2: ANY,
        3: Rule(arguments=(Argument(0, (1, 2)),), refused=(Argument(2, (8, 9)),)),
    }
    program = assemble(rules, error=errno.EPERM, errors=[(4, errno.ENOSYS)])
    for first in range(0, 0x400, 0x80):
        for second in range(10):
            allowed = second in {5, 6, 7} and first & 0xF00 == 0x100
            assert (run(program, 1, first, second) == Action.ALLOW) == allowed
    for first in range(4):
        for third in range(12):
            allowed = first in {1, 2} and third not in {8, 9}
            assert (run(program, 3, first, 0, third) == Action.ALLOW) == allowed
    assert run(program, 2, 1, 2, 3) == Action.ALLOW
    assert run(program, 4) == Action.ERRNO | errno.ENOSYS
    assert run(program, 0) == run(program, 5) == DENIED


def test_other_architectures_end_the_process() -> None:
    program = assemble(machine_rules(PID), error=errno.EPERM)
    assert run(program, Call.READ, architecture=0x4000_0003) == Action.KILL_PROCESS
    assert run(program, Call.READ | 0x4000_0000) == Action.KILL_PROCESS


@pytest.mark.parametrize(
    ("number", "arguments"),
    [
        (Call.IOCTL, (3, 0xAE80)),  # KVM_RUN
        (Call.IOCTL, (3, 0x4010_AE67)),
        (Call.IOCTL, (0, 0x5401)),  # TCGETS
        (Call.IOCTL, (3, 0x4004_54CA)),  # TUNSETIFF
        (Call.CLONE, (0x3D0F00,)),  # what pthread_create asks for
        (Call.TGKILL, (PID, 17, 36)),
        (Call.SOCKET, (socket.AF_UNIX, socket.SOCK_STREAM)),
        (Call.MMAP, (0, 4096, 7)),
        (Call.OPENAT, ()),
        (Call.PRLIMIT64, (0, 7, 0)),
    ],
)
def test_machine_may(number: int, arguments: tuple[int, ...]) -> None:
    assert run(assemble(machine_rules(PID), error=errno.EPERM), number, *arguments) == Action.ALLOW


@pytest.mark.parametrize(
    ("number", "arguments"),
    [
        (Call.IOCTL, (0, 0x5412)),  # TIOCSTI
        (Call.IOCTL, (0, 0x541C)),  # TIOCLINUX
        (Call.IOCTL, (3, 0xC018_6201)),  # binder, and everything else
        (Call.CLONE, (17,)),  # fork
        (Call.CLONE, (0x4000_0000 | 17,)),  # a new network namespace
        (Call.FORK, ()),
        (Call.VFORK, ()),
        (Call.EXECVE, ()),
        (Call.KILL, (1, 9)),
        (Call.TGKILL, (1, 1, 9)),
        (Call.SOCKET, (socket.AF_NETLINK, socket.SOCK_RAW)),
        (Call.SOCKET, (socket.AF_PACKET, socket.SOCK_RAW)),
        (Call.PRLIMIT64, (0, 7, 4096)),  # a limit of its own
        (Call.PRCTL, (22, 2)),  # PR_SET_SECCOMP
        (101, ()),  # ptrace
        (105, (0,)),  # setuid
        (165, ()),  # mount
        (175, ()),  # init_module
        (272, ()),  # unshare
        (298, ()),  # perf_event_open
        (321, ()),  # bpf
        (425, ()),  # io_uring_setup
    ],
)
def test_machine_may_not(number: int, arguments: tuple[int, ...]) -> None:
    assert run(assemble(machine_rules(PID), error=errno.EPERM), number, *arguments) == DENIED


def test_filter_fits_the_kernel() -> None:
    assert len(assemble(machine_rules(PID), error=errno.EPERM)) // 8 < 1000
