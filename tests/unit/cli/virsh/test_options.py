from __future__ import annotations

import pytest

from pyhyve.cli.virsh.options import Problem, parse_options


def test_options_end_at_the_command() -> None:
    options = parse_options(["-c", "test:///default", "-rq", "list", "--all", "-t"])
    assert options.uri == "test:///default"
    assert options.read_only
    assert options.quiet
    assert not options.timing
    assert options.words == ["list", "--all", "-t"]


@pytest.mark.parametrize("words", [["--connect=u"], ["--connect", "u"], ["-cu"], ["-c", "u"]])
def test_option_values_may_be_written_in_four_ways(words: list[str]) -> None:
    assert parse_options(words).uri == "u"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--foo"], "unsupported option '--foo'. See --help."),
        (["-x"], "unsupported option '-x'. See --help."),
        (["-c"], "option '-c'/'--connect' requires an argument"),
        (["-k", "x"], "option --keepalive-interval takes a numeric argument"),
        (["-e", "abc"], "Invalid string 'abc' for escape sequence"),
    ],
)
def test_options_wrong_are_explained(words: list[str], problem: str) -> None:
    with pytest.raises(Problem) as caught:
        parse_options(words)
    assert str(caught.value) == problem
