from __future__ import annotations

import pytest

from pyhyve.cli.virsh.output import cpu_list, parse_cpu_list, pretty_size, table_lines, tree_lines


def test_table_fits_its_columns() -> None:
    assert table_lines(["Id", "Name"], [["1", "long name"], ["-", "x"]]) == [
        " Id   Name",
        "-----------------",
        " 1    long name",
        " -    x",
    ]


def test_table_bare_has_rows_alone() -> None:
    assert table_lines(["Id", "Name"], [["1", "a"]], bare=True) == [" 1   a"]


def test_table_escapes_control_characters() -> None:
    assert table_lines(["Name"], [["a\nb\x1b"]], bare=True) == [" a\\x0ab\\x1b"]


def test_table_counts_wide_letters_twice() -> None:
    assert table_lines(["A", "B"], [["机", "x"]], bare=True)[0] == " 机   x"


@pytest.mark.parametrize(
    ("size", "shown"), [(0, (0, "B")), (1023, (1023, "B")), (1536, (1.5, "KiB")), (1 << 70, (1024, "EiB"))]
)
def test_pretty_size_picks_the_unit(size: int, shown: tuple[float, str]) -> None:
    assert pretty_size(size) == shown


@pytest.mark.parametrize("text", ["0", "0-3", "0,2", "1-2,5-7"])
def test_cpu_list_survives_its_bitmap(text: str) -> None:
    assert cpu_list(parse_cpu_list(text, 8), 8) == text


def test_cpu_list_takes_cpus_out() -> None:
    assert cpu_list(parse_cpu_list("0-3,^2", 8), 8) == "0-1,3"
    assert cpu_list(parse_cpu_list("r", 8), 8) == "0-7"


@pytest.mark.parametrize("text", ["x", "", "3-1", "-1", "1-", "^1-2"])
def test_cpu_list_malformed_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_cpu_list(text, 8)


def test_tree_shows_children_below_their_parents() -> None:
    assert tree_lines({"a": None, "b": "a", "c": "a", "d": "b", "e": "gone"}) == [
        "a",
        "  |",
        "  +- b",
        "  |   |",
        "  |   +- d",
        "  |     ",
        "  +- c",
        "    ",
        "e",
        "",
    ]
