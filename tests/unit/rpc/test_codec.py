from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyhyve.rpc.codec import XdrError, codec
from pyhyve.rpc.procedures import BY_NAME
from pyhyve.rpc.values import Domain, StatsRecord, TypedParam
from pyhyve.rpc.xdr_types import Field, Type, parse_fields, parse_type

NAMES = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=20)
DOMAINS = st.builds(Domain, NAMES, st.binary(min_size=16, max_size=16), st.integers(-(2**31), 2**31 - 1))
PARAMS = st.one_of(
    st.builds(TypedParam, NAMES, st.just(1), st.integers(-(2**31), 2**31 - 1)),
    st.builds(TypedParam, NAMES, st.just(2), st.integers(0, 2**32 - 1)),
    st.builds(TypedParam, NAMES, st.just(4), st.integers(0, 2**64 - 1)),
    st.builds(TypedParam, NAMES, st.just(5), st.floats(allow_nan=False)),
    st.builds(TypedParam, NAMES, st.just(7), NAMES),
)


def test_field_lists_parse_into_types() -> None:
    assert parse_fields("a int, b str?, c bytes[7], d int{32}") == (
        Field("a", Type("int")),
        Field("b", Type("str", optional=True)),
        Field("c", Type("bytes", most=7)),
        Field("d", Type("int", exactly=32)),
    )
    assert parse_fields("") == ()
    with pytest.raises(ValueError, match="no type"):
        parse_type("int!")


def test_string_is_length_text_padding() -> None:
    assert codec("s str").encode("abcde") == b"\0\0\0\x05abcde\0\0\0"
    assert codec("s str").decode(b"\0\0\0\x05abcde\0\0\0").s == "abcde"


def test_characters_of_a_fixed_array_take_four_bytes_each() -> None:
    model = tuple(b"x86_64".ljust(32, b"\0"))
    data = codec("model int{32}, memory ulong").encode(model, 5)
    assert len(data) == 32 * 4 + 8
    assert codec("model int{32}, memory ulong").decode(data) == (model, 5)


@settings(max_examples=50, deadline=None)
@given(st.lists(DOMAINS, max_size=5), st.lists(PARAMS, max_size=5), st.none() | NAMES, st.binary(max_size=9))
def test_values_survive_encoding_and_decoding(
    domains: list[Domain], params: list[TypedParam], text: str | None, data: bytes
) -> None:
    fields = codec("records stats_record[9], domains domain[9], text str?, data bytes[9]")
    values = ([StatsRecord(domain, params) for domain in domains], domains, text, data)
    assert fields.decode(fields.encode(*values)) == values


@pytest.mark.parametrize(
    ("fields", "data"),
    [
        ("s str", b"\xff\xff\xff\xff"),
        ("s str", struct.pack(">I", (4 << 20) + 1) + bytes(8)),
        ("s str", b"\0\0\0\x05abcde"),
        ("s str", b"\0\0\0\x04a\0bc"),
        ("d domain[16384]", struct.pack(">I", 16384) + bytes(64)),
        ("d domain[2]", struct.pack(">I", 3) + bytes(200)),
        ("i int[4]", struct.pack(">I", 4) + bytes(12)),
        ("s str?", struct.pack(">I", 2)),
        ("p typed_param[4]", struct.pack(">III", 1, 0, 9) + bytes(8)),
        ("a int", bytes(3)),
        ("a int", bytes(5)),
        ("b bytes[4]", struct.pack(">I", 5) + bytes(8)),
    ],
)
def test_hostile_data_is_refused(fields: str, data: bytes) -> None:
    with pytest.raises(XdrError):
        codec(fields).decode(data)


@pytest.mark.parametrize(
    ("fields", "value"),
    [
        ("s str", None),
        ("s str", "a\0b"),
        ("s str", "x" * ((4 << 20) + 1)),
        ("u uuid", b"short"),
        ("i int", 2**31),
        ("i int", "1"),
        ("l int[2]", [1, 2, 3]),
        ("b bytes[2]", b"123"),
        ("p typed_param[2]", [TypedParam("x", 12, 1)]),
    ],
)
def test_values_that_do_not_fit_are_refused(fields: str, value: object) -> None:
    with pytest.raises(XdrError):
        codec(fields).encode(value)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(BY_NAME)), st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(name: str, data: bytes) -> None:
    row = BY_NAME[name]
    for fields in (row.args_codec, row.ret_codec):
        try:
            record = fields.decode(data)
        except XdrError:
            continue
        assert len(record) == len(fields.fields)
