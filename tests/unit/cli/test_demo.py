from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from pyhyve.cli import demo_lab
from pyhyve.cli.demo import Results
from pyhyve.cli.demo_lab import Lab
from pyhyve.cli.demo_ping import checksum, is_reply, request
from pyhyve.cli.demo_signals import Interrupts
from pyhyve.cli.main import main
from pyhyve.support.errors import ExitStatus, UserError

if TYPE_CHECKING:
    from pathlib import Path


def test_request_has_a_valid_checksum() -> None:
    assert checksum(request(0x1234, 7)) == 0
    assert checksum(b"\x00\x01\xf2\x03\xf4\xf5\xf6\xf7") == 0x220D  # RFC 1071, section 3: the sum is ddf2
    assert checksum(b"\x01") == checksum(b"\x01\x00")


def test_is_reply_takes_only_the_answer_to_its_request() -> None:
    answer = bytes([0x45]) + bytes(19) + struct.pack(">BBHHH", 0, 0, 0, 0x1234, 7)
    assert is_reply(answer, 0x1234, 7)
    assert not is_reply(answer, 0x1234, 8)
    assert not is_reply(bytes([0x45]) + bytes(19) + request(0x1234, 7), 0x1234, 7)
    assert not is_reply(answer[:24], 0x1234, 7)
    assert not is_reply(b"", 0x1234, 7)


def test_results_count_what_worked() -> None:
    results = Results({("a", "b"): 1.0, ("b", "a"): None}, {"a": 0.0})
    assert (results.good_pings, results.good_logins, results.complete) == (1, 1, False)
    results.pings["b", "a"] = 0.0
    assert results.complete


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupt_is_raised_once(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupts():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_deferred_interrupt_waits_for_the_end_of_the_block() -> None:
    steps: list[str] = []

    def work(interrupts: Interrupts) -> None:
        with interrupts.deferred():
            os.kill(os.getpid(), signal.SIGINT)
            steps.append("done")
        steps.append("never")

    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):
        work(interrupts)
    assert steps == ["done"]


def test_ignored_interrupts_do_nothing() -> None:
    with Interrupts() as interrupts:
        interrupts.ignore()
        os.kill(os.getpid(), signal.SIGINT)


def test_lab_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    with (
        Lab(tmp_path / "demo").held(),
        pytest.raises(UserError, match="another demo is at work"),
        Lab(tmp_path / "demo").held(),
    ):
        pass
    with Lab(tmp_path / "demo").held():
        pass


def test_lab_interrupts_the_process_that_holds_it(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.interrupt_holder()
    program = (
        "import sys, time, pathlib; from pyhyve.cli.demo_lab import Lab\n"
        "with Lab(pathlib.Path(sys.argv[1])).held():\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    with holder, holder.stdout:
        assert holder.stdout.readline() == b"held\n"
        lab.interrupt_holder()
        assert holder.wait(60) == -signal.SIGTERM


def test_lab_ignores_the_process_id_of_a_demo_that_is_gone(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as bystander:
        (tmp_path / "lock").write_text(str(bystander.pid))
        Lab(tmp_path).interrupt_holder()
        assert bystander.poll() is None
        bystander.kill()


def test_lab_finds_and_ends_machines_by_their_console(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    console = f"file:{tmp_path}/vm2.log"
    left_over = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", "run", "--console", console], start_new_session=True
    )
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "run", "--console", f"{console}0"])
    # Reaped when it ends, as a process whose parent was killed is.
    lab._children.append(left_over)
    try:
        # A new process has an empty command line for a moment.
        deadline = time.monotonic() + 60
        while not lab.machine_pids():
            assert time.monotonic() < deadline
        assert lab.machine_pids() == [left_over.pid]
        assert lab.leftovers()
        assert lab.remove() == ["1 machine"]
        assert left_over.poll() == -signal.SIGTERM
        assert not lab.leftovers()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_lab_leaves_machines_of_containers_alone(tmp_path: Path) -> None:
    """What has another mount namespace means another file by the same name."""
    program = "import time; print('runs', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", program, "run", "--console", f"file:{tmp_path}/vm1.log"]
    contained = subprocess.Popen(["unshare", "--map-root-user", "--mount", *command], stdout=subprocess.PIPE)
    assert contained.stdout is not None
    with contained, contained.stdout:
        if contained.stdout.readline() != b"runs\n":
            pytest.skip("no namespaces here")
        assert not Lab(tmp_path).leftovers()
        assert Lab(tmp_path).remove() == []
        assert contained.poll() is None
        contained.kill()


def test_lab_keeps_only_the_lock_file(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    with lab.held():
        (tmp_path / "net").mkdir()
        (tmp_path / "net" / "x").write_text("")
        (tmp_path / "vm1.log").write_text("")
        assert lab.remove() == []
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]
        descriptor = os.open(tmp_path / "lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)


def test_members_have_addresses_and_macs_of_their_own() -> None:
    assert [member.address for member in demo_lab.MEMBERS] == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
    assert len({member.mac for member in demo_lab.MEMBERS}) == 3


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--memory", "abc"], "--memory abc: not a size (write 512M or 2G)"),
        (["--memory", "64M"], "--memory 64M: too little for the guests (at least 96M)"),
        (["--accel", "tcg"], "--accel tcg: unknown (use auto, kvm or jit)"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(
    options: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", *options]) == ExitStatus.USAGE
    assert capsys.readouterr() == ("", f"pyhyve demo: {line}\n")
