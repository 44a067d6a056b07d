"""The PS/2 keyboard, behind its controller."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyhyve.devices.chipset.i8042 import I8042, I8042State
from pyhyve.devices.input.keyboard import Keyboard
from pyhyve.devices.input.keys import NUMBERS, TO_SET_1, scan_codes
from pyhyve.state.errors import StateError
from pyhyve.state.record import from_json, to_json
from tests.unit.devices.fakes import FakeLine


class Bench:
    """A controller with a keyboard whose driver has turned both on."""

    def __init__(self, command_byte: int = 0x45) -> None:
        self.keyboard, self.line, self.resets = Keyboard(), FakeLine(), 0
        self.controller = I8042(self.reset, self.keyboard, self.line)
        self.out(0x64, 0x60)
        self.out(0x60, command_byte)

    def reset(self) -> None:
        self.resets += 1

    def out(self, port: int, value: int) -> None:
        self.controller.write(value, is_control=port == 0x64)

    def all_in(self) -> list[int]:
        found = []
        while self.controller.status() & 1:
            found.append(self.controller.read_data())
        return found

    def press(self, name: str) -> None:
        for is_pressed in (True, False):
            self.keyboard.press(NUMBERS[name], is_pressed=is_pressed)


@pytest.mark.parametrize(
    ("name", "codes"),
    [("a", [0x1E, 0x9E]), ("esc", [0x01, 0x81]), ("f7", [0x41, 0xC1]), ("up", [0xE0, 0x48, 0xE0, 0xC8])],
)
def test_keys_are_translated_to_set_1(name: str, codes: list[int]) -> None:
    bench = Bench()
    bench.press(name)
    assert bench.all_in() == codes


def test_keys_untranslated_are_of_set_2() -> None:
    bench = Bench(command_byte=0x05)
    bench.press("a")
    bench.press("delete")
    assert bench.all_in() == [0x1C, 0xF0, 0x1C, 0xE0, 0x71, 0xE0, 0xF0, 0x71]


def test_every_key_is_told_apart() -> None:
    codes = {name: scan_codes(number, is_pressed=True) for name, number in NUMBERS.items()}
    for name, number in NUMBERS.items():
        assert TO_SET_1[codes[name][-1]] == number & 0x7F
        assert codes[name][:1] == b"\xe0" or number < 0x80


def test_each_byte_raises_the_interrupt() -> None:
    bench = Bench()
    bench.press("up")
    for edges in range(1, 5):
        assert bench.line.level
        assert bench.line.edges == edges
        bench.controller.read_data()
    assert not bench.line.level


def test_interrupt_and_clock_can_be_turned_off() -> None:
    bench = Bench(command_byte=0x44)
    bench.press("a")
    assert not bench.line.level
    assert bench.all_in() == [0x1E, 0x9E]
    bench.out(0x64, 0xAD)
    bench.press("b")
    assert bench.all_in() == []
    bench.out(0x64, 0xAE)
    assert bench.all_in() == [0x30, 0xB0]


def test_commands_are_answered() -> None:
    bench = Bench(command_byte=0x05)
    answers = {}
    for command in (0xFF, 0xF2, 0xEE, 0xED, 0x07, 0xF0, 0x00, 0xF3, 0x20, 0xF4, 0xF6, 0x01):
        bench.out(0x60, command)
        answers[command] = bench.all_in()
    assert answers == {
        0xFF: [0xFA, 0xAA], 0xF2: [0xFA, 0xAB, 0x83], 0xEE: [0xEE], 0xED: [0xFA], 0x07: [0xFA], 0xF0: [0xFA],
        0x00: [0xFA, 2], 0xF3: [0xFA], 0x20: [0xFA], 0xF4: [0xFA], 0xF6: [0xFA], 0x01: [0xFE],
    }  # fmt: skip
    assert bench.keyboard.leds == 7
    bench.out(0x60, 0xED)
    bench.out(0x60, 0x02)
    assert bench.keyboard.leds == 2


def test_disabled_keyboard_sends_nothing() -> None:
    bench = Bench()
    bench.out(0x60, 0xF5)
    assert bench.all_in() == [0xFA]
    bench.press("a")
    assert bench.all_in() == []


def test_keys_beyond_the_buffer_are_lost() -> None:
    bench = Bench(command_byte=0x04)
    for _ in range(30):
        bench.press("a")
    assert 10 < len(bench.all_in()) <= 17


def test_state_goes_round_and_fits_the_machine() -> None:
    bench = Bench()
    bench.press("a")
    bench.press("up")
    bench.controller.read_data()
    plain = to_json(bench.controller.save())
    other = Bench()
    other.controller.load(from_json(I8042State, plain, "i8042"))
    assert other.line.level
    assert other.all_in() == [0x9E, 0xE0, 0x48, 0xE0, 0xC8]
    bare = I8042(lambda: None)
    with pytest.raises(StateError, match="a keyboard"):
        bare.load(bench.controller.save())
    with pytest.raises(StateError, match="no keyboard"):
        other.controller.load(bare.save())


def test_controller_without_keyboard_still_times_out() -> None:
    bare = I8042(lambda: None)
    bare.write(0xFF, is_control=False)
    assert bare.read_data() == 0xFE


def test_answers_that_nobody_reads_are_bounded_and_saved() -> None:
    bench = Bench()
    for _ in range(1000):
        bench.out(0x60, 0xEE)
    state = bench.controller.save()
    assert state.keyboard is not None
    assert state.keyboard.queue == b"\xee" * 24
    other = Bench()
    other.controller.load(state)
    assert other.all_in() == bench.all_in() == [0xEE] * 25


@given(st.lists(st.tuples(st.sampled_from(["command", "data", "read", "key"]), st.integers(0, 255)), max_size=60))
def test_any_accesses_are_borne(accesses: list[tuple[str, int]]) -> None:
    bench = Bench()
    for what, value in accesses:
        if what == "read":
            bench.controller.read_data()
        elif what == "key":
            bench.keyboard.press(value, is_pressed=bool(value & 1))
        else:
            bench.out(0x64 if what == "command" else 0x60, value)
    other = Bench()
    other.controller.load(from_json(I8042State, to_json(bench.controller.save()), "i8042"))
    assert other.all_in() == bench.all_in()
