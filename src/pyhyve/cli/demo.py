"""`pyhyve demo`: boots a guest, runs commands over its console, shows what it printed, powers it off."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from pyhyve.cli.guest import reporter
from pyhyve.guest import builder
from pyhyve.guest.console import ConsoleError, GuestConsole
from pyhyve.support.errors import ExitStatus, InputError, UserError

if TYPE_CHECKING:
    import argparse

COMMANDS = (
    "uname -srvm",
    "grep -m1 'model name' /proc/cpuinfo",
    "free -m | head -2",
    "ls /sys/bus/pci/devices",
    "echo 'scale=20; 4*a(1)' | bc -l",
    "for n in 3 2 1; do echo $n; sleep 1; done; echo lift-off",
)
BOOT_TIMEOUT_S = 300.0
"""The first boot on a host may have to build the CPU engine's code cache; it shows its progress on standard error."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--accel", default="auto", metavar="auto|kvm|jit", help="what runs the guest (default: auto)")
    parser.add_argument("--memory", default="512M", metavar="SIZE", help="guest memory (default: 512M)")


def run(arguments: argparse.Namespace) -> int:
    """Build the guest if need be, then show it at work."""
    from rich.console import Console
    from rich.markup import escape

    if arguments.accel not in {"auto", "kvm", "jit"}:
        msg = f"--accel {arguments.accel}: unknown (use auto, kvm or jit)"
        raise InputError(msg)
    screen = Console(highlight=False)

    def warn(message: str) -> None:
        screen.print(f"[yellow]note:[/] {escape(message)}")

    screen.rule("[bold]pyhyve[/]: a Linux guest in pure Python")
    guest = builder.build_guest(builder.GuestSpec(), reporter(), warn)
    screen.print(f"guest     {guest.release}, from {', '.join(f'{k} {v}' for k, v in guest.packages.items())}")
    command = [
        *(sys.executable, "-m", "pyhyve", "run"),
        *("--accel", arguments.accel, "--memory", arguments.memory),
        *("--kernel", str(guest.kernel), "--initrd", str(guest.initrd)),
        *("--append", "console=ttyS0 quiet"),
    ]
    screen.print(f"command   pyhyve {escape(' '.join(command[3:]))}", soft_wrap=True)
    start = time.monotonic()
    try:
        with GuestConsole(command, with_errors=False) as console:
            console.wait_ready(BOOT_TIMEOUT_S)
            screen.print(f"booted    in {time.monotonic() - start:.1f} s, from the command to a shell prompt")
            for line in COMMANDS:
                began = time.monotonic()
                output = console.run(line)
                screen.print(f"[bold green]pyhyve:~#[/] {escape(line)}  [dim]{time.monotonic() - began:.2f} s[/]")
                screen.print(escape(output.rstrip()))
            console.send_line("poweroff")
            status = console.wait_end()
    except ConsoleError as error:
        msg = f"the guest did not answer: {error}"
        raise UserError(msg) from error
    if status != ExitStatus.DONE:
        msg = f"the machine ended with exit status {status}"
        raise UserError(msg)
    screen.print(f"powered off, exit status {status}, {time.monotonic() - start:.1f} s in all")
    screen.rule("[bold green]done[/]")
    return ExitStatus.DONE
