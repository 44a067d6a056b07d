"""The conversation with a client; the replies are those of a real QEMU 7.2."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyhyve.machine.monitor.errors import ErrorClass, QmpError
from pyhyve.machine.monitor.session import Greeting, Session, event_message
from pyhyve.machine.monitor.types import Command, Schema, Struct

SCHEMA = Schema(
    {"Colour": ("red", "green"), "QMPCapability": ("oob",)},
    {
        "Point": Struct({"x": "int", "*y": "number"}),
        "Shape": Struct({"colour": "Colour"}, "colour", {"red": "Point"}),
    },
    {
        "echo": Command({"*text": "str", "*count": "size", "*sure": "bool", "*anything": "any"}, "any"),
        "paint": Command({"shape": "Shape", "*points": ["Point"]}),
        "now": Command(allow_oob=True),
        "fail": Command(),
        "break": Command(),
        "qmp_capabilities": Command({"*enable": ["QMPCapability"]}),
    },
    {},
)


class Commands:
    schema = SCHEMA

    def execute(self, name: str, arguments: dict[str, Any]) -> Any:
        if name == "fail":
            msg = "no such thing"
            raise QmpError(msg, ErrorClass.DEVICE_NOT_FOUND)
        if name == "break":
            raise ZeroDivisionError
        return arguments if name == "echo" else None


class Talk:
    def __init__(self, *, enable: list[str] | None = None, negotiate: bool = True) -> None:
        self.sent = bytearray()
        self.session = Session(Commands(), Greeting({"package": "x"}), self.sent.extend)
        self.greeting = self.take()
        if negotiate:
            assert self.ask({"execute": "qmp_capabilities", "arguments": {"enable": enable or []}}) == {"return": {}}

    def take(self) -> list[Any]:
        lines = bytes(self.sent).split(b"\r\n")
        assert lines.pop() == b""
        self.sent.clear()
        return [json.loads(line) for line in lines]

    def ask(self, request: object) -> Any:
        self.session.receive(request if isinstance(request, bytes) else json.dumps(request).encode())
        (reply,) = self.take()
        return reply

    def error(self, request: object) -> tuple[str, str]:
        error = self.ask(request)["error"]
        return error["class"], error["desc"]


def test_greeting_comes_first() -> None:
    assert Talk().greeting == [{"QMP": {"version": {"package": "x"}, "capabilities": ["oob"]}}]


def test_commands_wait_for_the_negotiation() -> None:
    talk = Talk(negotiate=False)
    wanted = ("CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'")
    assert talk.error({"execute": "echo"}) == wanted
    talk.session.event(event_message("STOP", None, 1))
    assert talk.take() == []
    assert talk.error({"execute": "qmp_capabilities", "arguments": {"enable": ["x"]}})[0] == "GenericError"
    assert talk.ask({"execute": "qmp_capabilities", "id": [1, {"a": None}]}) == {"return": {}, "id": [1, {"a": None}]}
    again = ("CommandNotFound", "Capabilities negotiation is already complete, command ignored")
    assert talk.error({"execute": "qmp_capabilities"}) == again


@pytest.mark.parametrize(
    ("request_", "description"),
    [
        (b"foo\n", "JSON parse error, "),
        (b"123 ", "QMP input must be a JSON object"),
        (b"[]", "QMP input must be a JSON object"),
        ({"execute": 1}, "QMP input member 'execute' must be a string"),
        ({}, "QMP input lacks member 'execute'"),
        ({"a": 1, "execute": "echo"}, "QMP input member 'a' is unexpected"),
        ({"execute": "echo", "arguments": []}, "QMP input member 'arguments' must be an object"),
        ({"execute": "echo", "exec-oob": "echo"}, "QMP input member 'execute' clashes with 'exec-oob'"),
        ({"exec-oob": "now"}, "QMP input member 'exec-oob' is unexpected"),
        ({"execute": "echo", "arguments": {"texts": ""}}, "Parameter 'texts' is unexpected"),
        ({"execute": "echo", "arguments": {"text": 1}}, "Invalid parameter type for 'text', expected: string"),
        ({"execute": "echo", "arguments": {"count": True}}, "Invalid parameter type for 'count', expected: integer"),
        ({"execute": "echo", "arguments": {"count": -1}}, "Parameter 'count' expects a non-negative number"),
        ({"execute": "echo", "arguments": {"sure": 1}}, "Invalid parameter type for 'sure', expected: boolean"),
        ({"execute": "paint"}, "Parameter 'shape' is missing"),
        ({"execute": "paint", "arguments": {"shape": {}}}, "Parameter 'shape.colour' is missing"),
        (
            {"execute": "paint", "arguments": {"shape": {"colour": "blue"}}},
            "Parameter 'colour' does not accept value 'blue'",
        ),
        ({"execute": "paint", "arguments": {"shape": {"colour": "red"}}}, "Parameter 'shape.x' is missing"),
        (
            {"execute": "paint", "arguments": {"shape": {"colour": "green", "x": 1}}},
            "Parameter 'shape.x' is unexpected",
        ),
        (
            {"execute": "paint", "arguments": {"shape": {"colour": "green"}, "points": [{"x": 1}, {"x": "1"}]}},
            "Invalid parameter type for 'points[1].x', expected: integer",
        ),
        ({"execute": "break"}, "internal error: ZeroDivisionError: "),
    ],
)
def test_bad_request_is_answered_with_a_generic_error(request_: object, description: str) -> None:
    talk = Talk()
    error_class, text = talk.error(request_)
    assert error_class == "GenericError"
    assert text.startswith(description)
    assert talk.ask({"execute": "now"}) == {"return": {}}


def test_unknown_command_and_failing_command_have_their_classes() -> None:
    talk = Talk()
    assert talk.error({"execute": "nope"}) == ("CommandNotFound", "The command nope has not been found")
    assert talk.ask({"execute": "fail", "id": 7}) == {
        "id": 7,
        "error": {"class": "DeviceNotFound", "desc": "no such thing"},
    }


def test_out_of_band_needs_the_capability_and_a_fitting_command() -> None:
    talk = Talk(enable=["oob"])
    assert talk.ask({"exec-oob": "now", "id": 1}) == {"return": {}, "id": 1}
    assert talk.error({"exec-oob": "echo"}) == ("GenericError", "The command echo does not support OOB")


def test_requests_in_one_piece_are_answered_in_order() -> None:
    talk = Talk()
    talk.session.receive(b'{"execute":"now","id":1}{"execute":"nope","id":2}{"execute":"now","id":3}')
    assert [reply["id"] for reply in talk.take()] == [1, 2, 3]


def test_event_carries_its_time() -> None:
    assert json.loads(event_message("RESET", {"guest": True}, 5_000_007)) == {
        "timestamp": {"seconds": 5, "microseconds": 7},
        "event": "RESET",
        "data": {"guest": True},
    }


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_requests_always_get_one_error_or_result(data: st.DataObject) -> None:
    text = bytearray(b'{"execute": "paint", "arguments": {"shape": {"colour": "red", "x": 1}}, "id": 1}')
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    talk = Talk()
    talk.session.receive(bytes(text))
    talk.session.receive(b'\xff{"execute": "now", "id": "end"}')
    replies = talk.take()
    assert all({"return", "error"} & set(reply) for reply in replies)
    assert replies[-1] == {"return": {}, "id": "end"}
