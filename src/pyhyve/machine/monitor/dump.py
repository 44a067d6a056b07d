"""Guest memory in files: ELF core dumps that debuggers read (gdb, crash), and plain ranges."""

from __future__ import annotations

import os
import struct
import threading
from typing import TYPE_CHECKING, Any

from pyhyve.machine.lifecycle import MachineState
from pyhyve.machine.monitor.errors import QmpError
from pyhyve.machine.report import translate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pyhyve.machine.hardware.hardware import Hardware
    from pyhyve.machine.machine import Machine

_INSPECT_TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 20
_PAGE_BYTES = 4096
_EHDR, _PHDR, _NHDR = struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQQQ"), struct.Struct("<III")
_ET_CORE, _EM_X86_64 = 4, 62
_PT_LOAD, _PT_NOTE, _NT_PRSTATUS = 1, 4, 1
_PRSTATUS_BYTES, _PRSTATUS_REGISTERS, _PRSTATUS_PID = 336, 112, 32
_REGISTERS = [
    "r15",
    "r14",
    "r13",
    "r12",
    "rbp",
    "rbx",
    "r11",
    "r10",
    "r9",
    "r8",
    "rax",
    "rcx",
    "rdx",
    "rsi",
    "rdi",
    "-",
    "rip",
    "cs",
    "rflags",
    "rsp",
    "ss",
    "fs.base",
    "gs.base",
    "ds",
    "es",
    "fs",
    "gs",
]
"""`struct user_regs_struct` of Linux (arch/x86/include/asm/user_64.h); `-` is orig_rax."""


class _Dump:
    """How far the machine's last dump got."""

    def __init__(self, total: int) -> None:
        self.status = "active"
        self.completed = 0
        self.total = total


_DUMPS: dict[int, _Dump] = {}


def describe(machine: Machine) -> dict[str, Any]:
    """`DumpQueryResult`."""
    found = _DUMPS.get(id(machine))
    if found is None:
        return {"status": "none", "completed": 0, "total": 0}
    return {"status": found.status, "completed": found.completed, "total": found.total}


def start(
    machine: Machine,
    hardware: Hardware,
    *,
    paging: bool,
    protocol: str,
    detach: bool = False,
    begin: int | None = None,
    length: int | None = None,
    format: str = "elf",  # noqa: A002 - QEMU's name
) -> None:
    """`dump-guest-memory`. Raises QmpError."""
    del format
    if paging:
        msg = "dumps with the guest's own addresses (paging) are not supported"
        raise QmpError(msg)
    if (begin is None) != (length is None):
        missing = "begin" if begin is None else "length"
        msg = f"Parameter '{missing}' is missing"
        raise QmpError(msg)
    active = _DUMPS.get(id(machine))
    if active is not None and active.status == "active":
        msg = "There is a dump in process, please wait."
        raise QmpError(msg)
    ranges = _ranges(machine, begin, length)
    fd = _open(hardware, protocol)
    dump = _DUMPS[id(machine)] = _Dump(sum(size for _, size in ranges))

    def work() -> str:
        error = _write(machine, fd, ranges, dump)
        data: dict[str, Any] = {"result": describe(machine)}
        if error:
            data["error"] = error
        hardware.tell("DUMP_COMPLETED", data)
        return error

    if detach:
        threading.Thread(target=work, name="pyhyve-dump", daemon=True).start()
        return
    error = work()
    if error:
        raise QmpError(error)


def _ranges(machine: Machine, begin: int | None, length: int | None) -> list[tuple[int, int]]:
    """Start and size of RAM to write. Raises QmpError."""
    ram = [(region.gpa, region.size_bytes) for region in machine.parts.vm.memory.regions if region.is_ram]
    if begin is None or length is None:
        return ram
    if length <= 0 or begin < 0:
        msg = "Parameter 'length' expects a positive size"
        raise QmpError(msg)
    found = []
    for gpa, size in ram:
        first, end = max(gpa, begin), min(gpa + size, begin + length)
        if first < end:
            found.append((first, end - first))
    if not found:
        msg = "dump: failed to find memory in the range"
        raise QmpError(msg)
    return found


def _open(hardware: Hardware, protocol: str) -> int:
    kind, _, where = protocol.partition(":")
    if kind == "file" and where:
        try:
            return os.open(where, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except (OSError, ValueError) as error:
            msg = f"Could not open '{where}': {getattr(error, 'strerror', error)}"
            raise QmpError(msg) from error
    if kind == "fd" and where:
        return hardware.descriptors.take(where)
    msg = "Invalid parameter 'protocol'"
    raise QmpError(msg)


def _paused(machine: Machine, work: Callable[[], None]) -> None:
    """Do `work` while no vCPU runs. Raises QmpError."""
    if machine.state is MachineState.CREATED:
        machine.started.wait(_INSPECT_TIMEOUT_S)
    if not machine.inspect(work).wait(_INSPECT_TIMEOUT_S * 20):
        msg = "the machine does not stop"
        raise QmpError(msg)


def _write(machine: Machine, fd: int, ranges: list[tuple[int, int]], dump: _Dump) -> str:
    """Write the file; what went wrong, or nothing. The guest stands still meanwhile."""
    error = "the dump was not made"

    def work() -> None:
        nonlocal error
        try:
            _write_core(machine, fd, ranges, dump)
            error = ""
        except OSError as problem:
            error = f"dump: failed to write memory: {problem.strerror or problem}"

    try:
        _paused(machine, work)
    except QmpError as problem:
        error = str(problem)
    finally:
        os.close(fd)
    dump.status = "failed" if error else "completed"
    return error


def _write_core(machine: Machine, fd: int, ranges: list[tuple[int, int]], dump: _Dump) -> None:
    notes = b"".join(_note(index, runner.vcpu.read_registers()) for index, runner in enumerate(machine.parts.runners))
    headers = 1 + len(ranges)
    notes_at = _EHDR.size + headers * _PHDR.size
    data_at = -(-(notes_at + len(notes)) // 4096) * 4096
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = _EHDR.pack(ident, _ET_CORE, _EM_X86_64, 1, 0, _EHDR.size, 0, 0, _EHDR.size, _PHDR.size, headers, 0, 0, 0)
    head += _PHDR.pack(_PT_NOTE, 0, notes_at, 0, 0, len(notes), len(notes), 0)
    offset = data_at
    for gpa, size in ranges:
        head += _PHDR.pack(_PT_LOAD, 0, offset, 0, gpa, size, size, 0)
        offset += size
    _write_all(fd, (head + notes).ljust(data_at, b"\0"))
    memory = machine.parts.vm.memory
    for gpa, size in ranges:
        for at in range(gpa, gpa + size, _CHUNK_BYTES):
            part = memory.read(at, min(_CHUNK_BYTES, gpa + size - at))
            _write_all(fd, part)
            dump.completed += len(part)


def _note(index: int, registers: Mapping[str, int]) -> bytes:
    """NT_PRSTATUS of a processor (`struct elf_prstatus`)."""
    status = bytearray(_PRSTATUS_BYTES)
    struct.pack_into("<I", status, _PRSTATUS_PID, index + 1)
    values = [registers.get(name, 0) & 0xFFFF_FFFF_FFFF_FFFF for name in _REGISTERS]
    struct.pack_into(f"<{len(values)}Q", status, _PRSTATUS_REGISTERS, *values)
    return _NHDR.pack(5, len(status), _NT_PRSTATUS) + b"CORE\0\0\0\0" + bytes(status)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def save_physical(machine: Machine, start_gpa: int, size: int, filename: str) -> None:
    """`pmemsave`. Raises QmpError."""
    _save_memory(machine, start_gpa, size, filename, lambda gpa: (gpa, _CHUNK_BYTES))


def save_virtual(machine: Machine, start: int, size: int, filename: str, cpu: int) -> None:
    """`memsave`: memory as processor number `cpu` sees it. Raises QmpError."""
    if not 0 <= cpu < len(machine.parts.runners):
        msg = "Parameter 'cpu-index' expects a CPU number"
        raise QmpError(msg)
    registers: dict[str, int] = {}

    def find_page(address: int) -> tuple[int | None, int]:
        if not registers:
            registers.update(machine.parts.runners[cpu].vcpu.read_registers())
        return translate(address, registers, machine.parts.vm.memory), _PAGE_BYTES - address % _PAGE_BYTES

    _save_memory(machine, start, size, filename, find_page)


def read_memory(machine: Machine, start: int, size: int, cpu: int | None = None) -> bytes:
    """Memory by physical address, or as processor number `cpu` sees it; shorter where none is. Raises QmpError."""
    found = bytearray()

    def work() -> None:
        memory = machine.parts.vm.memory
        registers = {} if cpu is None else machine.parts.runners[cpu].vcpu.read_registers()
        while len(found) < size:
            at = start + len(found)
            gpa = at if cpu is None else translate(at, registers, memory)
            region = None if gpa is None else memory.find(gpa)
            if gpa is None or region is None:
                return
            together = min(_PAGE_BYTES - at % _PAGE_BYTES, region.gpa + region.size_bytes - gpa)
            found.extend(memory.read(gpa, min(together, size - len(found))))

    _paused(machine, work)
    return bytes(found)


def _save_memory(
    machine: Machine, start: int, size: int, filename: str, locate: Callable[[int], tuple[int | None, int]]
) -> None:
    """Write memory to a file; `locate` tells where an address is, and how many bytes lie together there."""
    if size < 0 or start < 0:
        msg = "Invalid parameter 'size'"
        raise QmpError(msg)
    error = ""
    try:
        fd = os.open(filename, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except (OSError, ValueError) as problem:
        msg = f"Could not open '{filename}': {getattr(problem, 'strerror', problem)}"
        raise QmpError(msg) from problem

    def work() -> None:
        nonlocal error
        memory = machine.parts.vm.memory
        try:
            at = start
            while at < start + size:
                gpa, together = locate(at)
                step = min(together, start + size - at)
                region = None if gpa is None else memory.find(gpa)
                if gpa is None or region is None or gpa + step > region.gpa + region.size_bytes:
                    error = f"Invalid addr {at:#018x}/size {size} specified"
                    return
                _write_all(fd, memory.read(gpa, step))
                at += step
        except OSError as problem:
            error = f"Could not write '{filename}': {problem.strerror}"

    try:
        _paused(machine, work)
    finally:
        os.close(fd)
    if error:
        raise QmpError(error)
