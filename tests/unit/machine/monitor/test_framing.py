"""JSON values out of a byte stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyhyve.machine.monitor.errors import QmpError
from pyhyve.machine.monitor.framing import MAX_NESTING, JsonStream


def feed(*pieces: bytes, limit: int = 1 << 20) -> list[Any]:
    stream = JsonStream(limit)
    values = [value for piece in pieces for value in stream.feed(piece)]
    return [f"error: {value}" if isinstance(value, QmpError) else value for value in values]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (b'{"a": 1}{"b":[{}]} [] "x" 12 true\n', [{"a": 1}, {"b": [{}]}, [], "x", 12, True]),
        (b"{'a': 'it\\'s \"so\"'}", [{"a": 'it\'s "so"'}]),
        (b'{"a": "it\'s }{"}', [{"a": "it's }{"}]),
        (b'{"a": "\\"}"}', [{"a": '"}'}]),
        (b'{"a": 1e3, "b": 99999999999999999999}', [{"a": 1000.0, "b": 1e20}]),
        (b"18446744073709551615 -9223372036854775808 ", [(1 << 64) - 1, -(1 << 63)]),
        (b'{"a": 1, "a": 2}', ["error: JSON parse error, duplicate key"]),
        (b"{", []),
        (b"}", ["error: JSON parse error, expecting value"]),
        (b"\xff", ["error: JSON parse error, stray '\\uFFFD'"]),
        (b'{"a": "\xff{}', ["error: JSON parse error, stray '\\uFFFD'", {}]),
        (b'{"a": "\\\xff{}', ["error: JSON parse error, stray '\\uFFFD'", {}]),
        (b"12\xff{}", [12, "error: JSON parse error, stray '\\uFFFD'", {}]),
        (b'"\xc3("', ["error: JSON parse error, invalid UTF-8 sequence"]),
        (b"NaN ", ["error: JSON parse error, invalid keyword 'NaN'"]),
        (b"1e999 ", ["error: JSON parse error, invalid keyword '1e999'"]),
        (b"  \r\n\t ", []),
    ],
)
def test_values_and_errors(text: bytes, values: list[Any]) -> None:
    assert feed(text) == values
    assert feed(*(text[i : i + 1] for i in range(len(text)))) == values


def test_long_number_is_no_work_for_quadratic_conversion() -> None:
    assert feed(b"9" * 100_000 + b" ") == [f"error: JSON parse error, invalid keyword '{'9' * 40}'"]


def test_deep_nesting_is_refused_and_skipped_to_its_end() -> None:
    deep = b"[" * (MAX_NESTING + 5) + b"]" * (MAX_NESTING + 5)
    assert feed(deep + b"{}") == ["error: JSON nesting depth limit exceeded", {}]
    assert feed(b"[" * MAX_NESTING + b"]" * MAX_NESTING) != []


def test_long_message_is_refused_and_skipped_to_its_end() -> None:
    pieces = [b'{"a": "', *[b"x" * 1000] * 200, b'"}', b'{"b": 1}']
    assert feed(*pieces, limit=10_000) == ["error: JSON token size limit exceeded", {"b": 1}]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=60)
@given(st.lists(JSON, max_size=4), st.integers(1, 9))
def test_any_split_gives_the_same_values(values: list[Any], size: int) -> None:
    text = b"".join(json.dumps(value).encode() + b"\n" for value in values)
    assert feed(*(text[i : i + size] for i in range(0, len(text), size))) == values


@settings(max_examples=100)
@given(st.binary(max_size=60))
def test_anything_ends_in_values_or_errors(text: bytes) -> None:
    assert feed(text + b"\xff")[-1:] != [{}]
    assert feed(text, b'\xff{"end": 1}')[-1] == {"end": 1}
