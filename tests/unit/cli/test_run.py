from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import tty
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.accel.cpu_models import CpuModel
from pyhyve.boot.linux import EntryMode
from pyhyve.cli import run
from pyhyve.cli.main import main, new_parser
from pyhyve.devices.error_policy import ErrorPolicy
from pyhyve.machine.config import (
    AccelChoice,
    Additions,
    BalloonConfig,
    ConsoleConfig,
    ConsoleKind,
    DiskConfig,
    MachineConfig,
    NetConfig,
    NetKind,
    PortConfig,
    PortForward,
    RngConfig,
    SerialBusConfig,
    VsockConfig,
)
from pyhyve.machine.outcome import Outcome, OutcomeKind
from pyhyve.support.errors import ExitStatus

if TYPE_CHECKING:
    from collections.abc import Callable


def parse(*words: str) -> MachineConfig:
    parser = new_parser("run")
    run.configure(parser)
    return run.configuration(parser.parse_args(words))


@pytest.fixture
def kernel(tmp_path: Path) -> str:
    path = tmp_path / "kernel"
    path.write_bytes(b"not really")
    return str(path)


def test_defaults_are_those_of_the_manual(kernel: str) -> None:
    config = parse("--kernel", kernel)
    assert config == MachineConfig(kernel=Path(kernel), append="console=ttyS0")
    assert (config.memory_bytes, config.cpus, config.accel) == (512 << 20, 1, AccelChoice.AUTO)


def test_every_option_reaches_the_configuration(kernel: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk,1.img"
    disk.touch()
    config = parse(
        *("--kernel", kernel, "--initrd", kernel, "--append", "quiet", "--accel", "jit", "--memory", "1G"),
        *("--disk", f"{tmp_path}/disk,,1.img,format=raw,readonly=on,snapshot=on,serial=S1", "--cdrom", str(disk)),
        *("--net", "user,forward=tcp:2222:22,forward=udp:127.0.0.1:53:53,mac=52:54:00:00:00:01"),
        *("--net", "bridge=br100", "--net", "none", "--console", "unix:/tmp/x", "--name", "a", "--timeout", "2.5"),
        *("--rng", "--balloon", "--channel", "agent=unix:/tmp/a", "--channel", "log=file:/tmp/l"),
        *("--vsock", "3=unix:/tmp/v", "--generation-id"),
        *("--cpu", "x86-64-v2,-popcnt", "--hugepages"),
        *("--entry", "pvh", "--boot", "dc", "--no-reboot", "--trace", "exits,bus", "--cpus", "2"),
    )
    assert config == MachineConfig(
        name="a",
        memory_bytes=1 << 30,
        cpus=2,
        accel=AccelChoice.JIT,
        kernel=Path(kernel),
        initrd=Path(kernel),
        append="quiet",
        boot_entry=EntryMode.PVH,
        huge_pages=True,
        cpu=CpuModel("x86-64-v2", removed=frozenset({"popcnt"})),
        disks=(
            DiskConfig(disk, "raw", readonly=True, snapshot=True, serial="S1"),
            DiskConfig(disk, readonly=True, is_cdrom=True),
        ),
        nets=(
            NetConfig(
                NetKind.USER,
                mac="52:54:00:00:00:01",
                forwards=(PortForward("tcp", 2222, 22), PortForward("udp", 53, 53, "127.0.0.1")),
            ),
            NetConfig(NetKind.BRIDGE, "br100"),
        ),
        extras=(
            RngConfig(),
            BalloonConfig(),
            SerialBusConfig(
                (
                    PortConfig(1, ConsoleConfig(ConsoleKind.UNIX, Path("/tmp/a")), "agent"),
                    PortConfig(2, ConsoleConfig(ConsoleKind.FILE, Path("/tmp/l")), "log"),
                )
            ),
            VsockConfig(3, Path("/tmp/v")),
        ),
        additions=Additions(devices=({"driver": "vmgenid", "guid": "auto"},)),
        console=ConsoleConfig(ConsoleKind.UNIX, Path("/tmp/x")),
        boot_order="dc",
        no_reboot=True,
        timeout_s=2.5,
        trace=frozenset({"exits", "bus"}),
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--memory", "0"], "--memory: 0 bytes is too little"),
        (["--memory", "999999T"], "more than a guest can address"),
        (["--memory", "lots"], "--memory lots: not a size"),
        (["--cpus", "0"], "--cpus: 0 is not in"),
        (["--cpus", "two"], "--cpus two: not a number"),
        (["--accel", "magic"], "--accel magic: unknown (use auto, kvm or jit)"),
        (["--cpu", "486"], "--cpu 486: unknown model (use host, max, x86-64-v2, x86-64-v3, qemu64)"),
        (["--cpu", "host,+warp"], "unknown feature 'warp'"),
        (["--entry", "128"], "--entry 128: unknown (use auto, pvh, 64, 32, 16)"),
        (["--initrd", "/nowhere"], "--initrd /nowhere: No such file"),
        (["--kernel", "/nowhere"], "--kernel /nowhere: No such file"),
        (["--kernel", "/"], "--kernel /: is a directory"),
        (["--disk", "/nowhere"], "--disk /nowhere: No such file"),
        (["--disk", "/dev/null,size=3"], "--disk: 'size=3' is not one of"),
        (["--disk", "/dev/null,readonly=maybe"], "use on or off"),
        (["--disk", "/dev/null,werror=maybe"], "werror=maybe: use report, stop, enospc, ignore"),
        (["--disk", "/dev/null,rerror=enospc"], "rerror=enospc: use report, stop, ignore"),
        (["--disk", "/dev/null,werror=stop"], "only with --qmp"),
        (["--rng", "/nowhere"], "--rng /nowhere: No such file"),
        (["--channel", "agent"], "--channel agent: write NAME=unix:PATH"),
        (["--channel", "agent=tcp:1"], "write NAME=unix:PATH"),
        (["--channel", f"{'n' * 256}=unix:/x"], "is not a name"),
        (["--vsock", "3"], "--vsock 3: write CID=unix:PATH"),
        (["--vsock", "x=unix:/x"], "--vsock x: not a number"),
        (["--vsock", "2=unix:/x"], "--vsock: 2 is not an address of a guest"),
        (["--net", "wifi"], "--net wifi: use user, bridge=NAME"),
        (["--net", "user=x"], "--net user=x: use user"),
        (["--net", "bridge"], "net: bridge needs a name"),
        (["--net", "user,forward=tcp:22"], "write forward=tcp:HOST_PORT:GUEST_PORT"),
        (["--net", "user,forward=sctp:1:2"], "unknown protocol"),
        (["--net", "user,forward=tcp:0:2"], "port 0 is not in"),
        (["--net", "tap=t0,forward=tcp:1:2"], "forward works with user only"),
        (["--net", "user,mac=01:00:00:00:00:00"], "multicast"),
        (["--console", "tty"], "--console tty: use stdio"),
        (["--console", "file:"], "--console file:: use stdio"),
        (["--boot", "x"], "'x' is not made of c, d and n"),
        (["--timeout", "0"], "not positive"),
        (["--timeout", "soon"], "--timeout soon: not a number"),
        (["--timeout", "nan"], "timeout"),
        (["--trace", "everything"], "--trace everything: unknown"),
        (["--append", "a\0b"], "NUL"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(
    words: list[str], message: str, kernel: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--kernel", kernel, *words]) == ExitStatus.USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pyhyve run: ")
    assert message in line


def test_nothing_to_boot_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == ExitStatus.USAGE
    assert "give --kernel FILE" in capsys.readouterr().err


def test_no_network_card_for_none(kernel: str) -> None:
    assert parse("--kernel", kernel, "--net", "none").nets == ()


def test_terminal_is_restored_after_an_exception() -> None:
    leader, follower = os.openpty()
    saved = os.dup(0)
    os.dup2(follower, 0)
    try:
        before = termios.tcgetattr(0)
        with contextlib.suppress(ZeroDivisionError), run.preserved_terminal():
            tty.setraw(0)
            assert termios.tcgetattr(0) != before
            raise ZeroDivisionError
        assert termios.tcgetattr(0) == before
    finally:
        os.dup2(saved, 0)
        for descriptor in (saved, leader, follower):
            os.close(descriptor)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_stops_the_machine_and_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    stops: list[int] = []
    with run.stopped_by_signals(lambda: stops.append(1), lambda: None):
        signal.raise_signal(number)
    assert stops == [1]
    assert signal.getsignal(number) == before


def test_second_signal_ends_the_process_at_once() -> None:
    child = os.fork()
    if child == 0:
        with run.stopped_by_signals(lambda: None, lambda: None):
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGTERM


class Machine:
    """Ends as it is told to."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def request_stop(self) -> None:
        pass

    def run(self) -> Outcome:
        return self.outcome


@pytest.fixture
def machine_that_ends(monkeypatch: pytest.MonkeyPatch) -> Callable[[Outcome], None]:
    def install(outcome: Outcome) -> None:
        builder: Any = types.ModuleType("pyhyve.machine.builder")
        builder.build = lambda _config, **_options: Machine(outcome)
        monkeypatch.setitem(sys.modules, "pyhyve.machine.builder", builder)

    return install


@pytest.mark.parametrize(
    ("outcome", "status", "lines"),
    [
        (Outcome(OutcomeKind.POWERED_OFF), 0, []),
        (Outcome(OutcomeKind.RESET, "the guest asked for a reset"), 0, []),
        (Outcome(OutcomeKind.TIMEOUT, "gave up after 1 s"), 1, ["pyhyve run: gave up after 1 s"]),
        (Outcome(OutcomeKind.TRIPLE_FAULT, "triple fault", "rip=0"), 1, ["rip=0", "pyhyve run: triple fault"]),
    ],
)
def test_outcome_becomes_exit_status_and_message(
    outcome: Outcome,
    status: int,
    lines: list[str],
    kernel: str,
    machine_that_ends: Callable[[Outcome], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine_that_ends(outcome)
    assert main(["run", "--kernel", kernel]) == status
    assert capsys.readouterr().err.splitlines() == lines


def test_disk_may_stop_the_machine_when_a_monitor_can_let_it_go_on(kernel: str) -> None:
    config = parse("--kernel", kernel, "--qmp", "unix:/tmp/q", "--disk", "/dev/null,werror=enospc,rerror=stop")
    assert config.disks == (
        DiskConfig(Path("/dev/null"), write_errors=ErrorPolicy.ENOSPC, read_errors=ErrorPolicy.STOP),
    )


def test_disk_of_another_format_is_named(kernel: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "text"
    path.write_text("no image\n")
    assert main(["run", "--kernel", kernel, "--disk", f"{path},format=qcow2"]) == ExitStatus.USAGE
    assert capsys.readouterr().err == f"pyhyve run: disk {path}: Image is not in qcow2 format\n"
