"""Chips of the board: a copy made from a saved state behaves as the original, whatever was done to it before.

Each test does the same random accesses to both after the copy was made, lets the same time pass, and compares what
they read and drive.
"""

from __future__ import annotations

import json
import random
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.devices.chipset.acpi_pm import AcpiPm, SmiCommandPort
from pyhyve.devices.chipset.fw_cfg import FwCfg
from pyhyve.devices.chipset.i8042 import I8042, SystemControlPortA
from pyhyve.devices.chipset.i8254 import I8254, SystemControlPort
from pyhyve.devices.chipset.mc146818 import Mc146818
from pyhyve.devices.chipset.ports import ScratchPorts
from pyhyve.devices.irq.chip import ApicInterruptChip
from pyhyve.devices.serial.uart16550 import Uart16550
from pyhyve.memory.guest import GuestMemory
from pyhyve.state.errors import StateError
from pyhyve.state.record import from_json, to_json
from tests.unit.devices.fakes import FakeLine, FakeTime

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 300
NS = 1_000_000_000


class Board:
    """One chip with what it needs; `access` does a random access and gives what can be seen of it."""

    parts: dict[str, Any]
    ports: list[tuple[Any, int]]
    """Devices to read and write, and how many bytes of registers each has."""

    def __init__(self) -> None:
        self.time = FakeTime()
        self.line = FakeLine()
        self.seen: list[object] = []
        self.build()

    def build(self) -> None:
        raise NotImplementedError

    def access(self, source: random.Random) -> object:
        device, size = source.choice(self.ports)
        offset = source.randrange(size)
        value = source.choice((source.randrange(256), 0, 0xFF, 1 << source.randrange(8)))
        if source.random() < 0.5:
            device.write(offset, 1, value)
            return None
        return device.read(offset, 1)

    def visible(self) -> object:
        return self.line.level, self.seen[-5:]


class PitBoard(Board):
    def build(self) -> None:
        pit = I8254(self.time, self.time, self.line)
        control = SystemControlPort(pit, self.time)
        self.parts = {"pit": pit, "port61": control}
        self.ports = [(pit, 4), (pit, 4), (control, 1)]


class RtcBoard(Board):
    def build(self) -> None:
        rtc = Mc146818(self.time, self.time, self.line, {0x5F: 3})
        self.parts = {"rtc": rtc}
        self.ports = [(rtc, 2)]


class PmBoard(Board):
    def build(self) -> None:
        pm = AcpiPm(self.time, self.time, self.line, lambda: self.seen.append("off"))
        smi = SmiCommandPort(pm)
        self.parts = {"pm": pm, "smi": smi}
        self.ports = [(pm, 12), (smi, 2)]


class UartBoard(Board):
    def build(self) -> None:
        uart = Uart16550(self.line, self.time, self.time, self.seen.append)
        self.parts = {"uart": uart}
        self.ports = [(uart, 8)]

    def access(self, source: random.Random) -> object:
        if source.random() < 0.1:
            self.parts["uart"].receive(source.randbytes(source.randrange(1, 40)))
        return super().access(source)

    def visible(self) -> object:
        return self.line.level, b"".join(part for part in self.seen[-5:] if isinstance(part, bytes))[-5:]


class KeyboardBoard(Board):
    def build(self) -> None:
        keyboard = I8042(lambda: self.seen.append("reset"))
        port = SystemControlPortA(lambda: self.seen.append("reset"))
        pages = ScratchPorts(16)
        self.parts = {"keyboard": keyboard, "port92": port, "pages": pages}
        self.ports = [(keyboard.data, 1), (keyboard.control, 1), (port, 1), (pages, 16)]

    def visible(self) -> object:
        return None


class FirmwareBoard(Board):
    def build(self) -> None:
        memory = GuestMemory()
        memory.add(0, 4096)
        device = FwCfg(memory, {5: b"\x01\x02\x03\x04"}, {"etc/one": b"1" * 40, "etc/two": b"22"})
        self.parts = {"fw_cfg": device}
        self.ports = [(device, 12)]

    def access(self, source: random.Random) -> object:
        device = self.parts["fw_cfg"]
        if source.random() < 0.3:
            device.write(0, 2, source.choice((0, 1, 5, 0x19, 0x20, 0x21, 0x99)))
        return device.read(1, 1)


class Tsc:
    tsc_hz = NS

    def __init__(self, time: FakeTime) -> None:
        self._time = time

    def read_tsc(self, index: int) -> int:
        return self._time.now_ns() + 1000


class Pins:
    def __init__(self, seen: list[object], index: int) -> None:
        self.level = False
        self._seen, self._index = seen, index

    def set_interrupt(self, *, pending: bool) -> None:
        self.level = pending

    def raise_nmi(self) -> None:
        self._seen.append(("nmi", self._index))

    def init(self) -> None:
        self._seen.append(("init", self._index))

    def startup(self, vector: int) -> None:
        self._seen.append(("startup", self._index, vector))


class InterruptBoard(Board):
    def build(self) -> None:
        self.chip = ApicInterruptChip(threading.RLock(), self.time, self.time, Tsc(self.time), 2)
        self.pins = [Pins(self.seen, index) for index in range(2)]
        for index, pins in enumerate(self.pins):
            self.chip.connect(index, pins)
        self.parts = {"chip": self.chip}

    def access(self, source: random.Random) -> object:
        chip, index = self.chip, source.randrange(2)
        match source.randrange(8):
            case 0:
                chip.set_gsi(source.randrange(24), level=source.random() < 0.5)
            case 1:
                return chip.acknowledge(index)
            case 2:
                port = chip.pic.ports(source.randrange(2))
                port.write(source.randrange(2), 1, source.choice((0x11, 0x20, 0x0B, 0, 0xFF, source.randrange(256))))
            case 3:
                chip.ioapic.write(0, 4, 0x10 + source.randrange(48))
                chip.ioapic.write(0x10, 4, source.choice((source.randrange(1 << 16), 0x8031, 0x31, 0xFF << 24, 0)))
            case 4:
                page = chip.page_of(index)
                offset = source.choice((0x80, 0xB0, 0xF0, 0x320, 0x350, 0x380, 0x3E0, 0xD0, 0xE0))
                page.write(offset, 4, source.choice((0x1FF, source.randrange(1 << 20), 0x20040, 0x40050, 0)))
            case 5:
                return chip.page_of(index).read(source.randrange(0x40) << 4, 4)
            case 6:
                chip.send_msi(0xFEE0_0000 | index << 12, source.randrange(32, 256))
            case _:
                return chip.write_msr(index, 0x6E0, self.time.now_ns() + source.randrange(1 << 22))
        return None

    def visible(self) -> object:
        return [pins.level for pins in self.pins], self.seen[-3:]


BOARDS: list[Callable[[], Board]] = [
    PitBoard, RtcBoard, PmBoard, UartBoard, KeyboardBoard, FirmwareBoard, InterruptBoard,
]  # fmt: skip


def copy_of(board: Board) -> Board:
    """A board of the same kind in the same state and at the same time."""
    other = type(board)()
    other.time.ns, other.time.wall_start_ns = board.time.ns, board.time.wall_start_ns
    for name, part in board.parts.items():
        plain = json.loads(json.dumps(to_json(part.save())))
        other.parts[name].load(from_json(part.state_type, plain, name))
    other.line.level = board.line.level
    return other


@pytest.mark.parametrize("kind", BOARDS)
@pytest.mark.parametrize("seed", range(8))
def test_copy_behaves_as_the_original(kind: Callable[[], Board], seed: int) -> None:
    source = random.Random(seed)
    board = kind()
    for _ in range(source.randrange(ROUNDS)):
        board.access(source)
        board.time.advance(source.choice((0, 1000, 1_000_000, source.randrange(1 << 30))))
    board.seen.clear()
    copy = copy_of(board)
    board.seen.clear()
    assert copy.visible() == board.visible()
    for number in range(ROUNDS):
        step = source.randrange(1 << 62)
        assert copy.access(random.Random(step)) == board.access(random.Random(step)), f"access {number}"
        elapsed = source.choice((0, 1000, 1_000_000, source.randrange(1 << 30)))
        copy.time.advance(elapsed)
        board.time.advance(elapsed)
        assert copy.visible() == board.visible(), f"after access {number}"


def test_clock_shows_the_present_after_a_restore() -> None:
    board = RtcBoard()
    later = RtcBoard()
    later.time.wall_start_ns += 3600 * NS
    later.parts["rtc"].load(board.parts["rtc"].save())
    assert later.parts["rtc"].now() - board.parts["rtc"].now() == timedelta(hours=1)


@pytest.mark.parametrize(
    ("kind", "part", "change"),
    [
        (PitBoard, "pit", {"channels": []}),
        (RtcBoard, "rtc", {"offset_ns": 1 << 70}),
        (KeyboardBoard, "pages", {"registers": "00"}),
        (InterruptBoard, "chip", {"lapics": []}),
    ],
)
def test_impossible_state_is_refused(kind: Callable[[], Board], part: str, change: dict[str, Any]) -> None:
    board = kind()
    chip = board.parts[part]
    plain = to_json(chip.save())
    assert isinstance(plain, dict)
    with pytest.raises(StateError):
        chip.load(from_json(chip.state_type, plain | change, part))
