"""What the oracle is compared with: anything that turns a batch into result records.

Engines keep a case's address space in host memory of their own (`MemoryImage`) and report changes through it.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import TYPE_CHECKING, Final, Protocol

from . import layout as at
from .machine_code import harness_code
from .native import NativeRunner

if TYPE_CHECKING:
    from .batch import Batch


class Engine(Protocol):
    """Something that executes cases."""

    name: str

    def run_batch(self, batch: Batch) -> memoryview | bytearray:
        """Result records of all cases, valid until the next call."""

    def close(self) -> None:
        """Free everything."""


class MemoryImage:
    """Host memory holding a case's pages, back to back: ``DATA``, ``STACK``, ``READ_ONLY``, ``CODE``, ``STUB``.

    Attributes:
        buffer: the pages.
        address: where they are in this process.
    """

    SIZE: Final = at.TEMPLATE_SIZE + at.CODE_SIZE + at.PAGE
    CODE_OFFSET: Final = at.TEMPLATE_SIZE
    REGIONS: Final = (
        (at.DATA, at.DATA_SIZE, 0, "rw"),
        (at.STACK, at.STACK_SIZE, at.DATA_SIZE, "rw"),
        (at.READ_ONLY, at.READ_ONLY_SIZE, at.DATA_SIZE + at.STACK_SIZE, "r"),
        (at.CODE, at.CODE_SIZE, CODE_OFFSET, "rx"),
        (at.STUB, at.PAGE, CODE_OFFSET + at.CODE_SIZE, "rx"),
    )
    """Guest address, size, offset in the buffer and access rights of each region."""

    def __init__(self, buffer: memoryview | None = None) -> None:
        self.buffer = memoryview(mmap.mmap(-1, self.SIZE)) if buffer is None else buffer
        self.address = ctypes.addressof((ctypes.c_char * self.SIZE).from_buffer(self.buffer))
        self._template = mmap.mmap(-1, at.TEMPLATE_SIZE)
        self._template_address = ctypes.addressof((ctypes.c_char * at.TEMPLATE_SIZE).from_buffer(self._template))
        u64, u32 = ctypes.c_uint64, ctypes.c_uint32
        self._diff = ctypes.CFUNCTYPE(None, u64, u64, u32, u32, u64)(harness_code().diff)
        self.buffer[self.CODE_OFFSET : self.CODE_OFFSET + at.CODE_SIZE] = b"\xcc" * at.CODE_SIZE

    def load_template(self, template: bytes) -> None:
        """Set the initial contents for the cases to come."""
        self._template[:] = template
        self.buffer[: at.TEMPLATE_SIZE] = template

    def collect(self, result_address: int) -> None:
        """Add the changed lines to the result record at this address of the process, and undo the changes."""
        stack_line = at.DATA_SIZE // at.LINE
        self._diff(self.address, self._template_address, stack_line, 0, result_address)
        self._diff(
            self.address + at.DATA_SIZE, self._template_address + at.DATA_SIZE, at.STACK_SIZE // at.LINE, stack_line,
            result_address,
        )  # fmt: skip


class NativeEngine:
    """A second child on the host's CPU: shows cases whose outcome depends on anything but the case."""

    name = "native"

    def __init__(self) -> None:
        self._runner = NativeRunner(at.BATCH)

    def close(self) -> None:
        """End the child."""
        self._runner.close()

    def run_batch(self, batch: Batch) -> memoryview:
        """Run all cases."""
        return self._runner.run_batch(batch)
