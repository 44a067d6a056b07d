"""The daemon against libvirtd: python3-libvirt asks both the same, with one client and with eight."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.harness import Case, Plan, Sample
from benchmarks.rpc_daemons import SYSTEM_PYTHON, Daemon, require_peers, start_libvirtd, start_ours
from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

SUMMARY = "calls to the daemon"
DOMAINS: Final = 1000
CLIENTS: Final = 8
STREAM_MIB: Final = 256
TIMEOUT_S: Final = 900
_MACHINE: Final = "bench-0"
_CLIENT: Final = Path(__file__).parent / "rpc_client.py"
_TEST: Final = "test+unix:///default"
_QEMU: Final = "qemu:///system"
_QEMU_DOMAIN: Final = """<domain type='qemu'><name>NAME</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<serial type='null'/><memballoon model='none'/></devices></domain>"""


def _ask(daemon: Daemon, base: str, job: str, *words: object) -> Sample:
    """Do a job of the client's; the figure is in microseconds. Raises UserError where it fails."""
    done = subprocess.run(
        [SYSTEM_PYTHON, str(_CLIENT), job, f"{base}?socket={daemon.socket}", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        msg = f"{job} on {daemon.socket}: {done.stderr.strip()[-300:]!r}"
        raise UserError(msg)
    answer = json.loads(done.stdout)
    return Sample(answer["us"], str(answer["result"]))


class _Bench:
    """Both daemons, and what was made in them so far."""

    def __init__(self) -> None:
        self.ours, self.peer = start_ours(), start_libvirtd()
        atexit.register(self._clear_up)  # before the daemons end: what was registered last is called first

    def _clear_up(self) -> None:
        """End the machines, which outlive their daemons."""
        for daemon in (self.ours, self.peer):
            with contextlib.suppress(UserError, subprocess.TimeoutExpired):
                _ask(daemon, _QEMU, "destroy", _MACHINE)

    @functools.cache  # noqa: B019 - one instance lives as long as the process
    def running_machine(self) -> None:
        """A machine of QEMU's in each."""
        for daemon in (self.ours, self.peer):
            _ask(daemon, _QEMU, "define", _QEMU_DOMAIN, 1)
            _ask(daemon, _QEMU, "start", _MACHINE)

    @functools.cache  # noqa: B019 - ditto
    def many(self) -> None:
        """A thousand domains in each."""
        for daemon in (self.ours, self.peer):
            _ask(daemon, _QEMU, "define", _QEMU_DOMAIN, DOMAINS)

    def case(self, name: str, base: str, job: str, *words: object, many: bool = False, share: float = 1.0) -> Case:
        """One case; what it needs is made when it runs first."""

        def side(daemon: Daemon) -> Callable[[], Sample]:
            def run() -> Sample:
                if base == _QEMU:
                    self.running_machine()
                if many:
                    self.many()
                return _ask(daemon, base, job, *words)

            return run

        return Case(f"{name} ({'test' if base == _TEST else 'qemu'})", side(self.ours), side(self.peer), share=share)

    def stream(self, job: str) -> Case:
        """A volume's bytes through the daemon."""

        def side(daemon: Daemon) -> Callable[[], Sample]:
            return lambda: _ask(daemon, _QEMU, job, daemon.directory / "pool", STREAM_MIB)

        return Case(f"{job} of {STREAM_MIB} MiB, per MiB", side(self.ours), side(self.peer))


def plan() -> Plan:
    """Small calls first; then with a thousand domains."""
    version = require_peers()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # an ordinary end, so that everything is cleared up
    bench = _Bench()
    cases = []
    for base in (_QEMU, _TEST):
        cases += [
            bench.case("info(), 1 client", base, "info", 4000, 1),
            bench.case(f"info(), {CLIENTS} clients", base, "info", 2000, CLIENTS),
            bench.case("list + info(), 1 client", base, "list-info", 2000, 1),
            bench.case(f"list + info(), {CLIENTS} clients", base, "list-info", 1000, CLIENTS),
        ]
    # not of libvirt's test driver, which begins anew for each connection
    cases += [
        bench.case(f"list of {DOMAINS} domains", _QEMU, "list", 10, 1, many=True),
        bench.case(f"all statistics of {DOMAINS} domains", _QEMU, "stats", 5, 1, many=True),
        bench.case("info(), 99th percentile beside those statistics", _QEMU, "beside", 1500, many=True, share=0.6),
    ]
    cases += [bench.stream("upload"), bench.stream("download")]
    return Plan(
        work="calls of python3-libvirt over a unix socket",
        unit="µs per call",
        peer_name="libvirtd",
        cases=cases,
        versions={"libvirt": version},
    )
