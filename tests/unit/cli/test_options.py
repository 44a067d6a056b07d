from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyhyve.cli.options import existing_file, parse_pairs, parse_size, parse_switch
from pyhyve.support.errors import InputError
from pyhyve.support.option_lists import split_list

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("512M", 512 << 20),
        ("512", 512 << 20),
        ("2G", 2 << 30),
        ("2GiB", 2 << 30),
        ("1.5g", 3 << 29),
        ("1048576K", 1 << 30),
        ("4096B", 4096),
        ("0", 0),
    ],
)
def test_size_is_read(text: str, size_bytes: int) -> None:
    assert parse_size("--memory", text) == size_bytes


@pytest.mark.parametrize("text", ["", "M", "-1", "1e3M", "1.M", "12Q", "0x10", "٣", "9" * 40, "1.2.3", "5MM", "nan"])
def test_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not a size"):
        parse_size("--memory", text)


@given(st.text(max_size=12))
def test_size_of_any_text_is_a_number_or_refused(text: str) -> None:
    with contextlib.suppress(InputError):
        assert parse_size("--memory", text) >= 0


@given(
    st.lists(
        st.text(alphabet="ab=,", min_size=1).filter(lambda s: not s.startswith(",") and not s.endswith(",")), min_size=1
    )
)
def test_split_list_undoes_doubled_commas(parts: list[str]) -> None:
    assert split_list(",".join(part.replace(",", ",,") for part in parts)) == parts


def test_pairs_name_what_is_known() -> None:
    assert parse_pairs("--disk", ["format=raw"], {"format"}) == [("format", "raw")]
    with pytest.raises(InputError, match=r"--disk: 'size=1' is not one of format=…"):
        parse_pairs("--disk", ["size=1"], {"format"})


def test_switch_is_on_or_off() -> None:
    assert parse_switch("--disk", "readonly", "on")
    assert not parse_switch("--disk", "readonly", "off")
    with pytest.raises(InputError, match="readonly=yes: use on or off"):
        parse_switch("--disk", "readonly", "yes")


def test_existing_file_is_named_when_it_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--kernel .*/none: No such file"):
        existing_file("--kernel", str(tmp_path / "none"))
    with pytest.raises(InputError, match="is a directory"):
        existing_file("--kernel", str(tmp_path))
    with pytest.raises(InputError, match="not a file name"):
        existing_file("--kernel", "a\0b")
