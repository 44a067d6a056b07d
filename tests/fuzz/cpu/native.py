"""The oracle: cases run on the host's own CPU, in a child process that may be harmed by them."""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import signal
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, Self

from . import layout as at
from .machine_code import HarnessCode, harness_code

if TYPE_CHECKING:
    from types import TracebackType

    from .batch import Batch

_FATAL_SIGNALS: Final = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP)
_MODIFY_LDT: Final = 154
_SIGNAL_STACK_SIZE: Final = 256 * 1024
_PROGRESS_SIZE: Final = mmap.PAGESIZE
_COMMAND: Final = struct.Struct("<III")
"""First case, end, 1 if the template is new."""

# Linux asm-generic/mman-common.h and asm/signal.h.
_PROT_READ, _PROT_WRITE, _PROT_EXEC = 1, 2, 4
_MAP_SHARED, _MAP_PRIVATE, _MAP_ANONYMOUS, _MAP_POPULATE = 0x01, 0x02, 0x20, 0x8000
_MAP_FIXED_NOREPLACE = 0x10_0000
_SA_SIGINFO, _SA_ONSTACK, _SA_NODEFER = 0x4, 0x0800_0000, 0x4000_0000
_PR_SET_PDEATHSIG = 1


class _SigAction(ctypes.Structure):
    """glibc's ``struct sigaction`` on x86-64."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint64 * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class _SigAltStack(ctypes.Structure):
    """``stack_t``."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


class _Libc:
    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.mmap.restype = ctypes.c_void_p
        self._libc.mmap.argtypes = [
            ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
        ]  # fmt: skip

    def _check(self, ok: bool, what: str) -> None:
        if not ok:
            number = ctypes.get_errno()
            raise OSError(number, f"{what}: {os.strerror(number)}")

    def map(self, address: int, size: int, protection: int, fd: int = -1) -> int:
        """mmap(2); an ``address`` other than 0 must be free. The pages are present at once."""
        flags = _MAP_POPULATE | (_MAP_SHARED if fd >= 0 else _MAP_PRIVATE | _MAP_ANONYMOUS)
        if address:
            flags |= _MAP_FIXED_NOREPLACE
        got = self._libc.mmap(address or None, size, protection, flags, fd, 0)
        self._check(got is not None and got != ctypes.c_void_p(-1).value, "mmap")
        self._check(not address or got == address, f"mmap at {address:#x}")
        return int(got)

    def local_segments(self) -> None:
        """Set up `layout.LOCAL_SEGMENTS` (modify_ldt(2): struct user_desc)."""
        for number, segment in enumerate(at.LOCAL_SEGMENTS):
            kind = {"data": 0, "stack": 1, "code": 2}[segment.kind]
            flags = segment.wide | kind << 1 | segment.restricted << 3
            descriptor = struct.pack("<4I", number, segment.base, segment.limit, flags)
            done = self._libc.syscall(_MODIFY_LDT, 0x11, descriptor, len(descriptor))
            self._check(done == 0, "modify_ldt")

    def signal_stack(self, size: int) -> None:
        stack = _SigAltStack(self.map(0, size, _PROT_READ | _PROT_WRITE), 0, size)
        self._check(self._libc.sigaltstack(ctypes.byref(stack), None) == 0, "sigaltstack")

    def handle(self, number: int, handler: int) -> None:
        action = _SigAction(handler=handler, flags=_SA_SIGINFO | _SA_ONSTACK | _SA_NODEFER)
        self._check(self._libc.sigaction(number, ctypes.byref(action), None) == 0, "sigaction")

    def die_with_parent(self) -> None:
        self._libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def host_is_intel() -> bool:
    """Whether the host is of the make that the engine follows where the manual leaves the order of faults open."""
    return "GenuineIntel" in Path("/proc/cpuinfo").read_text()


class NativeRunner:
    """Runs batches on the host's CPU. A child that hangs or dies is replaced and its case marked so.

    Args:
        capacity: most cases in a batch.
        hang_timeout_s: time without any case finishing after which the child is taken for hung.

    Raises:
        RuntimeError: not an x86-64 host.
    """

    name = "native"

    def __init__(self, capacity: int, hang_timeout_s: float = 10.0) -> None:
        self._code = harness_code()
        self._capacity = capacity
        self._hang_timeout_s = hang_timeout_s
        self._progress = mmap.mmap(-1, _PROGRESS_SIZE)
        self._template = mmap.mmap(-1, at.TEMPLATE_SIZE)
        self._cases = mmap.mmap(-1, capacity * at.CASE_SIZE)
        self._results = mmap.mmap(-1, capacity * at.RESULT_SIZE)
        self._pid = 0
        self._commands = self._replies = -1
        self.replaced = 0
        """How many children hung or died."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the child."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            os.close(self._commands)
            os.close(self._replies)
            self._pid = 0

    def run_batch(self, batch: Batch) -> memoryview:
        """Run all cases; the returned result records are valid until the next call.

        Raises:
            ValueError: more cases than the capacity.
        """
        if batch.count > self._capacity:
            message = f"{batch.count} cases, capacity {self._capacity}"
            raise ValueError(message)
        self._cases[: batch.count * at.CASE_SIZE] = batch.cases[: batch.count * at.CASE_SIZE]
        self._template[:] = batch.template
        start, fresh = 0, 1
        while start < batch.count:
            if not self._pid:
                self._start()
                fresh = 1
            struct.pack_into("<I", self._progress, 0, start)
            os.write(self._commands, _COMMAND.pack(start, batch.count, fresh))
            fresh = 0
            vector = self._wait()
            if vector is None:
                break
            self.replaced += 1
            culprit: int = struct.unpack_from("<I", self._progress)[0]
            record = bytearray(at.RESULT_SIZE)
            struct.pack_into("<q", record, at.RESULT_VECTOR, vector)
            self._results[culprit * at.RESULT_SIZE : (culprit + 1) * at.RESULT_SIZE] = bytes(record)
            start = culprit + 1
        return memoryview(self._results)[: batch.count * at.RESULT_SIZE]

    def _wait(self) -> int | None:
        """Wait for the child's reply; if none comes, end the child and say why."""
        poll = select.poll()  # select() knows no descriptors above 1023
        poll.register(self._replies, select.POLLIN)
        deadline, seen = time.monotonic() + self._hang_timeout_s, -1
        while True:
            ready = poll.poll(self._hang_timeout_s * 100)
            if ready:
                if os.read(self._replies, 1):
                    return None
                self.close()
                return at.VECTOR_DIED
            progress = struct.unpack_from("<I", self._progress)[0]
            if progress != seen:
                deadline, seen = time.monotonic() + self._hang_timeout_s, progress
            elif time.monotonic() > deadline:
                self.close()
                return at.VECTOR_HUNG

    def _start(self) -> None:
        command_read, self._commands = os.pipe()
        self._replies, reply_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(self._commands)
                os.close(self._replies)
                self._serve(command_read, reply_write)
            finally:
                os._exit(98)
        os.close(command_read)
        os.close(reply_write)
        self._pid = pid

    def _serve(self, commands: int, replies: int) -> NoReturn:
        """The child's life."""
        libc = _Libc()
        libc.die_with_parent()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
        buffers = [self._cases, self._results, self._template, self._progress]
        cases, results, template, progress = (
            ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer)) for buffer in buffers
        )
        alias, read_only = _map_regions(libc, self._code)
        libc.local_segments()
        libc.signal_stack(_SIGNAL_STACK_SIZE)
        for number in _FATAL_SIGNALS:
            libc.handle(number, self._code.signal)
        u64, u32 = ctypes.c_uint64, ctypes.c_uint32
        run = ctypes.CFUNCTYPE(None, u64, u64, u32, u32, u64, u64, u64)(self._code.run_batch)
        while True:
            command = os.read(commands, _COMMAND.size)
            if not command:
                os._exit(0)
            start, end, fresh = _COMMAND.unpack(command)
            if fresh:
                ctypes.memmove(at.DATA, template, at.DATA_SIZE)
                ctypes.memmove(at.STACK, template + at.DATA_SIZE, at.STACK_SIZE)
                ctypes.memmove(read_only, template + at.DATA_SIZE + at.STACK_SIZE, at.READ_ONLY_SIZE)
            run(cases, results, start, end, alias, template, progress)
            os.write(replies, b".")


def _map_regions(libc: _Libc, code: HarnessCode) -> tuple[int, int]:
    """Map a case's address space; returns the writable aliases of the code pages and of the read-only page."""
    fd = os.memfd_create("cases")
    os.ftruncate(fd, at.CODE_SIZE)
    code_alias = libc.map(0, at.CODE_SIZE, _PROT_READ | _PROT_WRITE, fd)
    ctypes.memset(code_alias, 0xCC, at.CODE_SIZE)
    libc.map(at.CODE, at.CODE_SIZE, _PROT_READ | _PROT_EXEC, fd)
    os.close(fd)
    fd = os.memfd_create("read-only")
    os.ftruncate(fd, at.READ_ONLY_SIZE)
    read_only_alias = libc.map(0, at.READ_ONLY_SIZE, _PROT_READ | _PROT_WRITE, fd)
    ctypes.memset(read_only_alias, 0, at.READ_ONLY_SIZE)
    libc.map(at.READ_ONLY, at.READ_ONLY_SIZE, _PROT_READ, fd)
    os.close(fd)
    fd = os.memfd_create("stub")
    os.write(fd, at.stub_page(b"\xff\x25\x02\x00\x00\x00\xcc\xcc" + struct.pack("<Q", code.leave)))
    libc.map(at.STUB, at.PAGE, _PROT_READ | _PROT_EXEC, fd)
    os.close(fd)
    for address, size in ((at.SAVE, at.PAGE), (at.DATA, at.DATA_SIZE), (at.STACK, at.STACK_SIZE)):
        libc.map(address, size, _PROT_READ | _PROT_WRITE)
    # Every page present, so that a fault's P bit says what the protection is and not what the kernel put off.
    for page in (at.CODE, at.CODE + at.PAGE, at.READ_ONLY, at.STUB):
        ctypes.string_at(page, 1)
    return code_alias, read_only_alias
