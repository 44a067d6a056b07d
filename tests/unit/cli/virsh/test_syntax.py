from __future__ import annotations

import pytest

import pyhyve.cli.virsh.verbs  # noqa: F401 - fills the table
from pyhyve.cli.virsh.registry import GROUPS, VERBS
from pyhyve.cli.virsh.syntax import Kind, SyntaxProblem, parse_usage, parse_words, scaled_bytes, split_line

USAGE = "<domain> <size#> [--live] [--mode <string>] [--code=<string>] [[--word] <string>]..."


def read(*words: str) -> object:
    return parse_words("v", parse_usage(USAGE), words)


def test_usage_line_declares_options() -> None:
    options = {option.name: option for option in parse_usage(USAGE)}
    assert options["domain"].required
    assert options["size"].kind is Kind.NUMBER
    assert options["live"].kind is Kind.SWITCH
    assert not options["mode"].by_name
    assert options["code"].by_name
    assert options["word"].kind is Kind.REST
    assert not options["word"].required


def test_usage_line_malformed_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot read"):
        parse_usage("<domain> [what]")


def test_words_fill_options_in_order_or_by_name() -> None:
    values = parse_words("v", parse_usage(USAGE), ["d", "--live", "5", "--code=c", "m", "w1", "w2"])
    assert values.text("domain") == "d"
    assert values.number("size") == 5
    assert values.flag("live")
    assert values.get("mode") == "m"
    assert values.get("code") == "c"
    assert values.words("word") == ["w1", "w2"]
    assert parse_words("v", parse_usage(USAGE), ["--size", "6", "d"]).text("domain") == "d"


def test_words_after_two_dashes_are_data() -> None:
    values = parse_words("v", parse_usage(USAGE), ["d", "5", "m", "--", "--live"])
    assert values.words("word") == ["--live"]
    assert not values.flag("live")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("d",), "command 'v' requires --size option"),
        (("d", "5", "--foo"), "command 'v' doesn't support option --foo"),
        (("d", "5", "--mode"), "expected syntax: --mode <string>"),
        (("d", "5", "--live", "--live"), "option --live already seen"),
        (("d", "5", "--live=1"), "invalid '=' after option --live"),
    ],
)
def test_words_wrong_are_explained(words: tuple[str, ...], problem: str) -> None:
    with pytest.raises(SyntaxProblem) as caught:
        read(*words)
    assert caught.value.args == (problem,)


def test_words_missing_are_all_named() -> None:
    with pytest.raises(SyntaxProblem) as caught:
        read()
    assert caught.value.args == ("command 'v' requires <domain> option", "command 'v' requires --size option")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5", 5 * 1024),
        ("5b", 5),
        ("5K", 5 << 10),
        ("5kib", 5 << 10),
        ("5KB", 5000),
        ("2GiB", 2 << 30),
        ("0x10", 16 * 1024),
        ("5x", None),
        ("", None),
        ("-5", None),
        ("5 M", 5 << 20),
    ],
)
def test_scaled_size_is_read(text: str, size: int | None) -> None:
    assert scaled_bytes(text, 1024) == size


@pytest.mark.parametrize("text", ["x", "", "1.5", "99999999999999999999999"])
def test_number_that_is_none_is_refused(text: str) -> None:
    values = parse_words("v", parse_usage(USAGE), ["d", text])
    with pytest.raises(SyntaxProblem, match=f"Numeric value '{text}' for <size> option"):
        values.number("size")


@pytest.mark.parametrize(
    ("line", "commands"),
    [
        ("a b", [["a", "b"]]),
        ("a 'b c' \"d e\"", [["a", "b c", "d e"]]),
        ("a; b\nc", [["a"], ["b"], ["c"]]),
        ("a b\\ c", [["a", "b c"]]),
        ("a # b", [["a"]]),
        ("; ;", []),
        ("a ''", [["a", ""]]),
    ],
)
def test_line_is_split_as_a_shell_does(line: str, commands: list[list[str]]) -> None:
    assert split_line(line) == commands


def test_every_verb_has_a_readable_usage_line_and_a_known_group() -> None:
    for entry in VERBS.values():
        names = [option.name for option in entry.options]
        assert len(names) == len(set(names)), entry.name
        assert entry.group in GROUPS
        assert entry.summary
