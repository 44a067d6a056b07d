"""The driver's side of an AHCI port: what a guest kernel does, in Python, so that controllers run without a guest."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyhyve.devices.ahci import spec
from pyhyve.devices.ahci.spec import Fis, HbaRegister, HostControl, PortCommand, PortRegister
from pyhyve.devices.ide.spec import Command, DeviceBit

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from pyhyve.devices.bus import AddressMap
    from pyhyve.memory.guest import GuestMemory

LIST_AT, FIS_AT, TABLES_AT, TABLE_BYTES = 0x0, 0x400, 0x1000, 0x1000
PORT_MEMORY_BYTES = TABLES_AT + spec.SLOTS * TABLE_BYTES
"""What a port's driver takes of guest memory."""
_ENTRIES = (TABLE_BYTES - spec.PRDT_AT) // spec.PRD_BYTES
_PATIENCE_S = 30.0


class AhciTimeoutError(Exception):
    """The controller did not finish a command."""


@dataclass(frozen=True, slots=True)
class Task:
    """Registers of a command; `sectors` is a queued one's count in the place of the features."""

    command: int
    lba: int = 0
    count: int = 0
    features: int = 0
    device: int = int(DeviceBit.LBA)

    def frame(self) -> bytes:
        """The frame from host to device."""
        lba = self.lba.to_bytes(6, "little")
        low = bytes((Fis.HOST_TO_DEVICE, spec.FIS_COMMAND, self.command, self.features & 0xFF))
        count = self.count.to_bytes(2, "little")
        return low + lba[:3] + bytes((self.device,)) + lba[3:] + bytes((self.features >> 8,)) + count + bytes(6)


class AhciDriver:
    """Drives one port. `space` is the memory space of the registers at `base`; `start` is its place in memory."""

    def __init__(
        self, space: AddressMap, lock: threading.RLock, memory: GuestMemory, base: int, port: int, start: int
    ) -> None:
        self.space = space
        self.lock = lock
        self.memory = memory
        self._base = base
        self._port_base = base + spec.PORTS_AT + spec.PORT_BYTES * port
        self.start = start

    # -- registers ----------------------------------------------------------------------------------------------------

    def read_host(self, register: int) -> int:
        """A generic host control register."""
        with self.lock:
            return self.space.read(self._base + register, 4)

    def write_host(self, register: int, value: int) -> None:
        """As `read_host`."""
        with self.lock:
            self.space.write(self._base + register, 4, value)

    def read(self, register: int) -> int:
        """A register of the port."""
        with self.lock:
            return self.space.read(self._port_base + register, 4)

    def write(self, register: int, value: int) -> None:
        """As `read`."""
        with self.lock:
            self.space.write(self._port_base + register, 4, value)

    # -- commands -----------------------------------------------------------------------------------------------------

    def begin(self, *, enables: int = spec.ENABLES) -> None:
        """Tell the port where its memory is, and start it."""
        self.write_host(HbaRegister.GHC, int(HostControl.AHCI | HostControl.INTERRUPTS))
        self.write(PortRegister.CLB, self.start + LIST_AT)
        self.write(PortRegister.CLBU, 0)
        self.write(PortRegister.FB, self.start + FIS_AT)
        self.write(PortRegister.FBU, 0)
        self.write(PortRegister.IS, 0xFFFF_FFFF)
        self.write(PortRegister.IE, enables)
        self.write(PortRegister.CMD, int(PortCommand.FIS_RECEIVE | PortCommand.SPIN_UP | PortCommand.POWER_ON))
        self.restart()

    def restart(self) -> None:
        """Stop the command list and start it, as after an error."""
        command = self.read(PortRegister.CMD) & ~int(PortCommand.START)
        self.write(PortRegister.CMD, command)
        self.write(PortRegister.CMD, command | PortCommand.START)

    def table(self, slot: int) -> int:
        """Address of a slot's command table."""
        return self.start + TABLES_AT + slot * TABLE_BYTES

    def prepare(
        self, slot: int, frame: bytes, regions: Sequence[tuple[int, int]] = (), *, packet: bytes = b"", flags: int = 0
    ) -> None:
        """Write header, frame, packet and region table of a slot; regions are addresses and even lengths."""
        table = self.table(slot)
        header = struct.pack("<IIQ16x", len(regions) << 16 | flags | 5, 0, table)
        self.memory.write(self.start + LIST_AT + spec.HEADER_BYTES * slot, header)
        self.memory.write(table, frame)
        self.memory.write(table + spec.ATAPI_COMMAND_AT, packet.ljust(16, b"\0"))
        entries = b"".join(struct.pack("<QII", gpa, 0, length - 1) for gpa, length in regions[:_ENTRIES])
        self.memory.write(table + spec.PRDT_AT, entries)

    def issue(self, slots: int, *, queued: bool = False) -> None:
        """Hand over the slots whose bits are set."""
        if queued:
            self.write(PortRegister.SACT, slots)
        self.write(PortRegister.CI, slots)

    def wait(self, slots: int, *, queued: bool = False) -> int:
        """Wait until these slots are done, or an error stopped the list; returns task file data."""
        deadline = time.monotonic() + _PATIENCE_S
        register = PortRegister.SACT if queued else PortRegister.CI
        while self.read(register) & slots and not self.read(PortRegister.IS) & 1 << 30:
            if time.monotonic() > deadline:
                msg = f"slots {slots:#x} are not done"
                raise AhciTimeoutError(msg)
            time.sleep(0.001)
        return self.read(PortRegister.TFD)

    def run(self, task: Task, regions: Sequence[tuple[int, int]] = (), *, packet: bytes = b"", slot: int = 0) -> int:
        """Carry out one command; returns task file data: error in bits 15:8, status below."""
        self.prepare(slot, task.frame(), regions, packet=packet)
        self.issue(1 << slot)
        return self.wait(1 << slot)

    def queue(self, slot: int, lba: int, regions: Sequence[tuple[int, int]], *, is_write: bool = False) -> None:
        """Prepare a queued read or write of all of `regions`."""
        command = Command.WRITE_FPDMA_QUEUED if is_write else Command.READ_FPDMA_QUEUED
        sectors = sum(length for _, length in regions) // 512
        self.prepare(slot, Task(command, lba, slot << 3, sectors).frame(), regions)

    def soft_reset(self) -> None:
        """Device control with SRST, and without (Serial ATA 3.0, 11.4)."""
        for slot, control in ((0, 0x04), (1, 0x00)):
            frame = bytearray(spec.FIS_BYTES)
            frame[0], frame[15] = Fis.HOST_TO_DEVICE, control
            self.prepare(slot, bytes(frame))
            self.issue(1 << slot)
            self.wait(1 << slot)

    def received(self, kind: Fis) -> bytes:
        """The last frame of a kind that the device sent."""
        return self.memory.read(self.start + FIS_AT + spec.RECEIVED_AT[kind], spec.FIS_BYTES)
