"""Network namespaces to make networks in: nothing outside of them is touched. Run as root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SEARCH_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
HERE = Path(__file__).parent
SOURCE = Path(__file__).parents[3] / "src"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.root)


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace that lives as long as process `pid`."""

    pid: int
    environment: dict[str, str]

    def try_run(self, *command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command in it."""
        return subprocess.run(
            ["nsenter", "-n", "-t", str(self.pid), *command],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=self.environment,
        )

    def run(self, *command: str, timeout_s: float = 60) -> str:
        """Run a command that has to succeed; gives what it printed."""
        result = self.try_run(*command, timeout_s=timeout_s)
        assert result.returncode == 0, f"{' '.join(command)}: {result.stderr}"
        return result.stdout

    def net(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`pyhyve net`."""
        return self.try_run(sys.executable, "-m", "pyhyve", "net", *words)

    def setup(self, script: str) -> None:
        """Run lines of `ip`."""
        for line in script.strip().splitlines():
            self.run("ip", *line.split())

    def state(self) -> dict[str, str]:
        """All that a network may change."""
        # Link-local addresses come and go with the state of a cable, and so does a word behind routes.
        addresses = {
            link["ifname"]: sorted(a["local"] for a in link["addr_info"] if a["scope"] != "link")
            for link in json.loads(self.run("ip", "-j", "addr"))
        }
        routes = self.run("ip", "route") + self.run("ip", "-6", "route")
        forwarding = (Path("/proc/sys/net/ipv4/ip_forward"), Path("/proc/sys/net/ipv6/conf/all/forwarding"))
        return {
            "addresses": json.dumps(addresses, sort_keys=True),
            "routes": "\n".join(
                sorted(r.strip().removesuffix(" linkdown") for r in routes.splitlines() if not r.startswith("fe80"))
            ),
            "rules": self.run("nft", "list", "ruleset"),
            **{str(path): self.run("cat", str(path)) for path in forwarding},
        }


@pytest.fixture
def new_namespace() -> Iterator[Callable[[], Namespace]]:
    """Makes namespaces that are gone after the test."""
    if os.geteuid() != 0:
        pytest.skip("making network namespaces needs root")
    for program, package in {"ip": "iproute2", "nsenter": "util-linux", "nft": "nftables"}.items():
        if shutil.which(program, path=SEARCH_PATH) is None:
            pytest.skip(f"{program} is not installed (apt-get install {package})")
    holders: list[subprocess.Popen[bytes]] = []

    def make() -> Namespace:
        holder = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec sleep 600"], stdout=subprocess.PIPE)
        holders.append(holder)
        assert holder.stdout is not None
        if not holder.stdout.readline():
            pytest.skip("no network namespaces here")
        namespace = Namespace(holder.pid, {**os.environ, "PATH": SEARCH_PATH, "PYTHONPATH": str(SOURCE)})
        namespace.run("ip", "link", "set", "lo", "up")
        return namespace

    yield make
    for holder in holders:
        records = Path("/run/pyhyve") / f"net-{Path(f'/proc/{holder.pid}/ns/net').stat().st_ino}"
        holder.kill()
        holder.communicate()
        shutil.rmtree(records, ignore_errors=True)


@pytest.fixture
def host(new_namespace: Callable[[], Namespace]) -> Namespace:
    """What plays the host."""
    return new_namespace()


@pytest.fixture
def guest(host: Namespace, new_namespace: Callable[[], Namespace]) -> Namespace:
    """What plays a guest: its `eth0` (52:54:00:00:00:09) is the other end of the host's `port0`."""
    other = new_namespace()
    host.setup(f"link add port0 type veth peer name eth0 address 52:54:00:00:00:09 netns {other.pid}")
    return other


@pytest.fixture
def dhcp_client() -> str:
    """The path of busybox, whose udhcpc plays the guest's."""
    if shutil.which("dnsmasq", path=SEARCH_PATH) is None:
        pytest.skip("dnsmasq is not installed (apt-get install dnsmasq-base)")
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is not installed (apt-get install busybox)")
    return busybox
