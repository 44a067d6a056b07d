"""Cases run by `guest_kernel` in a virtual machine, whatever drives that machine."""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING, Protocol

from . import guest_kernel as kernel
from . import layout as at
from .engines import MemoryImage

if TYPE_CHECKING:
    from .batch import Batch, Case


class Machine(Protocol):
    """One virtual CPU with ``RAM_SIZE`` bytes at 0 and a ROM."""

    ram: memoryview

    def start(self, image: kernel.KernelImage) -> None:
        """Put the image into memory and the CPU into its reset state."""

    def go_on(self) -> int:
        """Run the case. Returns ``VECTOR_DONE`` if the kernel has finished it, else what became of the machine."""

    def close(self) -> None:
        """Free everything."""


class GuestEngine:
    """An engine out of a machine.

    Args:
        name: what it is called.
        machine: what runs the kernel.
        doorbell: how the machine waits.
    """

    def __init__(self, name: str, machine: Machine, doorbell: kernel.Doorbell) -> None:
        self.name = name
        self._machine = machine
        self._image = kernel.kernel_image(doorbell, MemoryImage.REGIONS)
        self._start()

    def _start(self) -> None:
        self._machine.start(self._image)
        ram = self._machine.ram
        self._memory = MemoryImage(ram[kernel.USER_GPA : kernel.USER_GPA + MemoryImage.SIZE])
        self._case = ram[kernel.CASE_GPA : kernel.CASE_GPA + at.PAGE]
        self._result = ram[kernel.RESULT_GPA : kernel.RESULT_GPA + at.RESULT_LINES]

    def close(self) -> None:
        """Free the machine."""
        self._machine.close()

    def run_batch(self, batch: Batch) -> bytearray:
        """Run all cases; a machine that is lost is started anew."""
        self._memory.load_template(batch.template)
        results = bytearray(batch.count * at.RESULT_SIZE)
        address = ctypes.addressof((ctypes.c_char * len(results)).from_buffer(results))
        for index in range(batch.count):
            base = index * at.RESULT_SIZE
            outcome = self._run(batch.case(index))
            if outcome == at.VECTOR_DONE:
                results[base : base + at.RESULT_LINES] = self._result
                self._memory.collect(address + base)
            else:
                struct.pack_into("<q", results, base + at.RESULT_VECTOR, outcome)
                self._start()
                self._memory.load_template(batch.template)
        return results

    def _run(self, case: Case) -> int:
        image = case.code_image
        self._case[: at.CASE_SIZE] = case.record
        place = kernel.code_place(MemoryImage.CODE_OFFSET + case.rip - at.CODE)
        struct.pack_into("<QI", self._case, kernel.CASE_CODE_PLACE, place, len(image))
        self._case[kernel.CASE_CODE_IMAGE : kernel.CASE_CODE_IMAGE + len(image)] = image
        return self._machine.go_on()
