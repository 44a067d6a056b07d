"""16550A, driven as Linux's 8250 driver does."""

from __future__ import annotations

import pytest

from pyhyve.devices.serial.uart16550 import FLUSH_DELAY_NS, Uart16550
from tests.unit.devices.fakes import FakeLine, FakeTime

DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(8)


class Port:
    def __init__(self) -> None:
        self.time = FakeTime()
        self.line = FakeLine()
        self.sent: list[bytes] = []
        self.ready = 0
        self.uart = Uart16550(self.line, self.time, self.time, self.sent.append, self._ready)

    def _ready(self) -> None:
        self.ready += 1

    def __getitem__(self, register: int) -> int:
        return self.uart.read(register, 1)

    def __setitem__(self, register: int, value: int) -> None:
        self.uart.write(register, 1, value)


@pytest.fixture
def port() -> Port:
    return Port()


def test_autoconfig_finds_a_16550a(port: Port) -> None:
    """The steps of autoconfig() and size_fifo in Linux's 8250_port.c."""
    port[IER] = 0
    assert port[IER] == 0
    port[IER] = 0x0F
    assert port[IER] == 0x0F
    port[IER] = 0
    port[MCR] = 0x1A  # loopback, OUT2, RTS
    assert port[MSR] & 0xF0 == 0x90
    port[MCR] = 0
    port[IIR] = 0x01
    assert port[IIR] >> 6 == 3
    port[SCR] = 0xA5
    assert port[SCR] == 0xA5
    port[IIR] = 0
    assert port[IIR] >> 6 == 0


def test_divisor_latch_hides_data_and_interrupt_enable(port: Port) -> None:
    port[LCR] = 0x83
    port[DATA], port[IER] = 0x34, 0x12
    assert (port[DATA], port[IER]) == (0x34, 0x12)
    port[LCR] = 0x03
    assert port[IER] == 0
    assert not port.sent


def test_transmitter_interrupt_follows_the_startup_test(port: Port) -> None:
    """serial8250_do_startup: enabling THRI raises it; reading IIR clears it; enabling again raises it again."""
    port[IER] = 0x02
    assert port.line.level
    assert port[IIR] & 0x0F == 0x02
    assert not port.line.level
    assert port[IIR] & 0x0F == 0x01
    port[IER] = 0
    port[IER] = 0x02
    assert port[IIR] & 0x0F == 0x02


def test_every_written_byte_makes_an_edge(port: Port) -> None:
    port[IER] = 0x02
    edges = port.line.edges
    port[DATA] = 0x41
    port[DATA] = 0x42
    assert port.line.edges == edges + 2
    assert port[LSR] & 0x60 == 0x60


def test_output_is_batched_by_line_and_time(port: Port) -> None:
    for byte in b"login: ":
        port[DATA] = byte
    assert port.sent == []
    port.time.advance(FLUSH_DELAY_NS)
    assert port.sent == [b"login: "]
    for byte in b"a line\n":
        port[DATA] = byte
    assert port.sent[1:] == [b"a line\n"]


def test_input_passes_the_fifo_without_loss(port: Port) -> None:
    port[IIR] = 0x81  # FIFO on, trigger at 8
    port[IER] = 0x01
    data = bytes(range(100))
    port.uart.receive(data)
    received = bytearray()
    while port[LSR] & 1:
        received.append(port[DATA])
    assert received == data
    assert port.ready == 1
    assert not port.line.level


def test_trigger_level_and_timeout_are_told_apart(port: Port) -> None:
    port[IIR] = 0x81
    port[IER] = 0x01
    port.uart.receive(b"x")
    assert port[IIR] & 0x0F == 0x0C
    port.uart.receive(b"1234567")
    assert port[IIR] & 0x0F == 0x04


def test_flood_is_bounded(port: Port) -> None:
    port.uart.receive(bytes(1 << 20))
    assert port.uart.room <= 1
    count = 0
    while port[LSR] & 1:
        port[DATA]
        count += 1
    assert 4096 <= count <= 4200


def test_loopback_returns_data_and_sends_nothing(port: Port) -> None:
    port[IIR] = 0x01
    port[MCR] = 0x10
    port[DATA] = 0x5A
    assert port[LSR] & 1
    assert port[DATA] == 0x5A
    assert not port.sent


def test_modem_deltas_are_reported_once(port: Port) -> None:
    port[MSR]
    port[IER] = 0x08
    port[MCR] = 0x10
    assert port[MSR] & 0x0B == 0x0B
    assert port[MSR] & 0x0F == 0


def test_break_is_a_line_status(port: Port) -> None:
    port[IER] = 0x04
    port.uart.receive_break()
    assert port[IIR] & 0x0F == 0x06
    assert port[LSR] & 0x10
    assert port[LSR] & 0x10 == 0


def test_breaks_that_nobody_reads_do_not_pile_up(port: Port) -> None:
    for _ in range(100):
        port.uart.receive_break()
    assert len(port.uart.save().fifo) <= 16


def test_reset_clears_registers(port: Port) -> None:
    port[IER], port[LCR], port[SCR] = 0x0F, 0x1B, 7
    port.uart.reset()
    assert (port[IER], port[LCR], port[SCR]) == (0, 0, 0)
    assert not port.line.level


def test_input_before_a_state_is_loaded_comes_after_its_own(port: Port) -> None:
    saved = Port()
    saved[IIR] = 0x01
    saved[IER] = 0x01
    saved.uart.receive(b"one ")
    state = saved.uart.save()
    port.uart.receive(b"two")
    port.uart.load(state)
    assert bytes(port[DATA] for _ in range(7)) == b"one two"
    assert port[LSR] & 1 == 0


def test_input_before_a_state_is_loaded_interrupts_its_guest(port: Port) -> None:
    saved = Port()
    saved[IER] = 0x01
    state = saved.uart.save()
    port.uart.receive(b"x")
    port.uart.load(state)
    assert port.line.level
    assert port[DATA] == ord("x")
    assert not port.line.level
