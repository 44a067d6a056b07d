from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pyhyve.cli.option_parser import Usage, VerbParser
from pyhyve.image.opening import create_image
from pyhyve.support.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def parser() -> VerbParser:
    parser = VerbParser("pyhyve img verb", "does it")
    parser.add_argument("-f", dest="format", metavar="FMT", help="format")
    parser.add_argument("-p", dest="progress", action="store_true", help="progress")
    parser.add_argument("-q", dest="quiet", action="store_true", help="quiet")
    parser.add_argument("-o", dest="options", action="append", help="options")
    parser.add_argument("--output", choices=("human", "json"), default="human", help="how (%(default)s)")
    parser.add_argument("--object", action="append", help=None)
    parser.add_argument("-s", "--start-offset", default="0", help="where")
    parser.add_argument("--add", dest="actions", action="step")
    parser.add_argument("--merge", dest="actions", action="step_value")
    parser.exclude("progress", "quiet")
    parser.add_argument("filename")
    parser.add_argument("size", nargs="?")
    return parser


def test_options_and_names_come_in_any_order(parser: VerbParser) -> None:
    found = parser.parse_verb(["disk", "-pfqcow2", "-1G", "--out=json", "-o", "a=1", "-ob", "--start-offset", "5"])
    assert found is not None
    assert (found.filename, found.size, found.format, found.output) == ("disk", "-1G", "qcow2", "json")
    assert (found.progress, found.quiet, found.options, found.start_offset) == (True, False, ["a=1", "b"], "5")
    assert found.actions == found.object == []


def test_actions_keep_their_order(parser: VerbParser) -> None:
    found = parser.parse_verb(["--merge", "x", "--add", "--merge=y", "--", "-name"])
    assert found is not None
    assert found.actions == [("merge", "x"), ("add", None), ("merge", "y")]
    assert (found.filename, found.size) == ("-name", None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "filename is missing"),
        (["a", "b", "c"], "Unexpected argument: c"),
        (["-x"], "unrecognized option '-x'"),
        (["--frob"], "unrecognized option '--frob'"),
        (["--o"], "option '--o' is ambiguous"),
        (["-f"], "option '-f' needs a value"),
        (["--output", "xml", "a"], "--output must be one of human, json, not 'xml'"),
        (["-p", "-q", "a"], "Cannot mix progress, quiet"),
        (["--add=1"], "option '--add' takes no value"),
    ],
)
def test_wrong_usage_is_told(parser: VerbParser, words: list[str], message: str) -> None:
    with pytest.raises(Usage, match=message.replace("[", "\\[")):
        parser.parse_verb(words)


def test_option_stands_alone_or_takes_a_value() -> None:
    parser = VerbParser("pyhyve verb", "does it", abbreviated=False)
    parser.add_argument("--rng", nargs="?", const="kernel")
    parser.add_argument("--name")
    lines = ("", "--rng", "--rng FILE", "--rng --name x", "--rng=")
    found = [parser.parse_verb(line.split()) for line in lines]
    assert [one.rng for one in found if one] == [None, "kernel", "FILE", "kernel", ""]
    assert "--rng [RNG]" in parser.help_text()
    with pytest.raises(InputError, match=r"unrecognized option '--na' \(see pyhyve verb --help\)"):
        parser.parse_args(["--na", "x"])


def test_help_names_options_and_defaults(parser: VerbParser, capsys: pytest.CaptureFixture[str]) -> None:
    assert parser.parse_verb(["-p", "--help"]) is None
    shown = capsys.readouterr().out
    assert shown.startswith("usage: pyhyve img verb [OPTION…] filename [size]\n")
    assert "how (human)" in shown
    assert "--object" not in shown


@pytest.mark.parametrize(
    "verb", ["info DISK", "check DISK", "create -f qcow2 NEW 1G", "create -f qcow NEW 1G", "convert -O qcow2 DISK NEW"]
)
def test_short_verbs_load_little(verb: str, tmp_path: Path) -> None:
    create_image(str(tmp_path / "disk"), "qcow2", 1 << 20, {})
    code = (
        "import sys; before = set(sys.modules); from pyhyve.cli.main import main; main(); "
        "print(*sys.modules.keys() - before)"  # what the host's Python loads by itself is no matter
    )
    words = verb.replace("DISK", str(tmp_path / "disk")).replace("NEW", str(tmp_path / "new")).split()
    done = subprocess.run([sys.executable, "-c", code, "img", *words], capture_output=True, text=True, check=True)
    unwanted = {"typing", "enum", "argparse", "re", "json", "collections", "contextlib", "threading", "pathlib",
                "dataclasses", "functools"}  # fmt: skip
    assert unwanted & set(done.stdout.splitlines()[-1].split()) == set()


def test_img_starts_without_a_heavy_parser() -> None:
    code = "import sys; from pyhyve.cli.main import main; main(['img', '--help']); print('argparse' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
