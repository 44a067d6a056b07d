"""`pyhyve demo`: three machines on the bridge br100; everyone pings everyone, the host logs in to each by ssh."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pyhyve.cli import demo_namespace
from pyhyve.cli.demo_daemon import open_lab
from pyhyve.cli.demo_lab import BRIDGE, HOST_ADDRESS, MEMBERS, PREFIX, Hardware, Lab, Member
from pyhyve.cli.demo_ping import ping
from pyhyve.cli.demo_signals import Interrupts
from pyhyve.cli.guest import reporter
from pyhyve.cli.options import parse_size
from pyhyve.guest import builder
from pyhyve.guest.ssh import ensure_keys
from pyhyve.hostnet.records import runtime_directory
from pyhyve.support.errors import ExitStatus, InputError, UserError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from rich.console import Console
    from rich.table import Table

    from pyhyve.guest.ssh import SshKeys

BOOT_TIMEOUT_S = 300.0
MIN_MEMORY_BYTES = 96 << 20
"""Debian's kernel, unpacked, and the guest's files."""
PING_COUNT = 3
PING_TIMEOUT_S = 10.0
LOGIN_TIMEOUT_S = 90.0
HOST = "host"
_POLL_S = 0.05
_RTT = re.compile(r"^(\S+) \S+ = [\d.]+/([\d.]+)/", re.MULTILINE)
_BRIDGE_FILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


@dataclass(slots=True)
class Results:
    """Round-trip times in milliseconds by (from, to), and the time of each login in seconds; None where it failed."""

    pings: dict[tuple[str, str], float | None] = field(default_factory=dict)
    logins: dict[str, float | None] = field(default_factory=dict)

    @property
    def good_pings(self) -> int:
        """How many pairs answered."""
        return sum(time_ms is not None for time_ms in self.pings.values())

    @property
    def good_logins(self) -> int:
        """How many logins worked."""
        return sum(time_s is not None for time_s in self.logins.values())

    @property
    def complete(self) -> bool:
        """Whether everything worked."""
        return self.good_pings == len(self.pings) and self.good_logins == len(self.logins)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("--keep", action="store_true", help="leave the machines running, and say how to reach them")
    add("--stop", action="store_true", help="remove everything that a demo left running")
    add("--rootless", action="store_true", help="in namespaces of its own (default without root)")
    add("--daemon", action="store_true", help="define and run them through a libvirt-compatible daemon")
    add("--accel", default="auto", metavar="auto|kvm|jit", help="what runs the guests (default: auto)")
    add("--memory", default="128M", metavar="SIZE", help="memory of each guest (default: 128M)")


def run(arguments: argparse.Namespace) -> int:
    """Do the exercise, or remove what an earlier one left."""
    from rich.console import Console

    if arguments.accel not in {"auto", "kvm", "jit"}:
        msg = f"--accel {arguments.accel}: unknown (use auto, kvm or jit)"
        raise InputError(msg)
    if parse_size("--memory", arguments.memory) < MIN_MEMORY_BYTES:
        msg = f"--memory {arguments.memory}: too little for the guests (at least {MIN_MEMORY_BYTES >> 20}M)"
        raise InputError(msg)
    screen = Console(highlight=False)
    # Before any namespace is entered: there, every user looks like root.
    directory = runtime_directory() / "demo"
    if arguments.stop:
        return stop(open_lab(directory), screen)
    earlier = open_lab(directory)
    return Demo(open_lab(directory, with_daemon=arguments.daemon), earlier, screen, arguments).run()


def stop(lab: Lab, screen: Console) -> int:
    """Remove everything, after asking a demo that is at work to end."""
    lab.interrupt_holder()
    with lab.held(wait_s=30.0):
        removed = lab.remove()
    screen.print(f"removed: {', '.join(removed)}" if removed else "nothing to remove")
    return ExitStatus.DONE


class Demo:
    """One run of the exercise."""

    def __init__(self, lab: Lab, earlier: Lab, screen: Console, arguments: argparse.Namespace) -> None:
        self.lab = lab
        self.earlier = earlier
        self.screen = screen
        self.accel: str = arguments.accel
        self.memory: str = arguments.memory
        self.keep: bool = arguments.keep
        self.rootless: bool = arguments.rootless or os.geteuid() != 0
        self.results = Results()

    def run(self) -> int:
        """Everything, from building the guest to removing the last trace."""
        self.screen.rule("[bold]pyhyve[/]: three machines on one bridge")
        guest, keys = self._guest()
        self._build_engine()
        begin = time.monotonic()
        with Interrupts() as interrupts, self.lab.held():
            if self.lab.leftovers() or self.earlier.leftovers():
                msg = "machines or the bridge of an earlier demo are still there: pyhyve demo --stop removes them"
                raise UserError(msg)
            if self.rootless:
                demo_namespace.enter()
            kept = False
            try:
                with interrupts.deferred():
                    self.lab.prepare(keys)
                    self.lab.make_network()
                where = "in namespaces of its own" if self.rootless else "on this host"
                self.screen.print(f"bridge    {BRIDGE} at {HOST_ADDRESS}/{PREFIX}, {where}")
                self._boot(Hardware(guest, self.accel, self.memory), interrupts)
                self._measure()
                self._show()
                kept = self.keep
            finally:
                interrupts.ignore()
                if not kept:
                    began = time.monotonic()
                    removed = ", ".join(self.lab.remove()) or "nothing"
                    self.screen.print(f"removed   {removed}, in {time.monotonic() - began:.1f} s")
        if kept:
            self._say_how_to_reach()
        return self._verdict(time.monotonic() - begin)

    # -- what is needed -----------------------------------------------------------------------------------------------

    def _guest(self) -> tuple[builder.Guest, SshKeys]:
        from rich.markup import escape

        keys = ensure_keys()
        if keys is None or shutil.which("ssh") is None:
            msg = "the demo logs in with OpenSSH, which is not installed (apt-get install openssh-client)"
            raise UserError(msg)

        def warn(message: str) -> None:
            self.screen.print(f"[yellow]note:[/] {escape(message)}")

        guest = builder.build_guest(builder.GuestSpec(), reporter(), warn)
        self.screen.print(f"guest     {guest.release}, {self.memory} of memory each")
        return guest, keys

    def _build_engine(self) -> None:
        """Compile the CPU engine now, once, and not in three machines at the same time."""
        from pyhyve.kvm.probe import probe

        if self.accel == "kvm" or (self.accel == "auto" and probe().usable):
            self.screen.print("engine    KVM")
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        from pyhyve.cpu.isa.x86.library import x86_library

        began = time.monotonic()
        columns = (TextColumn("engine    compiling, once"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.screen, transient=True, disable=not self.screen.is_terminal) as progress:
            task = progress.add_task("")
            built = False

            def report(done: int, total: int) -> None:
                nonlocal built
                built = True
                progress.update(task, completed=done, total=total)

            x86_library(report)
        took = f", compiled in {time.monotonic() - began:.1f} s" if built else ""
        self.screen.print(f"engine    translator (no KVM needed){took}")

    # -- the exercise -------------------------------------------------------------------------------------------------

    def _boot(self, hardware: Hardware, interrupts: Interrupts) -> None:
        """Start all machines side by side and wait until each takes logins."""
        began = time.monotonic()
        for member in MEMBERS:
            with interrupts.deferred():
                self.lab.start(member, hardware)
        stages = dict.fromkeys((member.name for member in MEMBERS), "starts")
        with self._stage_lines() as show:
            while any(stage != "takes logins" for stage in stages.values()):
                self.lab.check_alive()
                for member in MEMBERS:
                    stage = self._stage(member, stages[member.name])
                    if stage != stages[member.name]:
                        stages[member.name] = stage
                        show(member, stage, time.monotonic() - began)
                if time.monotonic() - began > BOOT_TIMEOUT_S:
                    late = ", ".join(name for name, stage in stages.items() if stage != "takes logins")
                    msg = f"no login prompt within {BOOT_TIMEOUT_S:.0f} s from {late}"
                    raise UserError(msg)
                time.sleep(_POLL_S)
        self.screen.print(f"booted    {len(MEMBERS)} machines side by side in {time.monotonic() - began:.1f} s")

    def _stage(self, member: Member, stage: str) -> str:
        """How far a machine has come."""
        match stage:
            case "starts" | "boots Linux" if self.lab.is_booted(member):
                return "is up"
            case "starts" if self.lab.log(member).exists():
                return "boots Linux"
            case "is up" if self.lab.answers(member):
                return "takes logins"
            case _:
                return stage

    @contextmanager
    def _stage_lines(self) -> Iterator[Stages]:
        """A line for each machine that changes in place on a terminal; elsewhere one for each that is done."""
        if not self.screen.is_terminal:
            yield (
                lambda member, stage, after_s: (
                    self.screen.print(f"{member.name}       {member.address} {stage} after {after_s:.1f} s")
                    if stage == "takes logins"
                    else None
                )
            )
            return
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.fields[who]}"), SpinnerColumn(), TextColumn("{task.description}"))
        with Progress(*columns, TimeElapsedColumn(), console=self.screen) as progress:
            tasks = {
                member.name: progress.add_task("starts", total=2, who=f"{member.name}       {member.address}")
                for member in MEMBERS
            }
            done = {"boots Linux": 0, "is up": 1, "takes logins": 2}

            def show(member: Member, stage: str, _after_s: float) -> None:
                progress.update(tasks[member.name], description=stage, completed=done[stage])

            yield show

    def _measure(self) -> None:
        """Logins and pings; the machines work at the same time."""
        nodes = {HOST: HOST_ADDRESS} | {member.name: member.address for member in MEMBERS}
        self.results.pings = {(a, b): None for a in nodes for b in nodes if a != b}
        self.results.logins = dict.fromkeys((member.name for member in MEMBERS), None)
        for member in MEMBERS:
            self.results.pings[HOST, member.name] = ping(member.address, PING_COUNT, PING_TIMEOUT_S)
        with ThreadPoolExecutor(len(MEMBERS)) as pool:
            list(pool.map(lambda member: self._log_in(member, nodes), MEMBERS))

    def _log_in(self, member: Member, nodes: dict[str, str]) -> None:
        """One login with a command, then one that pings the others from there."""
        began = time.monotonic()
        if self._ssh(member, "hostname").strip() == member.name:
            self.results.logins[member.name] = time.monotonic() - began
        others = " ".join(f"{name}:{address}" for name, address in nodes.items() if name != member.name)
        wait_s = int(PING_TIMEOUT_S)
        script = (
            f"for other in {others}; do ping -q -c {PING_COUNT} -i 0.2 -W {wait_s} ${{other#*:}} >/tmp/ping &&"
            " echo ${other%:*} $(tail -n 1 /tmp/ping | cut -d ' ' -f 2-); done"
        )
        for other, mean_ms in _RTT.findall(self._ssh(member, script)):
            self.results.pings[member.name, other] = float(mean_ms)

    def _ssh(self, member: Member, command: str) -> str:
        """What `command` prints in a machine; empty when it cannot be asked."""
        try:
            result = subprocess.run(
                ["ssh", "-F", str(self.lab.ssh_config), member.name, command],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=LOGIN_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return result.stdout

    # -- what is told -------------------------------------------------------------------------------------------------

    def _table(self) -> Table:
        from rich.table import Table

        nodes = {HOST: HOST_ADDRESS} | {member.name: member.address for member in MEMBERS}
        table = Table(title="round trips in ms, from the row to the column", title_justify="left")
        table.add_column("ping")
        for name, address in nodes.items():
            table.add_column(f"{name}\n{address}", justify="right")
        table.add_column("ssh login\nfrom the host", justify="right")
        for source in nodes:
            cells = ["·" if source == target else _cell(self.results.pings[source, target]) for target in nodes]
            login = "" if source == HOST else _cell(self.results.logins[source], "ok, {:.2f} s")
            table.add_row(source, *cells, login)
        return table

    def _show(self) -> None:
        self.screen.print(self._table())
        filtered = _BRIDGE_FILTER.is_file() and _BRIDGE_FILTER.read_text().strip() == "1"
        if self.results.good_pings < len(self.results.pings) and filtered and not self.rootless:
            text = "this host filters bridged packets (bridge-nf-call-iptables, as Docker sets it): try --rootless"
            self.screen.print(f"[yellow]note:[/] {text}")

    def _say_how_to_reach(self) -> None:
        prefix = ""
        if self.rootless:
            prefix = f"nsenter --preserve-credentials -U -n -t {self.lab.machine_pids()[0]} "
        for member in MEMBERS:
            command = f"{prefix}ssh -F {self.lab.ssh_config} {member.name}"
            self.screen.print(f"{member.name}       {command}", soft_wrap=True)
        if self.lab.uri is not None:
            self.screen.print(f"virsh     {prefix}virsh -c '{self.lab.uri}' list", soft_wrap=True)
        self.screen.print("stop      pyhyve demo --stop")

    def _verdict(self, took_s: float) -> int:
        results = self.results
        text = (
            f"{results.good_pings}/{len(results.pings)} pings, "
            f"{results.good_logins}/{len(results.logins)} ssh logins, {took_s:.1f} s in all"
        )
        self.screen.rule(f"[bold {'green' if results.complete else 'red'}]{text}[/]")
        return ExitStatus.DONE if results.complete else ExitStatus.FAILED


if TYPE_CHECKING:
    from collections.abc import Callable

    Stages = Callable[[Member, str, float], None]


def _cell(value: float | None, form: str = "{:.1f}") -> str:
    return "[bold red]no[/]" if value is None else f"[green]{form.format(value)}[/]"
