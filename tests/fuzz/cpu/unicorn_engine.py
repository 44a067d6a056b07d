"""The ``unicorn`` package under test: a check of the harness itself."""

from __future__ import annotations

import ctypes
import importlib
import struct
from typing import TYPE_CHECKING, Any

from . import layout as at
from .engines import MemoryImage

if TYPE_CHECKING:
    from .batch import Batch, Case


class UnicornEngine:
    """The ``unicorn`` package: to check the harness itself. It faults differently, so only successes compare well."""

    name = "unicorn"

    def __init__(self) -> None:
        # Partly typed: taken as untyped altogether.
        unicorn: Any = importlib.import_module("unicorn")
        x86: Any = importlib.import_module("unicorn.x86_const")
        self._module = unicorn
        self._x86 = x86
        self._memory = MemoryImage()
        self._uc: Any = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self._uc.ctl_set_cpu_model(x86.UC_CPU_X86_NEHALEM)
        rights = {"rw": unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE, "r": unicorn.UC_PROT_READ}
        rights["rx"] = unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC
        for address, size, offset, access in self._memory.REGIONS:
            self._uc.mem_map_ptr(address, size, rights[access], self._memory.address + offset)
        gprs = ("RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", *(f"R{n}" for n in range(8, 16)))
        self._gprs = [getattr(x86, f"UC_X86_REG_{name}") for name in (*gprs, "RIP", "RFLAGS")]
        self._fps = [getattr(x86, f"UC_X86_REG_FP{n}") for n in range(8)]
        self._xmms = [getattr(x86, f"UC_X86_REG_XMM{n}") for n in range(16)]
        self._uc.reg_write(x86.UC_X86_REG_CR4, self._uc.reg_read(x86.UC_X86_REG_CR4) | 0x600)  # OSFXSR, OSXMMEXCPT
        self._vector = at.VECTOR_DONE
        self._uc.hook_add(unicorn.UC_HOOK_INTR, self._interrupt)
        self._uc.hook_add(unicorn.UC_HOOK_INSN_INVALID, self._invalid)
        self._uc.hook_add(unicorn.UC_HOOK_MEM_INVALID, self._fault)
        self._results = bytearray()

    def close(self) -> None:
        """Nothing to free."""

    def _interrupt(self, uc: Any, number: int, _data: object) -> None:
        self._vector = number
        uc.emu_stop()

    def _invalid(self, _uc: Any, _data: object) -> bool:
        self._vector = 6
        return False

    def _fault(self, _uc: Any, _access: int, _address: int, _size: int, _value: int, _data: object) -> bool:
        self._vector = 14
        return False

    def run_batch(self, batch: Batch) -> bytearray:
        """Run all cases."""
        self._memory.load_template(batch.template)
        results = bytearray(batch.count * at.RESULT_SIZE)
        address = ctypes.addressof((ctypes.c_char * len(results)).from_buffer(results))
        for index in range(batch.count):
            self._run(batch.case(index), results, index * at.RESULT_SIZE, address + index * at.RESULT_SIZE)
        return results

    def _run(self, case: Case, results: bytearray, base: int, address: int) -> None:
        uc, x86 = self._uc, self._x86
        image = case.code_image
        offset = self._memory.CODE_OFFSET + case.rip - at.CODE
        self._memory.buffer[offset : offset + len(image)] = image
        uc.ctl_remove_cache(at.CODE, at.CODE + at.CODE_SIZE)
        for register, value in zip(self._gprs, (*case.gprs, case.rip, case.rflags), strict=True):
            uc.reg_write(register, value)
        uc.reg_write(x86.UC_X86_REG_FS_BASE, at.FS_BASE)
        uc.reg_write(x86.UC_X86_REG_GS_BASE, at.GS_BASE)
        fx = case.fx
        control, status, tags, mxcsr = struct.unpack_from("<HHB19xI", fx)
        uc.reg_write(x86.UC_X86_REG_FPCW, control)
        uc.reg_write(x86.UC_X86_REG_FPSW, status)
        top = status >> 11 & 7
        full = sum((0 if tags >> n & 1 else 3) << 2 * n for n in range(8))
        for n in range(8):
            mantissa, exponent = struct.unpack_from("<QH", fx, at.FX_ST + 16 * n)
            uc.reg_write(self._fps[(top + n) & 7], (mantissa, exponent))
        uc.reg_write(x86.UC_X86_REG_FPTAG, full)
        uc.reg_write(x86.UC_X86_REG_MXCSR, mxcsr)
        for n in range(16):
            uc.reg_write(self._xmms[n], int.from_bytes(fx[at.FX_XMM + 16 * n : at.FX_XMM + 16 * n + 16], "little"))
        self._vector = at.VECTOR_DONE
        try:
            uc.emu_start(case.rip, at.STUB, count=200)
        except self._module.UcError:
            if self._vector == at.VECTOR_DONE:
                self._vector = 13
        values = [uc.reg_read(register) for register in self._gprs]
        struct.pack_into("<18Q", results, base, *values)
        struct.pack_into("<q", results, base + at.RESULT_VECTOR, self._vector)
        status = uc.reg_read(x86.UC_X86_REG_FPSW)
        top = status >> 11 & 7
        full = uc.reg_read(x86.UC_X86_REG_FPTAG)
        tags = sum((full >> 2 * n & 3 != 3) << n for n in range(8))
        fx_base = base + at.RESULT_FX
        control = uc.reg_read(x86.UC_X86_REG_FPCW)
        struct.pack_into("<HHB19xI", results, fx_base, control, status, tags, uc.reg_read(x86.UC_X86_REG_MXCSR))
        for n in range(8):
            mantissa, exponent = uc.reg_read(self._fps[(top + n) & 7])
            struct.pack_into("<QH", results, fx_base + at.FX_ST + 16 * n, mantissa, exponent)
        for n in range(16):
            value = uc.reg_read(self._xmms[n])
            results[fx_base + at.FX_XMM + 16 * n : fx_base + at.FX_XMM + 16 * n + 16] = value.to_bytes(16, "little")
        self._memory.collect(address)
        self._memory.buffer[offset : offset + len(image)] = b"\xcc" * len(image)
