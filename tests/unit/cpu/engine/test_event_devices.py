"""Delivery of events whose stack or tables are devices: nothing is lost, and every access happens once."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from pyhyve.accel.api import ExitKind
from tests.unit.cpu.engine.conftest import CODE, IDT, RAM_BYTES, TABLES

if TYPE_CHECKING:
    from tests.unit.cpu.engine.conftest import Guest

DEVICE: Final = RAM_BYTES
HANDLER: Final = 0x18000
Access = tuple[bool, int, int, int]
"""Whether it writes, address, size, value written."""


class Device:
    """Memory the guest reaches by exits."""

    def __init__(self, guest: Guest) -> None:
        guest.memory.write(TABLES + 0x2000 + 8 * 4, struct.pack("<Q", DEVICE | 0x83))
        self._guest = guest
        self.content = bytearray(0x10000)
        self.log: list[Access] = []

    def serve(self, kind: ExitKind | None = None, **registers: int) -> ExitKind:
        """Run until something else than this device is needed."""
        leaving = self._guest.run(**registers)
        while leaving.kind == ExitKind.MMIO:
            at = leaving.address - DEVICE
            self.log.append((leaving.is_write, at, leaving.size, leaving.value if leaving.is_write else 0))
            if leaving.is_write:
                self.content[at : at + leaving.size] = leaving.value.to_bytes(leaving.size, "little")
            else:
                leaving.value = int.from_bytes(self.content[at : at + leaving.size], "little")
            leaving = self._guest.resume()
        assert kind is None or leaving.kind == kind
        return ExitKind(leaving.kind)

    def words(self, at: int, count: int) -> tuple[int, ...]:
        return struct.unpack_from(f"<{count}Q", self.content, at)


def test_exception_frame_on_a_device(guest: Guest) -> None:
    device = Device(guest)
    guest.gate(13, HANDLER)
    guest.code("f4", at=HANDLER)
    guest.code("31c0 0f22c0")  # xor eax, eax; mov cr0, rax: #GP(0), leaving long mode
    device.serve(ExitKind.HALT, rsp=DEVICE + 0x1000)
    registers = guest.vcpu.read_registers()
    assert (registers["rip"], registers["rsp"]) == (HANDLER + 1, DEVICE + 0x1000 - 48)
    assert [entry[:3] for entry in device.log] == [(True, 0x1000 - 8 * n, 8) for n in range(1, 7)]
    error, rip, cs, flags, rsp, ss = device.words(0x1000 - 48, 6)
    assert (error, rip, cs, rsp, ss) == (0, CODE + 2, 8, DEVICE + 0x1000, 16)
    assert flags & 0x10002 == 0x10002


def test_software_interrupt_through_a_table_on_a_device(guest: Guest) -> None:
    device = Device(guest)
    guest.gate(0x40, HANDLER)
    device.content[: 0x41 * 16] = guest.memory.read(IDT, 0x41 * 16)
    guest.code("f4", at=HANDLER)
    guest.code("cd40")
    device.serve(ExitKind.HALT, **{"idtr.base": DEVICE, "idtr.limit": 0xFFF})
    assert guest.vcpu.read_registers()["rip"] == HANDLER + 1
    assert device.log == [(False, 0x400, 8, 0), (False, 0x408, 8, 0)]


def test_external_interrupt_with_a_frame_on_a_device(guest: Guest) -> None:
    device = Device(guest)
    guest.gate(0x40, HANDLER)
    guest.code("48cf", at=HANDLER)  # iretq: reads the frame back
    guest.code("90 f4")
    guest.vcpu.inject(0x40)
    device.serve(ExitKind.HALT, rsp=DEVICE + 0x1000, rflags=0x202)
    assert guest.vcpu.read_registers()["rip"] == CODE + 2
    writes = [entry for entry in device.log if entry[0]]
    assert len(writes) == 5
    assert len({entry[1] for entry in writes}) == 5


def test_non_maskable_interrupt_with_a_frame_on_a_device_blocks_the_next(guest: Guest) -> None:
    device = Device(guest)
    guest.gate(2, HANDLER)
    guest.code("f4", at=HANDLER)
    guest.vcpu.raise_nmi()
    device.serve(ExitKind.HALT, rsp=DEVICE + 0x1000)
    assert guest.vcpu.read_registers()["rip"] == HANDLER + 1
    assert guest.vcpu.engine.get("nmi_blocked") == 1


def test_fault_during_such_a_delivery_becomes_a_double_fault(guest: Guest) -> None:
    device = Device(guest)
    for vector in (8, 13):
        guest.gate(vector, HANDLER + vector)
    # The gate for #GP on the device is not present: #NP, so #DF, whose gate and frame are there too.
    device.content[: 0x20 * 16] = guest.memory.read(IDT, 0x20 * 16)
    device.content[13 * 16 + 5] = 0x0E
    guest.code("f4", at=HANDLER + 8)
    guest.code("31c0 0f22c0")
    device.serve(ExitKind.HALT, rsp=DEVICE + 0x1000, **{"idtr.base": DEVICE, "idtr.limit": 0xFFF})
    assert guest.vcpu.read_registers()["rip"] == HANDLER + 9
    assert device.words(0x1000 - 48, 2) == (0, CODE + 2)
    reads = [entry[1] for entry in device.log if not entry[0]]
    assert reads == [13 * 16, 13 * 16 + 8, 8 * 16, 8 * 16 + 8]


def test_an_interrupt_waits_until_such_a_delivery_is_complete(guest: Guest) -> None:
    Device(guest)
    guest.gate(13, HANDLER)
    guest.code("f4", at=HANDLER)
    guest.code("31c0 0f22c0")
    leaving = guest.run(rsp=DEVICE + 0x1000, rflags=0x202)
    assert leaving.kind == ExitKind.MMIO
    guest.vcpu.set_interrupt(pending=True)
    count = 0
    while leaving.kind == ExitKind.MMIO:
        count += 1
        leaving = guest.resume()
    assert count == 6
    # The interrupt gate cleared IF: the handler halts, and the interrupt goes on waiting.
    assert leaving.kind == ExitKind.HALT
