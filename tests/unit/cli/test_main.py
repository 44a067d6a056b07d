from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.cli import main as cli
from pyhyve.support.errors import ExitStatus, InputError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable


def test_no_command_shows_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == ExitStatus.USAGE
    assert "usage: pyhyve COMMAND" in capsys.readouterr().err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == ExitStatus.DONE
    shown = capsys.readouterr().out
    assert all(name in shown for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = cli.main([name, "--help"])
    except SystemExit as ended:
        status = ended.code
    assert status == ExitStatus.DONE
    assert f"pyhyve {name} [" in capsys.readouterr().out.replace("VERB [", "[")


def test_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["frobnicate"]) == ExitStatus.USAGE
    assert capsys.readouterr().err.splitlines() == [
        f"pyhyve: no command 'frobnicate' (there are {', '.join(cli.COMMANDS)})"
    ]


def test_unknown_option_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--frobnicate"]) == ExitStatus.USAGE
    assert capsys.readouterr().err == "pyhyve run: unrecognized option '--frobnicate' (see pyhyve run --help)\n"
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor", "--frobnicate"])
    assert ended.value.code == ExitStatus.USAGE
    assert capsys.readouterr().err == (
        "pyhyve doctor: unrecognized arguments: --frobnicate (see pyhyve doctor --help)\n"
    )


def raising(error: BaseException) -> Callable[[Any], int]:
    def run(_arguments: object) -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("no\nluck"), 1, "pyhyve run: no luck"),
        (InputError("bad"), 2, "pyhyve run: bad"),
        (PermissionError(13, "Permission denied", "/x"), 1, "pyhyve run: /x: Permission denied"),
        (ZeroDivisionError("a"), 1, "pyhyve run: internal error: ZeroDivisionError: a (--debug shows where)"),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_error_is_one_line_and_a_traceback_only_for_debug(
    error: Exception,
    status: int,
    line: str,
    debug: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = SimpleNamespace(configure=lambda _parser: None, run=raising(error))
    monkeypatch.setattr(cli, "load_module", lambda _name: module)
    assert cli.main(["run", *(["--debug"] if debug else [])]) == status
    shown = capsys.readouterr().err
    assert shown.splitlines()[-1] == line
    assert ("Traceback" in shown) == debug


def test_ctrl_c_ends_as_a_signal_does(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(configure=lambda _parser: None, run=raising(KeyboardInterrupt()))
    monkeypatch.setattr(cli, "load_module", lambda _name: module)
    assert cli.main(["run"]) == 130


def test_reader_that_goes_away_is_not_an_error_message() -> None:
    script = f"{sys.executable} -m pyhyve --help | true; {sys.executable} -m pyhyve guest --help | true"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr


def test_output_that_cannot_be_written_is_one_line_and_a_failure() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "pyhyve", "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "pyhyve: standard output: No space left on device\n")


LEAVE = "import sys, pyhyve.cli.main as m; m.main = lambda: (print('told', flush=True), 3)[1]; {}; m.command()"


@pytest.mark.parametrize(
    ("first", "printed"),
    [
        ("", "told\n"),
        ("import atexit; atexit.register(print, 'tidied')", "told\ntidied\n"),
        ("import threading as t, time; t.Thread(target=lambda: (time.sleep(.1), print('bye'))).start()", "told\nbye\n"),
    ],
    ids=["nothing", "function", "thread"],
)
def test_command_ends_at_once_unless_something_waits_for_its_end(first: str, printed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVE.format(first or "pass")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, printed, "")


def test_start_up_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pyhyve.cli.main import main; main(['--version']); import pyhyve.cli.run;"
        "print(sorted({'llvmlite', 'rich', 'lxml', 'pyroute2', 'asyncio', 'pyhyve.cpu'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
