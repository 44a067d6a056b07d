"""`pyhyve doctor`: what this host offers, and how to get what is missing."""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from pyhyve.support.cache import cache_root
from pyhyve.support.errors import ExitStatus

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

CAP_NET_ADMIN = 12
"""Bit number (linux/capability.h)."""
GIB = 1 << 30
LOW_DISK_BYTES = GIB
LOW_MEMORY_BYTES = GIB


class State(StrEnum):
    """How well something works here."""

    OK = "ok"
    LIMITED = "limited"
    """Works in part, or not for this user."""
    MISSING = "missing"
    """Not here; pyhyve works without it."""
    BROKEN = "broken"
    """Not here, and pyhyve needs it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `fix` says how to get it, or is empty."""

    name: str
    state: State
    detail: str
    fix: str = ""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def package_hint(package: str) -> str:
    """How to install a Debian package."""
    prefix = "" if os.geteuid() == 0 else "sudo "
    return f"{prefix}apt-get install {package}"


def has_capability(number: int) -> bool:
    """Whether this process has a capability in effect (proc(5): CapEff)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value, 16) >> number & 1)
    return False


def check_python() -> Finding:
    """The interpreter and the machine it runs on."""
    detail = f"Python {platform.python_version()} on Linux {platform.release()}, {platform.machine()}"
    return Finding("python", State.OK, detail)


def check_llvm() -> Finding:
    """What the emulator compiles with."""
    try:
        detail = f"llvmlite {metadata.version('llvmlite')}"
    except metadata.PackageNotFoundError:
        return Finding("llvm", State.BROKEN, "llvmlite is not installed", "pip install llvmlite")
    if platform.machine() != "x86_64":
        return Finding("llvm", State.LIMITED, f"{detail}; the x86-64 emulator is made for x86-64 hosts")
    return Finding("llvm", State.OK, f"{detail}: the emulator works (--accel jit)")


def check_accelerator() -> Finding:
    """What `--accel auto` takes here, and why."""
    from pyhyve.kvm.probe import cached_probe

    found = cached_probe()
    why = found.reason.partition(": join")[0]
    if found.usable:
        return Finding("accel", State.OK, f"--accel auto takes KVM: {why}")
    return Finding("accel", State.OK, f"--accel auto takes the emulator: {why}")


def check_kvm() -> Finding:
    """Which kind of KVM there is, found out by running a few instructions on it."""
    from pyhyve.kvm.probe import KvmKind, cached_probe

    found = cached_probe()
    if found.usable:
        return Finding("kvm", State.OK, f"{found.reason} (--accel kvm)")
    reason, _, fix = found.reason.partition(": ")
    if found.kind is KvmKind.SOFTWARE:
        return Finding("kvm", State.LIMITED, f"{found.reason}; kernels run on the emulator (--accel jit)")
    return Finding("kvm", State.LIMITED if found.present else State.MISSING, reason, fix)


def check_vhost() -> Finding:
    """Whether the kernel can move packets between taps and guests on KVM."""
    path = "/dev/vhost-net"
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        fix = "load the kernel module vhost_net (modprobe vhost_net)" if error.errno == errno.ENOENT else "run as root"
        return Finding("vhost", State.MISSING, f"{path}: {error.strerror}; packets take the way through pyhyve", fix)
    return Finding("vhost", State.OK, f"{path} opens: taps of machines on KVM use it")


def check_tap() -> Finding:
    """Tap devices."""
    path = "/dev/net/tun"
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Finding("tap", State.MISSING, f"{path}: {error.strerror}", "load the kernel module tun (modprobe tun)")
    if not has_capability(CAP_NET_ADMIN):
        return Finding("tap", State.LIMITED, f"{path} opens, but making a tap needs CAP_NET_ADMIN", "run as root")
    return Finding("tap", State.OK, f"{path} opens")


def check_bridge() -> Finding:
    """Ethernet bridges."""
    if not has_capability(CAP_NET_ADMIN):
        detail = "making a bridge needs CAP_NET_ADMIN; --net user works without"
        return Finding("bridge", State.LIMITED, detail, "run as root")
    release = Path("/lib/modules", platform.release())
    listed = [release / "modules.builtin", release / "modules.dep"]
    known = any("/bridge.ko" in path.read_text() for path in listed if path.is_file())
    if Path("/sys/module/bridge").exists() or known:
        return Finding("bridge", State.OK, "this kernel has bridges")
    return Finding(
        "bridge", State.LIMITED, "may work: bridges are not loaded, and this kernel's modules are not listed"
    )


def check_program(program: str, package: str, use: str) -> Callable[[], Finding]:
    """A check for a host program."""

    def check() -> Finding:
        path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if path is None:
            return Finding(program, State.MISSING, f"not installed ({use})", package_hint(package))
        return Finding(program, State.OK, f"{path} ({use})")

    return check


def check_cache() -> Finding:
    """Where compiled code and guests are kept."""
    root = cache_root()
    existing = next(path for path in (root, *root.parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        return Finding("cache", State.LIMITED, f"{root} cannot be written: starts are slow", "set XDG_CACHE_HOME")
    free = shutil.disk_usage(existing).free
    detail = f"{root}, {free / GIB:.1f} GiB free"
    if free < LOW_DISK_BYTES:
        return Finding("cache", State.LIMITED, detail, "make room: guests and compiled code need some 300 MB")
    return Finding("cache", State.OK, detail)


def check_memory() -> Finding:
    """Memory for guests."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
    available = int(fields.get("MemAvailable", "0 kB").split()[0]) << 10
    detail = f"{available / GIB:.1f} GiB available, {len(os.sched_getaffinity(0))} CPUs"
    return Finding("memory", State.OK if available >= LOW_MEMORY_BYTES else State.LIMITED, detail)


def check_guests() -> Finding:
    """Whether guests can be built."""
    from pyhyve.guest.builder import list_guests
    from pyhyve.guest.repository import AptRepository, host_sources

    names = ", ".join(guest.name for guest in list_guests())
    if AptRepository.is_usable() or host_sources():
        return Finding("guests", State.OK, f"built: {names}" if names else "none yet: pyhyve guest build")
    detail = f"no Debian package sources here; built: {names or 'none'}"
    return Finding("guests", State.LIMITED, detail, "pyhyve guest build --mirror URL")


CHECKS: tuple[Callable[[], Finding], ...] = (
    check_python,
    check_llvm,
    check_accelerator,
    check_kvm,
    check_memory,
    check_cache,
    check_guests,
    check_tap,
    check_vhost,
    check_bridge,
    check_program("nft", "nftables", "NAT for guest networks"),
    check_program("dnsmasq", "dnsmasq-base", "DHCP and DNS for guest networks"),
    check_program("passt", "passt", "a user network beside the built-in one"),
    check_program("ip", "iproute2", "a look at networks"),
    check_program("gpgv", "gpgv", "checks the signatures of package archives"),
    check_program("qemu-system-x86_64", "qemu-system-x86", "the peer in tests and benchmarks"),
    check_program("qemu-img", "qemu-utils", "the peer in image tests"),
)


def run(arguments: argparse.Namespace) -> int:
    """Look at everything; 1 when something that pyhyve needs is missing."""
    findings = [check() for check in CHECKS]
    broken = any(finding.state is State.BROKEN for finding in findings)
    if arguments.json:
        print(json.dumps({"ok": not broken, "checks": [asdict(finding) for finding in findings]}))
    else:
        show(findings)
    return ExitStatus.FAILED if broken else ExitStatus.DONE


def show(findings: list[Finding]) -> None:
    """Print a table for people."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    colours = {State.OK: "green", State.LIMITED: "yellow", State.MISSING: "cyan", State.BROKEN: "red"}
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        detail = escape(finding.detail) + (f"\n→ {escape(finding.fix)}" if finding.fix else "")
        table.add_row(finding.name, f"[{colours[finding.state]}]{finding.state}[/]", detail)
    Console(highlight=False).print(table)
