"""PCI functions on the bus: configuration, BARs, capabilities, MSI-X, INTx."""

from __future__ import annotations

import pytest

from pyhyve.devices.bus import AddressMap
from pyhyve.devices.pci import spec
from pyhyve.devices.pci.bus import PciBus
from pyhyve.devices.pci.device import Bar, PciDevice
from pyhyve.devices.pci.i440fx import ConfigPorts, I440fxBridge, Piix3IsaBridge
from pyhyve.devices.pci.msi import Msi, Msix
from pyhyve.devices.pci.spec import BarKind

COMMAND, BAR0, LINE = 0x04, 0x10, 0x3C


class Registers:
    def __init__(self) -> None:
        self.writes: list[tuple[int, int, int]] = []

    def read(self, offset: int, _size: int) -> int:
        return offset

    def write(self, offset: int, size: int, value: int) -> None:
        self.writes.append((offset, size, value))


class Card(PciDevice):
    def __init__(self, pin: int = 1) -> None:
        super().__init__(vendor_id=0x1AF4, device_id=0x1042, class_code=0x010000, interrupt_pin=pin, name="card")
        self.registers = Registers()
        self.moves: list[tuple[int, int | None]] = []

    def bar_moved(self, bar: Bar) -> None:
        self.moves.append((bar.index, bar.address))


class Board:
    def __init__(self) -> None:
        self.ports = AddressMap("port", 0x10000)
        self.memory = AddressMap("memory", 1 << 52)
        self.messages: list[tuple[int, int]] = []
        self.irqs: dict[int, bool] = {}
        self.isa = Piix3IsaBridge(self._set_irq)
        self.bus = PciBus(
            self.ports,
            self.memory,
            send_msi=lambda address, data: self.messages.append((address, data)),
            set_pirq=self.isa.set_pirq,
        )
        self.resets = 0
        self.config = ConfigPorts(self.bus, self._reset)
        self.ports.add(0xCF8, 8, self.config, name="config")
        self.bus.attach(I440fxBridge(), 0)
        self.bus.attach(self.isa, 1)

    def _set_irq(self, irq: int, /, *, level: bool) -> None:
        self.irqs[irq] = level

    def _reset(self) -> None:
        self.resets += 1

    def read(self, slot: int, register: int, size: int = 4, function: int = 0) -> int:
        self.ports.write(0xCF8, 4, 1 << 31 | slot << 11 | function << 8 | register & 0xFC)
        return self.ports.read(0xCFC + (register & 3), size)

    def write(self, slot: int, register: int, value: int, size: int = 4) -> None:
        self.ports.write(0xCF8, 4, 1 << 31 | slot << 11 | register & 0xFC)
        self.ports.write(0xCFC + (register & 3), size, value)


@pytest.fixture
def board() -> Board:
    return Board()


def test_linux_probe_of_mechanism_1(board: Board) -> None:
    """pci_check_type1: the address register keeps bit 31 and is not disturbed by byte writes at 0xCFB."""
    board.ports.write(0xCFB, 1, 1)
    before = board.ports.read(0xCF8, 4)
    board.ports.write(0xCF8, 4, 0x80000000)
    assert board.ports.read(0xCF8, 4) == 0x80000000
    board.ports.write(0xCF8, 4, before)
    assert board.read(0, 0) == 0x12378086
    assert board.read(0, 0x0A, 2) == 0x0600


def test_absent_function_reads_all_ones(board: Board) -> None:
    assert board.read(9, 0) == 0xFFFFFFFF
    assert board.read(0, 0, function=3) == 0xFFFFFFFF
    board.write(9, 4, 7)


def test_read_only_registers_keep_their_value(board: Board) -> None:
    card = Card()
    board.bus.attach(card)
    assert (card.slot, card.function) == (2, 0)
    board.write(2, 0, 0)
    board.write(2, 8, 0)
    assert board.read(2, 0) == 0x10421AF4
    board.write(2, LINE, 0xFF0B)
    assert board.read(2, LINE) == 0x010B


@pytest.mark.parametrize(
    ("kind", "size", "low"), [(BarKind.MEM32, 0x4000, 0x0), (BarKind.IO, 0x40, 0x1), (BarKind.MEM64, 1 << 33, 0x4)]
)
def test_bar_sizing(board: Board, kind: BarKind, size: int, low: int) -> None:
    card = Card()
    card.add_bar(0, size, kind, card.registers)
    board.bus.attach(card)
    board.write(2, BAR0, 0xFFFFFFFF)
    board.write(2, BAR0 + 4, 0xFFFFFFFF)
    value = board.read(2, BAR0)
    assert value & 0xF & ~8 == low
    if kind is BarKind.MEM64:
        value |= board.read(2, BAR0 + 4) << 32
        assert -(value & ~0xF) & (1 << 64) - 1 == size
    else:
        assert -(value & ~(3 if kind is BarKind.IO else 0xF)) & 0xFFFFFFFF == size
        assert board.read(2, BAR0 + 4) == 0


def test_bar_moves_at_run_time(board: Board) -> None:
    card = Card()
    card.add_bar(1, 0x1000, BarKind.MEM32, card.registers)
    board.bus.attach(card)
    board.write(2, BAR0 + 4, 0xE0000000)
    assert board.memory.read(0xE0000010, 4) == 0xFFFFFFFF
    board.write(2, COMMAND, 2, 2)
    assert board.memory.read(0xE0000010, 4) == 0x10
    board.write(2, BAR0 + 4, 0xE0004000)
    assert board.memory.read(0xE0000010, 4) == 0xFFFFFFFF
    assert board.memory.read(0xE0004020, 4) == 0x20
    board.write(2, COMMAND, 0, 2)
    assert board.memory.read(0xE0004020, 4) == 0xFFFFFFFF
    assert card.moves == [(1, 0xE0000000), (1, 0xE0004000), (1, None)]


def test_badly_placed_bar_stays_unmapped(board: Board) -> None:
    first, second = Card(), Card()
    for card in (first, second):
        card.add_bar(0, 0x1000, BarKind.MEM32, card.registers)
        board.bus.attach(card)
    for slot in (2, 3):
        board.write(slot, BAR0, 0xE0000000)
        board.write(slot, COMMAND, 2, 2)
    assert first.bars[0].address == 0xE0000000
    assert second.bars[0].address is None
    board.write(3, BAR0, 0xE0001000)
    assert second.bars[0].address == 0xE0001000


@pytest.mark.parametrize(
    ("index", "size", "kind"),
    [(0, 24, BarKind.MEM32), (0, 8, BarKind.MEM32), (6, 16, BarKind.MEM32), (5, 16, BarKind.MEM64)],
)
def test_impossible_bar_is_refused(index: int, size: int, kind: BarKind) -> None:
    card = Card()
    with pytest.raises(ValueError, match="BAR"):
        card.add_bar(index, size, kind, card.registers)


def test_bar_index_in_use_is_refused() -> None:
    card = Card()
    card.add_bar(0, 16, BarKind.MEM64, card.registers)
    with pytest.raises(ValueError, match="in use"):
        card.add_bar(1, 16, BarKind.MEM32, card.registers)


def test_capability_list_is_walked(board: Board) -> None:
    card = Card()
    first = card.add_capability(9, b"\x10abc")
    Msi(card)
    board.bus.attach(card)
    assert board.read(2, 0x06, 2) & 0x10
    pointer = board.read(2, 0x34, 1)
    assert pointer == first
    assert board.read(2, pointer, 1) == 9
    following = board.read(2, pointer + 1, 1)
    assert board.read(2, following, 1) == 5
    assert board.read(2, following + 1, 1) == 0


def test_full_configuration_space_is_refused() -> None:
    card = Card()
    for _ in range(6):
        card.add_capability(9, bytes(30))
    with pytest.raises(ValueError, match="no room"):
        card.add_capability(9, bytes(30))


def test_msi_sends_what_was_programmed(board: Board) -> None:
    card = Card()
    msi = Msi(card)
    board.bus.attach(card)
    msi.notify()
    assert board.messages == []
    board.write(2, msi.offset + 4, 0xFEE01000)
    board.write(2, msi.offset + 12, 0x41, 2)
    board.write(2, msi.offset + 2, 1, 2)
    msi.notify()
    assert board.messages == [(0xFEE01000, 0x41)]


def make_msix(board: Board, vectors: int = 3) -> tuple[Card, Msix]:
    card = Card()
    msix = Msix(card, 1, vectors)
    board.bus.attach(card)
    board.write(card.slot, BAR0 + 4, 0xE0000000)
    board.write(card.slot, COMMAND, 6, 2)
    for vector in range(vectors):
        base = 0xE0000000 + 16 * vector
        board.memory.write(base, 4, 0xFEE00000)
        board.memory.write(base + 8, 4, 0x30 + vector)
        board.memory.write(base + 12, 4, 0)
    return card, msix


def test_msix_delivers_when_enabled(board: Board) -> None:
    _, msix = make_msix(board)
    msix.notify(1)
    assert board.messages == []
    board.write(2, msix.offset + 2, 0x8000, 2)
    msix.notify(1)
    msix.notify(99)
    assert board.messages == [(0xFEE00000, 0x31)]
    assert board.read(2, msix.offset + 2, 2) == 0x8002


def test_msix_masked_vector_pends_until_unmasked(board: Board) -> None:
    _, msix = make_msix(board)
    board.write(2, msix.offset + 2, 0x8000, 2)
    board.memory.write(0xE000002C, 4, 1)
    msix.notify(2)
    assert board.messages == []
    assert board.memory.read(0xE0000000 + msix.pba_offset, 4) == 4
    board.memory.write(0xE000002C, 4, 0)
    assert board.messages == [(0xFEE00000, 0x32)]
    assert board.memory.read(0xE0000000 + msix.pba_offset, 8) == 0


def test_msix_function_mask_pends_all(board: Board) -> None:
    _, msix = make_msix(board)
    board.write(2, msix.offset + 2, 0xC000, 2)
    for vector in range(3):
        msix.notify(vector)
    assert board.messages == []
    board.write(2, msix.offset + 2, 0x8000, 2)
    assert [data for _, data in board.messages] == [0x30, 0x31, 0x32]


def test_msix_takes_many_vectors(board: Board) -> None:
    _, msix = make_msix(board, 2048)
    board.write(2, msix.offset + 2, 0x8000, 2)
    msix.notify(2047)
    assert board.messages == [(0xFEE00000, 0x30 + 2047)]
    with pytest.raises(ValueError, match="2049"):
        Msix(Card(), 1, 2049)


def test_intx_is_routed_and_shared(board: Board) -> None:
    cards = [Card() for _ in range(5)]
    for card in cards:
        board.bus.attach(card)
    assert board.bus.pirq_of(cards[0]) == 1
    cards[0].set_intx(level=True)
    assert board.irqs == {10: True}
    assert board.read(2, 0x06, 2) & 8
    cards[4].set_intx(level=True)
    cards[0].set_intx(level=False)
    assert board.irqs[10]
    cards[4].set_intx(level=False)
    assert not board.irqs[10]


def test_intx_disable_bit_lowers_the_pin(board: Board) -> None:
    card = Card()
    board.bus.attach(card)
    card.set_intx(level=True)
    board.write(2, COMMAND, 0x400, 2)
    assert not board.irqs[10]
    board.write(2, COMMAND, 0, 2)
    assert board.irqs[10]


def test_pirq_can_be_rerouted_and_disconnected(board: Board) -> None:
    card = Card()
    board.bus.attach(card)
    card.set_intx(level=True)
    board.write(1, 0x61, 5, 1)
    assert board.irqs == {10: False, 5: True}
    board.write(1, 0x61, 0x80, 1)
    assert board.irqs == {10: False, 5: False}


def test_reset_unmaps_and_lowers(board: Board) -> None:
    card, msix = make_msix(board)
    board.write(2, msix.offset + 2, 0x8000, 2)
    card.set_intx(level=True)
    board.bus.reset()
    assert board.memory.read(0xE0000000, 4) == 0xFFFFFFFF
    assert board.read(2, COMMAND, 2) == 0
    assert board.read(2, BAR0 + 4) == 0
    assert not board.irqs[10]
    assert not msix.enabled


def test_port_cf9_resets_on_a_rising_bit_2(board: Board) -> None:
    board.ports.write(0xCF9, 1, 2)
    assert board.resets == 0
    board.ports.write(0xCF9, 1, 6)
    assert board.resets == 1


def test_multifunction_bit_and_taken_slots(board: Board) -> None:
    board.bus.attach(Card(), 1, 3)
    assert board.read(1, 0x0E, 1) & 0x80
    with pytest.raises(ValueError, match="in use by card"):
        board.bus.attach(Card(), 1, 3)
    for _ in range(30):
        board.bus.attach(Card())
    with pytest.raises(ValueError, match="not available for card"):
        board.bus.attach(Card())


def test_spec_header_layout() -> None:
    card = Card()
    assert card.config_read(spec.CLASS_CODE, 1) == 0
    assert card.config_read(spec.CLASS_CODE + 2, 1) == 1
