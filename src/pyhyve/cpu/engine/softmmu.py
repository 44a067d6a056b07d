"""The software TLB: from guest virtual addresses to host memory, with slow paths for everything unusual.

Each vCPU has one direct-mapped table per *translation index* (an instruction set's privilege levels; see `tlb`).
Compiled code probes a table inline and calls `slow_load` or `slow_store` on a miss. Those walk, fill, split accesses
that cross a page, reach devices, and drop translated code that is written to.

Fault convention: a kernel that fails leaves `state.stop` non-zero; its result is then meaningless and its caller
returns at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from pyhyve.cpu.engine.state import (
    NO_ADDRESS,
    PAGE_BYTES,
    PAGE_MASK,
    WATCH_READ,
    WATCH_WRITE,
    WATCHPOINTS,
    Stop,
)
from pyhyve.cpu.engine.tlb import Access, Tlb, entry_at, slot_of
from pyhyve.cpu.lang import PRESERVE_MOST, U8, U16, U32, U64, Pointer, Struct, kernel, u64

if TYPE_CHECKING:
    from pyhyve.cpu.engine.dirty import DirtyMarks
    from pyhyve.cpu.engine.jumps import Jumps
    from pyhyve.cpu.engine.regions import Regions
    from pyhyve.cpu.engine.sharing import Owners
    from pyhyve.cpu.lang import Kernel


class ExitCode(IntEnum):
    """`exit_kind` of an exit made here; numbers of `accel.api.ExitKind`."""

    IO = 0
    MMIO = 1


@dataclass(frozen=True, slots=True)
class AlignmentChecks:
    """A translation index whose accesses must be aligned.

    Its table is never filled, so that every access takes the slow path, which checks; accesses without checks pay
    nothing.
    """

    index: int
    translates_as: int
    """The index it is otherwise like."""
    misaligned: Kernel
    """Raises the exception."""


class SoftMmu:
    """The kernels of one instruction set's soft MMU.

    `translate(state, address, access, index)` is the instruction set's page walk: it returns the guest physical
    address, or `NO_ADDRESS` with a guest exception pending and `stop` set; `walk_lasting` is then not 0 for a page that
    outlasts changes of address space. `check_address(state, address)` faults for
    what can be no address at all; of an operand that crosses a page, the last byte is checked so before all else.
    """

    def __init__(
        self,
        state: Struct,
        regions: Regions,
        translate: Kernel,
        check_address: Kernel,
        invalidate: Kernel,
        owners: Owners,
        indexes: int,
        alignment_checks: AlignmentChecks,
        jumps: Jumps,
        take_store: Kernel,
        dirty: DirtyMarks,
    ) -> None:
        """`take_store(state, gpa, size, value)` is asked first of writes to devices: 1 when it did what they mean."""
        self.jumps = jumps
        self.tlb = Tlb(state, indexes, jumps)
        self.state = state
        self._alignment_checks = alignment_checks
        self._regions = regions
        self.indexes = indexes
        self._translate = translate
        self._check_address = check_address
        self._invalidate = invalidate
        self._owners = owners
        self._take_store = take_store
        self._dirty = dirty
        self._define()

    def _define(self) -> None:
        pointer = Pointer(self.state)
        translate, invalidate = self._translate, self._invalidate
        check_address = self._check_address
        checked, unchecked = self._alignment_checks.index, self._alignment_checks.translates_as
        misaligned = self._alignment_checks.misaligned
        owners, tlb, dirty = self._owners, self.tlb, self._dirty
        take_store = self._take_store
        host_address = self._regions.host_address
        page_index = self._regions.page_index
        is_readonly = self._regions.is_readonly

        @kernel(pointer, U64, U64, U64, name="mmu.watch", attributes="nounwind noinline cold")
        def watch(st: Any, address: Any, size: Any, kind: Any) -> None:
            """Record which watchpoints an access of `size` bytes at `address` meets."""
            for i in range(WATCHPOINTS):
                length = st.watch_length[i]
                start = st.watch_address[i]
                if (st.watch_kind[i] & kind) != 0 and address < start + length and start < address + size:
                    st.watch_hits = st.watch_hits | (1 << i)

        @kernel(pointer, U64, result=U64, name="mmu.is_watched", attributes="nounwind noinline cold")
        def is_watched(st: Any, address: Any) -> Any:
            """1 when the page of `address` holds a watched byte."""
            for i in range(WATCHPOINTS):
                if st.watch_kind[i] != 0:
                    first = st.watch_address[i] & PAGE_MASK
                    last = (st.watch_address[i] + st.watch_length[i] - 1) & PAGE_MASK
                    if address & PAGE_MASK == first or address & PAGE_MASK == last:
                        return 1
            return 0

        @kernel(pointer, U64, U64, U64, result=U64, name="mmu.fill")
        def fill(st: Any, address: Any, access: Any, index: Any) -> Any:
            """Translate for `access`, install the page, and return the host address, 0 for a device; may fault."""
            if index == checked:
                return fill(st, address, access, unchecked)
            if tlb.recall(st, address, access, index) != 0:
                return address + entry_at(st, address, index).addend
            gpa = translate(st, address, access, index)
            if st.stop != 0:
                return 0
            st.count_fill = st.count_fill + 1
            hva = host_address(st, gpa)
            if hva == 0:
                return 0
            page = address & PAGE_MASK
            tlb.displace(st, page, index)
            entry = entry_at(st, address, index)
            if st.walk_lasting == 0:
                tlb.mark_local(st, slot_of(address, index))
            addend = (hva & PAGE_MASK) - page
            if entry.addend != addend:
                entry.read = NO_ADDRESS
                entry.write = NO_ADDRESS
                entry.fetch = NO_ADDRESS
                entry.addend = addend
            elif entry.read != page:
                entry.read = NO_ADDRESS
                if entry.write != page:
                    entry.write = NO_ADDRESS
                if entry.fetch != page:
                    entry.fetch = NO_ADDRESS
            watched = u64(0)
            if st.watch_on != 0 and access != Access.FETCH:
                watched = is_watched(st, address)
            if watched != 0:
                entry.read = NO_ADDRESS
                entry.write = NO_ADDRESS
            elif access == Access.READ:
                entry.read = page
            elif access == Access.FETCH:
                entry.fetch = page
            else:
                if owners.owned(st, page_index(st, gpa)) == 0 and is_readonly(st, gpa) == 0:
                    entry.write = page
                entry.read = page
            if access == Access.WRITE and st.dirty != 0:
                dirty.mark(st, page_index(st, gpa))
            return hva

        @kernel(pointer, U64, U64, U64, result=U64, name="mmu.device_load")
        def device_load(st: Any, gpa: Any, size: Any, kind: Any) -> Any:
            """A read that the machine must answer: replayed from the record, or an exit."""
            if st.access_next < st.access_done:
                value = st.access_values[st.access_next]
                st.access_next = st.access_next + 1
                return value
            st.exit_kind = kind.trunc(32)
            st.exit_address = gpa
            st.exit_size = size.trunc(32)
            st.exit_write = 0
            st.stop = Stop.EXIT
            return 0

        @kernel(pointer, U64, U64, U64, U64, name="mmu.device_store")
        def device_store(st: Any, gpa: Any, size: Any, value: Any, kind: Any) -> None:
            """A write that the machine must see: already done, or an exit."""
            if st.access_next < st.access_done:
                st.access_next = st.access_next + 1
                return
            if kind == ExitCode.MMIO and take_store(st, gpa, size, value) != 0:
                return
            st.exit_kind = kind.trunc(32)
            st.exit_address = gpa
            st.exit_size = size.trunc(32)
            st.exit_write = 1
            st.exit_value = value
            st.stop = Stop.EXIT

        @kernel(pointer, U64, U64, name="mmu.check_alignment", attributes="nounwind noinline cold")
        def check_alignment(st: Any, address: Any, size: Any) -> None:
            """For `checked`: fault when `size` bytes are not aligned: 10 to a multiple of 8, 16 to any."""
            unit = size.get()
            if unit > 8:
                unit = u64(8)
            if size >= 16:
                return
            if (address & (unit - 1)) == 0:
                return
            check_address(st, address)
            if st.stop == 0:
                misaligned(st)

        @kernel(pointer, U64, U64, result=U64, name="mmu.host_load")
        def host_load(_st: Any, hva: Any, size: Any) -> Any:
            if size == 8:
                return hva.cast(U64)[0]
            if size == 4:
                return hva.cast(U32)[0].zext(64)
            if size == 2:
                return hva.cast(U16)[0].zext(64)
            return hva.cast(U8)[0].zext(64)

        @kernel(pointer, U64, U64, U64, name="mmu.host_store")
        def host_store(_st: Any, hva: Any, size: Any, value: Any) -> None:
            if size == 8:
                hva.cast(U64)[0] = value
            elif size == 4:
                hva.cast(U32)[0] = value.trunc(32)
            elif size == 2:
                hva.cast(U16)[0] = value.trunc(16)
            else:
                hva.cast(U8)[0] = value.trunc(8)

        @kernel(pointer, U64, U64, U64, result=U64, name="mmu.load_at", attributes="nounwind noinline cold")
        def load_at(st: Any, address: Any, size: Any, index: Any) -> Any:
            """Read `size` (1, 2, 4, 8) bytes by translation index; may fault."""
            if index == checked:
                check_alignment(st, address, size)
                if st.stop != 0:
                    return 0
                return load_at(st, address, size, unchecked)
            in_page = address & (PAGE_BYTES - 1)
            if in_page + size > PAGE_BYTES:
                # Both pages are checked before any byte is read, lower address first.
                check_address(st, address + size - 1)
                if st.stop != 0:
                    return 0
                fill(st, address, Access.READ, index)
                if st.stop != 0:
                    return 0
                fill(st, (address + size - 1) & PAGE_MASK, Access.READ, index)
                if st.stop != 0:
                    return 0
                value: U64 = 0
                i: U64 = 0
                while i < size:
                    byte = load_at(st, address + i, 1, index)
                    if st.stop != 0:
                        return 0
                    value = value | (byte << (i * 8))
                    i += 1
                return value
            entry = entry_at(st, address, index)
            if entry.read == address & PAGE_MASK:
                return host_load(st, address + entry.addend, size)
            hva = fill(st, address, Access.READ, index)
            if st.stop != 0:
                return 0
            if st.watch_on != 0:
                watch(st, address, size, WATCH_READ)
            if hva != 0:
                return host_load(st, hva, size)
            return device_load(st, translate(st, address, Access.READ, index), size, ExitCode.MMIO)

        @kernel(pointer, U64, U64, U64, U64, name="mmu.store_at", attributes="nounwind noinline cold")
        def store_at(st: Any, address: Any, size: Any, value: Any, index: Any) -> None:
            """Write `size` (1, 2, 4, 8) bytes by translation index; may fault."""
            if index == checked:
                check_alignment(st, address, size)
                if st.stop != 0:
                    return
                store_at(st, address, size, value, unchecked)
                return
            in_page = address & (PAGE_BYTES - 1)
            if in_page + size > PAGE_BYTES:
                check_address(st, address + size - 1)
                if st.stop != 0:
                    return
                fill(st, address, Access.WRITE, index)
                if st.stop != 0:
                    return
                fill(st, (address + size - 1) & PAGE_MASK, Access.WRITE, index)
                if st.stop != 0:
                    return
                i: U64 = 0
                while i < size:
                    store_at(st, address + i, 1, (value >> (i * 8)) & 0xFF, index)
                    if st.stop != 0:
                        return
                    i += 1
                return
            entry = entry_at(st, address, index)
            if entry.write == address & PAGE_MASK:
                host_store(st, address + entry.addend, size, value)
                return
            hva = fill(st, address, Access.WRITE, index)
            if st.stop != 0:
                return
            if entry.write == address & PAGE_MASK:
                host_store(st, hva, size, value)
                return
            if st.watch_on != 0:
                watch(st, address, size, WATCH_WRITE)
            gpa = translate(st, address, Access.WRITE, index)
            if hva == 0:
                device_store(st, gpa, size, value, ExitCode.MMIO)
                return
            if is_readonly(st, gpa) != 0:
                return
            if before_write(st, gpa, size) == 0:
                host_store(st, hva, size, value)

        @kernel(pointer, U64, U64, result=U64, name="mmu.before_write")
        def before_write(st: Any, gpa: Any, size: Any) -> Any:
            """Drop translated code that `[gpa, gpa + size)` overlaps; 1 (and `stop`) when the write must wait."""
            page = page_index(st, gpa)
            if page == NO_ADDRESS:
                return 0
            if (owners.owned(st, page) & ~st.owner_bit) != 0:
                # Alone in its block, so that the others hear of it before anything else is written.
                if st.single == 0:
                    st.stop = Stop.SINGLE
                    return 1
                owners.note_written(st, gpa)
            code = st.page_code[page]
            if code == 0:
                return 0
            first = (gpa & (PAGE_BYTES - 1)) >> 6
            last = ((gpa & (PAGE_BYTES - 1)) + size - 1) >> 6
            if last > 63:
                last = u64(63)
            touched = (u64(NO_ADDRESS) << first) & (u64(NO_ADDRESS) >> (63 - last))
            if (code & touched) == 0:
                return 0
            if st.single == 0:
                st.stop = Stop.SINGLE
                return 1
            invalidate(st, gpa, size)
            return 0

        @kernel(pointer, U64, U64, U64, result=U64, name="mmu.probe_write")
        def probe_write(st: Any, address: Any, size: Any, index: Any) -> Any:
            """Fault now if writing `size` bytes would fault. Returns the host address when plain memory, else 0."""
            if index == checked:
                check_alignment(st, address, size)
                if st.stop != 0:
                    return 0
                return probe_write(st, address, size, unchecked)
            hva = fill(st, address, Access.WRITE, index)
            if st.stop != 0:
                return 0
            if (address & (PAGE_BYTES - 1)) + size > PAGE_BYTES:
                fill(st, (address + size - 1) & PAGE_MASK, Access.WRITE, index)
                return 0
            entry = entry_at(st, address, index)
            if entry.write == (address + size - 1) & PAGE_MASK:
                return hva
            return 0

        @kernel(pointer, U64, U64, U64, name="mmu.probe_read")
        def probe_read(st: Any, address: Any, size: Any, index: Any) -> None:
            """Fault now if reading the first of `size` bytes would fault, or they are misaligned."""
            if index == checked:
                check_alignment(st, address, size)
            if st.stop == 0:
                fill(st, address, Access.READ, index)

        self.probe_read = probe_read
        self.fill = fill
        self.device_load = device_load
        self.device_store = device_store
        self.load_at = load_at
        self.store_at = store_at
        self.before_write = before_write
        self.probe_write = probe_write

        @kernel(pointer, U64, U64, U64, name="mmu.copy_host", attributes="nounwind noinline")
        def copy_host(_st: Any, target: Any, source: Any, size: Any) -> None:
            i: U64 = 0
            while i < size:
                target.cast(U8)[i] = source.cast(U8)[i]
                i += 1

        @kernel(
            pointer,
            U64,
            U64,
            U64,
            result=U64,
            name="mmu.read_pointer",
            attributes="nounwind noinline cold",
            convention=PRESERVE_MOST,
        )
        def read_pointer(st: Any, address: Any, size: Any, index: Any) -> Any:
            """Host address from which to read `size` (at most 64) bytes: guest memory, or a copy of them; may fault."""
            if index == checked:
                check_alignment(st, address, size)
                if st.stop != 0:
                    return 0
                return read_pointer(st, address, size, unchecked)
            if (address & (PAGE_BYTES - 1)) + size <= PAGE_BYTES:
                hva = fill(st, address, Access.READ, index)
                if st.watch_on != 0:
                    watch(st, address, size, WATCH_READ)
                if st.stop != 0 or hva != 0:
                    return hva
            else:
                check_address(st, address + size - 1)
                if st.stop != 0:
                    return 0
            bounce = st.bounce.address()
            i: U64 = 0
            step = u64(1)
            if (size & 7) == 0:
                step = u64(8)
            elif size == 4 or size == 2:
                step = size
            while i < size:
                part = load_at(st, address + i, step, index)
                if st.stop != 0:
                    return 0
                host_store(st, bounce + i, step, part)
                i += step
            return bounce

        @kernel(
            pointer,
            U64,
            U64,
            U64,
            result=U64,
            name="mmu.write_pointer",
            attributes="nounwind noinline cold",
            convention=PRESERVE_MOST,
        )
        def write_pointer(st: Any, address: Any, size: Any, index: Any) -> Any:
            """Host address at which to change `size` (at most 64) bytes, which hold their present value; may fault.

            When it is not guest memory itself, `write_back` must follow.
            """
            if index == checked:
                check_alignment(st, address, size)
                if st.stop != 0:
                    return 0
                return write_pointer(st, address, size, unchecked)
            st.bounce_size = 0
            if (address & (PAGE_BYTES - 1)) + size <= PAGE_BYTES:
                hva = fill(st, address, Access.WRITE, index)
                if st.stop != 0:
                    return 0
                entry = entry_at(st, address, index)
                if entry.write == address & PAGE_MASK:
                    return hva
                if st.watch_on != 0:
                    watch(st, address, size, WATCH_READ | WATCH_WRITE)
                gpa = translate(st, address, Access.WRITE, index)
                if hva != 0 and is_readonly(st, gpa) == 0:
                    if before_write(st, gpa, size) != 0:
                        return 0
                    return hva
            else:
                check_address(st, address + size - 1)
                if st.stop != 0:
                    return 0
                fill(st, address, Access.WRITE, index)
                if st.stop != 0:
                    return 0
                fill(st, (address + size - 1) & PAGE_MASK, Access.WRITE, index)
                if st.stop != 0:
                    return 0
            bounce = read_pointer(st, address, size, index)
            if st.stop != 0:
                return 0
            if bounce != st.bounce.address():
                copy_host(st, st.bounce.address(), bounce, size)
            st.bounce_size = size
            st.bounce_address = address
            st.bounce_index = index
            return st.bounce.address()

        @kernel(pointer, name="mmu.write_back", attributes="nounwind noinline cold", convention=PRESERVE_MOST)
        def write_back(st: Any) -> None:
            """Write the changed copy of `write_pointer` to where it belongs; may fault or leave guest mode."""
            size = st.bounce_size
            i: U64 = 0
            step = u64(1)
            if (size & 7) == 0:
                step = u64(8)
            elif size == 4 or size == 2:
                step = size
            while i < size:
                store_at(st, st.bounce_address + i, step, host_load(st, st.bounce.address() + i, step), st.bounce_index)
                if st.stop != 0:
                    return
                i += step

        @kernel(
            pointer,
            U64,
            U64,
            result=U64,
            name="mmu.slow_load",
            attributes="nounwind noinline cold",
            convention=PRESERVE_MOST,
        )
        def slow_load(st: Any, address: Any, size: Any) -> Any:
            """`load_at` with the current data index."""
            return load_at(st, address, size, (st.mode >> 8) & 3)

        @kernel(
            pointer, U64, U64, U64, name="mmu.slow_store", attributes="nounwind noinline cold", convention=PRESERVE_MOST
        )
        def slow_store(st: Any, address: Any, size: Any, value: Any) -> None:
            """`store_at` with the current data index."""
            store_at(st, address, size, value, (st.mode >> 8) & 3)

        self.slow_load = slow_load
        self.slow_store = slow_store
        self.copy_host = copy_host
        self.read_pointer = read_pointer
        self.write_pointer = write_pointer
        self.write_back = write_back
        self.host_load = host_load
        self.host_store = host_store
