"""DHCP and DNS for one network: dnsmasq's configuration as a text, its leases parsed, and the process.

Source: dnsmasq(8). Each network has a process of its own that listens on its bridge only.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyhyve.hostnet.errors import HostNetError
from pyhyve.hostnet.nft import find_program
from pyhyve.hostnet.spec import Mode

if TYPE_CHECKING:
    from pyhyve.hostnet.spec import NetworkSpec

LEASE_TIME = "1h"
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Lease:
    """One address given out; `expires` in seconds since 1970, 0 for never. `mac` is a DUID for IPv6."""

    expires: int
    mac: str
    address: str
    hostname: str


@dataclass(frozen=True, slots=True)
class Files:
    """Where one network's dnsmasq keeps its files."""

    directory: Path

    @property
    def configuration(self) -> Path:
        """What it reads."""
        return self.directory / "dnsmasq.conf"

    @property
    def pid(self) -> Path:
        """Its process id."""
        return self.directory / "dnsmasq.pid"

    @property
    def leases(self) -> Path:
        """What it gave out."""
        return self.directory / "leases"


def render(spec: NetworkSpec, files: Files, *, as_root: bool) -> str:
    """The configuration; `as_root` keeps the process from changing its user, which a user namespace does not allow."""
    lines = [
        f"# Network {spec.name}, made by pyhyve",
        f"interface={spec.bridge}",
        "except-interface=lo",
        "bind-dynamic",
        "no-hosts",
        "no-ping",
        "domain-needed",
        "bogus-priv",
        f"pid-file={files.pid}",
        f"dhcp-leasefile={files.leases}",
        "dhcp-authoritative",
        "dhcp-no-override",
        "dhcp-lease-max=4096",
    ]
    if as_root:
        lines += ["user=root", "group=root"]
    if spec.domain:
        lines += [f"domain={spec.domain}", f"local=/{spec.domain}/", "expand-hosts"]
    for given in spec.dhcp:
        host = spec.network_of(given.first)
        if host is None:
            continue
        if host.version == 4:
            lines.append(f"dhcp-range={given.first},{given.last},{host.network.netmask},{LEASE_TIME}")
        else:
            prefix = host.network.prefixlen
            lines += [f"dhcp-range={given.first},{given.last},{prefix},{LEASE_TIME}", "enable-ra"]
    if spec.mode is Mode.ISOLATED:
        # No way out: no default route, and no names of the outside.
        lines += ["no-resolv", "dhcp-option=option:router", "ra-param=*,0,0"]
    for kept in spec.reservations:
        address = str(kept.address) if kept.address.version == 4 else f"[{kept.address}]"
        name = f",{kept.hostname}" if kept.hostname else ""
        lines.append(f"dhcp-host={kept.mac.lower()},{address}{name}")
    lines += [f"host-record={','.join(host.names)},{host.address}" for host in spec.dns_hosts]
    lines += [f'txt-record={text.name},"{text.value}"' for text in spec.dns_texts]
    lines += [f"{option}={value}" if value else option for option, value in spec.served]
    if spec.mtu is not None:
        lines.append(f"dhcp-option=option:mtu,{spec.mtu}")
    return "\n".join(dict.fromkeys(lines)) + "\n"


def parse_leases(text: str) -> list[Lease]:
    """The leases in a lease file; lines that are none (`duid …`, damaged ones) are passed over."""
    found: list[Lease] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 5 or not (words[0].isascii() and words[0].isdigit()):
            continue
        expires, mac, address, hostname, client = words[:5]
        identity = client if ":" in address else mac
        found.append(Lease(int(expires), identity, address, "" if hostname == "*" else hostname))
    return found


def read_leases(files: Files) -> list[Lease]:
    """What the network's server has given out and not taken back."""
    try:
        text = files.leases.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    now = time.time()
    return [lease for lease in parse_leases(text) if lease.expires == 0 or lease.expires > now]


def _in_user_namespace() -> bool:
    """Whether only some user ids exist here (user_namespaces(7))."""
    try:
        return Path("/proc/self/uid_map").read_text(encoding="ascii").split() != ["0", "0", "4294967295"]
    except OSError:
        return False


def start(spec: NetworkSpec, files: Files) -> None:
    """Start the server; it serves when this returns. Raises HostNetError."""
    program = find_program("dnsmasq", "dnsmasq-base", "DHCP and DNS for guests need it, --no-dhcp does without")
    files.directory.mkdir(parents=True, exist_ok=True)
    files.configuration.write_text(render(spec, files, as_root=_in_user_namespace()), encoding="utf-8")
    try:
        result = subprocess.run(
            [program, f"--conf-file={files.configuration}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        msg = f"dnsmasq: {error}"
        raise HostNetError(msg) from error
    if result.returncode:
        lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
        reason = lines[-1].removeprefix("dnsmasq: ") if lines else f"exit status {result.returncode}"
        msg = f"dnsmasq on {spec.bridge}: {reason}"
        raise HostNetError(msg)


def running(files: Files) -> int | None:
    """The process id of the server, if it runs: its command line has to name our file."""
    marker = f"--conf-file={files.configuration}".encode()
    with suppress(OSError, ValueError):
        pid = int(files.pid.read_text(encoding="ascii"))
        if marker in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            return pid
    # The file is written last, or may be lost: look through all processes.
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if marker in path.read_bytes().split(b"\0"):
                return int(path.parent.name)
    return None


def stop(files: Files) -> None:
    """End the server, if it runs; its addresses are free then. Raises HostNetError when it does not end."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        while (pid := running(files)) is not None:
            try:
                process = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                if running(files) == pid:  # still: the descriptor is this process's
                    signal.pidfd_send_signal(process, number)
                # A process loses its command line first, then its sockets; its descriptor is readable after both.
                poller = select.poll()
                poller.register(process, select.POLLIN)
                if not poller.poll(STOP_TIMEOUT_S * 1000):
                    break
            except ProcessLookupError:
                continue
            except PermissionError:
                msg = f"dnsmasq (process {pid}): no permission to end it"
                raise HostNetError(msg) from None
            finally:
                os.close(process)
        else:
            return
    msg = f"dnsmasq (process {pid}) does not end"
    raise HostNetError(msg)
