"""Records: what comes back is what went in, and nothing else is let in."""

from __future__ import annotations

import json
from typing import Annotated

import pytest

from pyhyve.state.errors import StateError
from pyhyve.state.record import I64, U8, U16, U256, Size, from_json, record, to_json


@record
class Inner:
    number: U8
    data: bytes = b"default"


@record
class Outer:
    wide: U256
    signed: I64
    flag: bool
    name: str
    mac: Annotated[bytes, Size(6)]
    maybe: Inner | None
    several: tuple[Inner, ...]
    words: tuple[U16, ...]


VALUE = Outer(
    wide=(1 << 256) - 1,
    signed=-(1 << 63),
    flag=True,
    name="é",
    mac=b"\x00\x01\xff\x80\n\r",
    maybe=Inner(number=255, data=b""),
    several=(Inner(number=0), Inner(number=1, data=b"\0")),
    words=(0, 65535),
)


def test_record_survives_json() -> None:
    assert from_json(Outer, json.loads(json.dumps(to_json(VALUE))), "device") == VALUE


def test_missing_field_with_a_default_gets_it() -> None:
    assert from_json(Inner, {"number": 3}, "device") == Inner(number=3, data=b"default")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"wide": 1 << 256}, "device.wide: is out of range"),
        ({"wide": -1}, "device.wide: is out of range"),
        ({"wide": True}, "device.wide: is not a int"),
        ({"wide": 1.0}, "device.wide: is not a int"),
        ({"signed": 1 << 63}, "device.signed: is out of range"),
        ({"flag": 1}, "device.flag: is not a bool"),
        ({"name": None}, "device.name: is not a str"),
        ({"mac": "0001"}, "device.mac: has 2 bytes instead of 6"),
        ({"mac": "zz"}, "device.mac: is not hexadecimal"),
        ({"maybe": []}, "device.maybe: is not an object"),
        ({"maybe": {}}, "device.maybe: no field number"),
        ({"several": {}}, "device.several: is not a list"),
        ({"several": [{"number": 256}]}, r"device.several\[0\].number: is out of range"),
        ({"words": [0] * 70_000}, "device.words: is not a list, or is too long"),
        ({"new": 1}, "device: unknown field new"),
    ],
)
def test_field_that_does_not_fit_is_refused_by_name(change: dict[str, object], reason: str) -> None:
    plain = to_json(VALUE)
    assert isinstance(plain, dict)
    with pytest.raises(StateError, match=reason):
        from_json(Outer, plain | change, "device")


def test_missing_field_is_refused_by_name() -> None:
    plain = to_json(VALUE)
    assert isinstance(plain, dict)
    del plain["flag"]
    with pytest.raises(StateError, match="device: no field flag"):
        from_json(Outer, plain, "device")
