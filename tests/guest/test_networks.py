"""Guests on networks: the demo, DHCP on a network of the host, and the user network."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyhyve.guest.ssh import SshKeys, ensure_keys
from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.guest.builder import Guest

    from .conftest import StartMachine

DEMO = (sys.executable, "-m", "pyhyve", "demo")
DEMO_TIMEOUT_S = 400
RENEWALS = 300
COUNTING_SCRIPT = r"printf '#!/bin/sh\n/etc/udhcpc.script $1; [ $1 = renew ] && echo >>/tmp/renewed\n' >/tmp/count"
# An answer that comes at once reaches the socket udhcpc asked with, which it does not read: it asks again after -T 1 s.
CLIENT = "chmod +x /tmp/count; udhcpc -i eth0 -n -T 1 -p /run/udhcpc.pid -s /tmp/count >/dev/null 2>&1"
RENEW = (
    "n=0; while [ $n -lt COUNT ]; do kill -USR1 $(cat /run/udhcpc.pid); n=$((n+1));"
    " while [ $(wc -l </tmp/renewed) -lt $n ]; do usleep 20000; done; done; wc -l /tmp/renewed"
)


@pytest.fixture(scope="module")
def keys(debian_6_1: Guest) -> SshKeys:
    found = ensure_keys()
    if found is None or shutil.which("ssh") is None:
        pytest.skip("OpenSSH's client is not installed (apt-get install openssh-client)")
    return found


@pytest.fixture
def demo(keys: SshKeys) -> Iterator[dict[str, str]]:
    """The environment of a demo in namespaces of its own; whatever it leaves is removed."""
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("/dev/net/tun cannot be opened")
    if subprocess.run(["unshare", "-Urn", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces here")
    stopped = subprocess.run([*DEMO, "--stop"], capture_output=True, check=False, timeout=DEMO_TIMEOUT_S)
    assert stopped.returncode == 0
    yield dict(os.environ)
    subprocess.run([*DEMO, "--stop"], capture_output=True, check=False, timeout=DEMO_TIMEOUT_S)


def machines() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        found += [word for word in words if re.fullmatch(r"file:.*/pyhyve/demo/vm\d\.log", word)]
    return found


def test_demo_shows_all_pings_and_logins_and_leaves_nothing(demo: dict[str, str]) -> None:
    links = sorted(Path("/sys/class/net").iterdir())
    result = subprocess.run(
        [*DEMO, "--rootless", "--accel", "jit"],
        capture_output=True,
        text=True,
        timeout=DEMO_TIMEOUT_S,
        check=False,
        env=demo,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "12/12 pings, 3/3 ssh logins" in result.stdout
    assert machines() == []
    assert sorted(Path("/sys/class/net").iterdir()) == links


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_demo_that_is_interrupted_is_removed(number: signal.Signals, status: int, demo: dict[str, str]) -> None:
    process = subprocess.Popen(
        [*DEMO, "--rootless", "--accel", "jit"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=demo
    )
    deadline = time.monotonic() + DEMO_TIMEOUT_S
    while len(machines()) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(60) == status
    if number is signal.SIGKILL:
        assert len(machines()) == 3
        stopped = subprocess.run([*DEMO, "--stop"], capture_output=True, text=True, check=True, timeout=60)
        assert "3 machines" in stopped.stdout
    assert machines() == []


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_user_network_gives_an_address_and_a_forwarded_ssh(
    debian_6_1: Guest, keys: SshKeys, start: StartMachine
) -> None:
    if shutil.which("passt") is None:
        pytest.skip("passt is not installed (apt-get install passt)")
    port = free_port()
    append = "console=ttyS0 quiet pyhyve.net=dhcp pyhyve.hostname=userland"
    try:
        console = start(debian_6_1, append, "--net", f"user,forward=tcp:127.0.0.1:{port}:22")
        console.wait_ready(240)
    except UserError as error:
        if "template interface" in str(error):
            pytest.skip("this host has no network for passt to copy")
        raise
    assert re.search(r"inet \d+\.\d+\.\d+\.\d+", console.run("ip -4 address show dev eth0"))
    login = subprocess.run(
        ["ssh", *keys.client_options(), "-p", str(port), "root@127.0.0.1", "hostname"],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (login.stdout, login.stderr) == ("userland\n", "")
    console.send_line("poweroff")
    assert console.wait_end() == 0


@pytest.fixture
def network(debian_6_1: Guest) -> Iterator[str]:
    """The name of a network of the host with DHCP."""
    if os.geteuid() != 0:
        pytest.skip("making a network needs root")
    if shutil.which("dnsmasq") is None or shutil.which("nft") is None:
        pytest.skip("dnsmasq or nft is not installed (apt-get install dnsmasq-base nftables)")
    name = f"pht{os.getpid()}"
    words = ["--mode", "isolated", "--address", "10.213.77.1/24", "--reserve", "52:54:00:00:77:09,10.213.77.9"]
    net = [sys.executable, "-m", "pyhyve", "net"]
    subprocess.run([*net, "create", name, *words], check=True, capture_output=True)
    yield name
    subprocess.run([*net, "delete", name], check=True, capture_output=True)


@pytest.mark.slow
def test_guest_renews_its_lease_again_and_again(debian_6_1: Guest, network: str, start: StartMachine) -> None:
    append = "console=ttyS0 quiet pyhyve.net=dhcp pyhyve.hostname=tenant"
    console = start(debian_6_1, append, "--net", f"bridge={network},mac=52:54:00:00:77:09")
    console.wait_ready(240)
    assert "inet 10.213.77.9/24" in console.run("ip -4 address show dev eth0")
    leases = subprocess.run(
        [sys.executable, "-m", "pyhyve", "net", "leases", network], capture_output=True, text=True, check=True
    )
    assert re.search(r"10\.213\.77\.9 +52:54:00:00:77:09 +tenant", leases.stdout)
    console.run("kill $(cat /run/udhcpc.pid); : >/tmp/renewed; sleep 0.2")
    console.run(COUNTING_SCRIPT)
    console.run(CLIENT)
    assert f"{RENEWALS} /tmp/renewed" in console.run(RENEW.replace("COUNT", str(RENEWALS)), 540)
    assert "inet 10.213.77.9/24" in console.run("ip -4 address show dev eth0")
    assert " 1 packets received" in console.run("ping -c 1 -W 60 10.213.77.1", 90)
