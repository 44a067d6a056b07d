"""`pyhyve net` with the kernel, nft, dnsmasq and busybox's DHCP client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Namespace

DHCP_SCRIPT = Path(__file__).parents[3] / "src/pyhyve/guest/udhcpc.sh"
MAC = "52:54:00:00:00:09"
SERVER = "import socket; s = socket.create_server(('', 80)); c = s.accept()[0]; c.send(b'hello'); c.close()"
DNS_HOLDER = (
    "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 53)); print(flush=True);"
    " time.sleep(60)"
)


def attach(host: Namespace, guest: Namespace, bridge: str) -> None:
    host.setup(f"link set port0 master {bridge}\nlink set port0 up")
    guest.setup("link set eth0 up")


def take_lease(guest: Namespace, busybox: str) -> str:
    """Ask for an address as a pyhyve guest does; gives it. resolv.conf is not touched."""
    script = DHCP_SCRIPT.read_text().replace("/etc/resolv.conf", "/dev/null")
    path = Path(f"/tmp/pyhyve-test-udhcpc-{os.getpid()}")
    path.write_text(script.replace("#!/bin/busybox sh", "#!/bin/sh"))
    path.chmod(0o700)
    try:
        guest.run(busybox, "udhcpc", "-i", "eth0", "-q", "-n", "-t", "10", "-x", "hostname:client", "-s", str(path))
    finally:
        path.unlink()
    shown = json.loads(guest.run("ip", "-j", "-4", "addr", "show", "dev", "eth0"))
    return str(shown[0]["addr_info"][0]["local"])


def created(host: Namespace, *words: str) -> None:
    result = host.net("create", *words)
    assert (result.returncode, result.stderr) == (0, "")


def test_nat_network_works_and_leaves_nothing(
    host: Namespace, guest: Namespace, new_namespace: Callable[[], Namespace], dhcp_client: str
) -> None:
    outside = new_namespace()
    host.setup(
        f"link add up0 type veth peer name eth0 netns {outside.pid}\naddr add 192.0.2.1/24 dev up0\nlink set up0 up"
    )
    outside.setup("addr add 192.0.2.2/24 dev eth0\nlink set eth0 up")
    before = host.state()
    created(
        host,
        *("lab", "--bridge", "lab0", "--address", "10.77.0.1/24", "--domain", "lab.test"),
        *("--reserve", f"{MAC},10.77.0.9,web", "--forward", "tcp:2299:10.77.0.9:22"),
    )
    attach(host, guest, "lab0")

    assert take_lease(guest, dhcp_client) == "10.77.0.9"
    leases = json.loads(host.net("leases", "lab", "--json").stdout)
    assert [(lease["mac"], lease["address"], lease["hostname"]) for lease in leases] == [(MAC, "10.77.0.9", "web")]
    assert "10.77.0.9" in guest.run(dhcp_client, "nslookup", "web.lab.test", "10.77.0.1")

    # Out, with the host's address: the outside has no route back to 10.77.0.0/24.
    guest.run(dhcp_client, "ping", "-c", "1", "-W", "30", "192.0.2.2")
    server = SERVER.replace("80", "22")
    for client, target in ((outside, "192.0.2.1"), (host, "127.0.0.1"), (host, "10.77.0.1")):
        with_server(guest, server, client, target, 2299)
    # In only through the forward.
    outside.setup("route add 10.77.0.0/24 via 192.0.2.1")
    assert connect(outside, "10.77.0.9", 22) == "refused"

    assert host.net("delete", "lab").stdout == "lab: removed\n"
    assert host.state() == before
    assert json.loads(host.net("list", "--json").stdout) == []
    assert not processes_with(f"net-{Path(f'/proc/{host.pid}/ns/net').stat().st_ino}")


def connect(client: Namespace, address: str, port: int) -> str:
    """What is heard from there, or `refused`."""
    program = (
        "import socket, sys\n"
        "try:\n    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)\n"
        "except OSError:\n    print('refused')\n"
        "else:\n    s.settimeout(50); print(s.recv(100).decode())"
    )
    return client.run(sys.executable, "-c", program, address, str(port)).strip()


def with_server(guest: Namespace, server: str, client: Namespace, address: str, port: int) -> None:
    process = subprocess.Popen(["nsenter", "-n", "-t", str(guest.pid), sys.executable, "-c", server])
    try:
        deadline = time.monotonic() + 60
        while (heard := connect(client, address, port)) == "refused":
            assert time.monotonic() < deadline, f"no answer through {address}:{port}"
        assert heard
    finally:
        process.kill()
        process.wait()


def processes_with(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if text in words:
            found.append(words)
    return found


def outside_of(host: Namespace, new_namespace: Callable[[], Namespace]) -> Namespace:
    """A machine beyond the host, 192.0.2.2 and 2001:db8::2, on the host's `up0`; it knows no way back by itself."""
    outside = new_namespace()
    host.setup(
        f"link add up0 type veth peer name eth0 netns {outside.pid}\naddr add 192.0.2.1/24 dev up0\n"
        "addr add 2001:db8::1/64 dev up0 nodad\nlink set up0 up"
    )
    outside.setup("addr add 192.0.2.2/24 dev eth0\naddr add 2001:db8::2/64 dev eth0 nodad\nlink set eth0 up")
    return outside


WHO_CALLS = (
    "import socket; s = socket.create_server(('::', 80), family=socket.AF_INET6, dualstack_ipv6=True);"
    " c, a = s.accept(); c.send(a[0].removeprefix('::ffff:').encode()); c.close()"
)


def caller_seen_by(server: Namespace, client: Namespace, address: str) -> str:
    """The address from which `server`, which has `address`, sees `client` call; `refused` when it does not."""
    process = subprocess.Popen(["nsenter", "-n", "-t", str(server.pid), sys.executable, "-c", WHO_CALLS])
    try:
        deadline = time.monotonic() + 60
        while not server.run("ss", "-Hltn", "sport = :80").strip():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return connect(client, address, 80)
    finally:
        process.kill()
        process.wait()


def test_routed_network_keeps_addresses_in_both_directions(
    host: Namespace, guest: Namespace, new_namespace: Callable[[], Namespace]
) -> None:
    outside = outside_of(host, new_namespace)
    before = host.state()
    created(host, "lab", "--mode", "routed", "--address", "10.81.0.1/24", "--address", "2001:db8:81::1/64", "--no-dhcp")
    attach(host, guest, "lab")
    guest.setup(
        "addr add 10.81.0.2/24 dev eth0\nroute add default via 10.81.0.1\n"
        "addr add 2001:db8:81::2/64 dev eth0 nodad\n-6 route add default via 2001:db8:81::1"
    )
    assert caller_seen_by(outside, guest, "192.0.2.2") == "refused", "the outside knows no way back yet"
    outside.setup("route add 10.81.0.0/24 via 192.0.2.1\n-6 route add 2001:db8:81::/64 via 2001:db8::1")
    assert caller_seen_by(outside, guest, "192.0.2.2") == "10.81.0.2"
    assert caller_seen_by(guest, outside, "10.81.0.2") == "192.0.2.2"
    assert caller_seen_by(outside, guest, "2001:db8::2") == "2001:db8:81::2"
    assert caller_seen_by(guest, outside, "2001:db8:81::2") == "2001:db8::2"
    # A guest may not send with an address that is not the network's.
    guest.setup("addr add 10.99.0.2/32 dev eth0")
    forged = guest.try_run("ping", "-c", "1", "-W", "2", "-I", "10.99.0.2", "192.0.2.2")
    assert forged.returncode != 0
    assert host.net("delete", "lab").returncode == 0
    assert host.state() == before


def test_nat_network_serves_ipv6(
    host: Namespace, guest: Namespace, new_namespace: Callable[[], Namespace], dhcp_client: str
) -> None:
    outside = outside_of(host, new_namespace)
    before = host.state()
    created(
        host,
        *("lab", "--address", "10.82.0.1/24", "--address", "fd82::1/64", "--domain", "lab.test"),
        *("--forward", "tcp:2280:[fd82::9]:80"),
    )
    for setting in ("accept_ra=2", "autoconf=1", "accept_dad=0"):
        guest.run("sysctl", "-qw", f"net.ipv6.conf.eth0.{setting}")
    attach(host, guest, "lab")
    deadline = time.monotonic() + 60
    while "default via fe80" not in guest.run("ip", "-6", "route"):
        assert time.monotonic() < deadline, "no router advertisement"
        time.sleep(0.1)
    guest.setup("addr add fd82::9/64 dev eth0 nodad")
    assert take_lease(guest, dhcp_client).startswith("10.82.0.")
    assert "fd82::9" in guest.run("ip", "-6", "addr"), "DHCP for IPv4 leaves IPv6 alone"
    # Out with the host's own address; in only through the forward.
    assert caller_seen_by(outside, guest, "2001:db8::2") == "2001:db8::1"
    outside.setup("-6 route add fd82::/64 via 2001:db8::1")
    assert caller_seen_by(guest, outside, "fd82::9") == "refused"
    process = subprocess.Popen(["nsenter", "-n", "-t", str(guest.pid), sys.executable, "-c", WHO_CALLS])
    try:
        deadline = time.monotonic() + 60
        while (heard := connect(outside, "2001:db8::1", 2280)) == "refused":
            assert time.monotonic() < deadline
        assert heard == "2001:db8::2"
    finally:
        process.kill()
        process.wait()
    assert host.net("delete", "lab").returncode == 0
    assert host.state() == before


RENEWALS = 1000
DOCKER = """
table ip nat {
    chain PREROUTING { type nat hook prerouting priority dstnat; policy accept; fib daddr type local jump DOCKER; }
    chain POSTROUTING { type nat hook postrouting priority srcnat; policy accept;
        oifname != "docker0" ip saddr 172.17.0.0/16 masquerade; }
    chain DOCKER { iifname "docker0" return; }
}
table ip filter {
    chain FORWARD { type filter hook forward priority filter; policy drop; jump DOCKER-USER; jump DOCKER-FORWARD; }
    chain DOCKER-USER { iifname "lab" accept; oifname "lab" accept; }
    chain DOCKER-FORWARD { iifname "docker0" accept; oifname "docker0" ct state established,related accept; }
}
"""


def test_a_thousand_renewals_beside_docker(
    host: Namespace, guest: Namespace, new_namespace: Callable[[], Namespace], dhcp_client: str, tmp_path: Path
) -> None:
    outside_of(host, new_namespace)
    host.setup("link add docker0 type bridge\naddr add 172.17.0.1/16 dev docker0\nlink set docker0 up")
    rules = tmp_path / "docker.nft"
    rules.write_text(DOCKER)
    host.run("nft", "-f", str(rules))
    before = host.state()
    assert host.net("create", "lab", "--address", "10.77.0.1/24", "--reserve", f"{MAC},10.77.0.9,web").returncode == 0
    attach(host, guest, "lab")
    client = Path(__file__).parent / "dhcp_client.py"
    said = guest.run(sys.executable, str(client), "eth0", MAC, str(RENEWALS), timeout_s=240)
    assert said == f"10.77.0.9 {RENEWALS}\n"
    leases = json.loads(host.net("leases", "lab", "--json").stdout)
    assert [(lease["mac"], lease["address"]) for lease in leases] == [(MAC, "10.77.0.9")]
    guest.setup("route add default via 10.77.0.1")
    assert "1 received" in guest.run("ping", "-c", "1", "-W", "30", "192.0.2.2"), "out past Docker's rules"
    assert host.net("delete", "lab").returncode == 0
    assert host.state() == before


def test_isolated_network_lets_nothing_through(
    host: Namespace, guest: Namespace, new_namespace: Callable[[], Namespace]
) -> None:
    outside = new_namespace()
    host.setup(
        f"link add up0 type veth peer name eth0 netns {outside.pid}\naddr add 192.0.2.1/24 dev up0\nlink set up0 up"
    )
    outside.setup("addr add 192.0.2.2/24 dev eth0\nlink set eth0 up\nroute add default via 192.0.2.1")
    host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    created(host, "quiet", "--mode", "isolated", "--address", "10.78.0.1/24", "--no-dhcp")
    attach(host, guest, "quiet")
    guest.setup("addr add 10.78.0.2/24 dev eth0\nroute add default via 10.78.0.1")
    with_server(guest, SERVER, host, "10.78.0.2", 80)
    listening = subprocess.Popen(["nsenter", "-n", "-t", str(outside.pid), sys.executable, "-c", SERVER])
    try:
        deadline = time.monotonic() + 60
        while outside.run("ss", "-Hltn", "sport = :80").strip() == "":
            assert time.monotonic() < deadline
        assert connect(guest, "192.0.2.2", 80) == "refused"
        assert connect(host, "192.0.2.2", 80) == "hello"
    finally:
        listening.kill()
        listening.wait()
    assert host.net("delete", "quiet").returncode == 0


def test_other_tables_stay_as_they_are(host: Namespace) -> None:
    rules = "table ip nat { chain DOCKER { tcp dport 80 accept; }; }\ntable inet firewalld { chain x { drop; }; }"
    path = Path(f"/tmp/pyhyve-test-rules-{os.getpid()}")
    path.write_text(rules)
    try:
        host.run("nft", "-f", str(path))
    finally:
        path.unlink()
    before = host.run("nft", "list", "ruleset")
    created(host, "lab", "--address", "10.77.0.1/24", "--no-dhcp")
    created(host, "lab2", "--address", "10.79.0.1/24", "--no-dhcp")
    ours = host.run("nft", "list", "table", "inet", "pyhyve")
    assert "lab2" in ours
    assert host.run("nft", "list", "ruleset").replace(ours, "").strip() == before.strip()
    assert host.net("delete", "lab").returncode == 0
    assert "10.77.0.0" not in host.run("nft", "list", "table", "inet", "pyhyve")
    assert host.net("delete", "lab2").returncode == 0
    assert host.run("nft", "list", "ruleset") == before


def test_policy_that_drops_is_told(host: Namespace) -> None:
    host.run(
        "nft", "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }"
    )
    result = host.net("create", "lab", "--address", "10.77.0.1/24", "--no-dhcp")
    assert result.returncode == 0
    assert "ip filter FORWARD" in result.stderr
    assert host.net("delete", "lab").returncode == 0


def uplink(host: Namespace, new_namespace: Callable[[], Namespace]) -> Namespace:
    """A neighbour, 192.0.2.2, on the host's `nic0`, which has 192.0.2.1 and the default route."""
    neighbour = new_namespace()
    host.setup(
        f"link add nic0 type veth peer name eth0 netns {neighbour.pid}\n"
        "addr add 192.0.2.1/24 dev nic0\nlink set nic0 up\nroute add default via 192.0.2.2 metric 100"
    )
    neighbour.setup("addr add 192.0.2.2/24 dev eth0\nlink set eth0 up")
    deadline = time.monotonic() + 60
    while "linkdown" in host.run("ip", "route"):  # until the kernel has noticed the carrier
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return neighbour


@pytest.mark.parametrize("strict", ["0", "1"])
def test_host_interface_joins_and_keeps_its_address(
    strict: str, host: Namespace, guest: Namespace, new_namespace: Callable[[], Namespace]
) -> None:
    neighbour = uplink(host, new_namespace)
    host.run("sysctl", "-qw", f"net.ipv4.conf.all.rp_filter={strict}")
    before = host.state()
    created(host, "wire", "--bridge", "br100", "--mode", "bridge", "--port", "nic0")
    attach(host, guest, "br100")
    guest.setup("addr add 192.0.2.3/24 dev eth0")
    assert "192.0.2.1/24" in host.run("ip", "-br", "addr", "show", "dev", "nic0")
    with_server(host, SERVER, neighbour, "192.0.2.1", 80)
    with_server(neighbour, SERVER, host, "192.0.2.2", 80)
    with_server(guest, SERVER, neighbour, "192.0.2.3", 80)
    with_server(host, SERVER, guest, "192.0.2.1", 80)
    assert host.net("delete", "wire").returncode == 0
    assert host.state() == before
    with_server(host, SERVER, neighbour, "192.0.2.1", 80)


def test_host_interface_moves_its_addresses_when_asked(host: Namespace, new_namespace: Callable[[], Namespace]) -> None:
    neighbour = uplink(host, new_namespace)
    before = host.state()
    created(host, "wire", "--bridge", "br100", "--mode", "bridge", "--port", "nic0", "--move-addresses")
    assert "192.0.2.1" not in host.run("ip", "-br", "addr", "show", "dev", "nic0")
    assert "192.0.2.1/24" in host.run("ip", "-br", "addr", "show", "dev", "br100")
    assert "default via 192.0.2.2 dev br100 metric 100" in host.run("ip", "route").replace("proto static ", "")
    with_server(host, SERVER, neighbour, "192.0.2.1", 80)
    assert host.net("delete", "wire").returncode == 0
    assert host.state() == before
    with_server(host, SERVER, neighbour, "192.0.2.1", 80)


def test_taps_stay_for_their_owner_until_the_network_goes(host: Namespace) -> None:
    before = host.state()
    created(host, "lab", "--mode", "bridge", "--tap", "t0:1000", "--tap", "t1")
    shown = host.run("ip", "-d", "link", "show", "dev", "t0")
    assert "tun type tap" in shown
    assert "persist on" in shown
    assert "master lab" in shown
    assert json.loads(host.net("list", "--json").stdout)[0]["bridge_ports"] == ["t0", "t1"]
    assert host.net("delete", "lab").returncode == 0
    assert host.state() == before


@pytest.mark.parametrize("after_s", [0.25, 0.35, 0.45, 0.55, 0.7, 0.9])
def test_delete_removes_what_a_killed_create_left(after_s: float, host: Namespace, dhcp_client: str) -> None:
    before = host.state()
    words = ["create", "lab", "--address", "10.77.0.1/24", "--tap", "t0", "--forward", "tcp:2299:10.77.0.9:22"]
    command = ["nsenter", "-n", "-t", str(host.pid), sys.executable, "-m", "pyhyve", "net", *words]
    with subprocess.Popen(command, env=host.environment, stdout=subprocess.DEVNULL) as process:
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
    result = host.net("delete", "lab")
    assert result.returncode == 0 or "no network lab" in result.stderr
    assert host.state() == before
    created(host, "lab", "--address", "10.77.0.1/24")
    assert host.net("delete", "lab").returncode == 0


def test_failed_create_is_undone(host: Namespace, dhcp_client: str) -> None:
    before = host.state()
    # Somebody else serves DNS on every address.
    with subprocess.Popen(
        ["nsenter", "-n", "-t", str(host.pid), sys.executable, "-c", DNS_HOLDER], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        result = host.net("create", "lab", "--address", "10.77.0.1/24")
        other.kill()
    assert result.returncode == 1
    assert "dnsmasq on lab: " in result.stderr
    assert "Address already in use" in result.stderr
    assert host.state() == before


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("lab", "--bridge", "port0"), "interface port0 exists already"),
        (("lab", "--address", "192.0.2.129/25"), "overlaps with 192.0.2.1/24 of interface up0"),
        (("lab", "--mode", "bridge", "--port", "nosuch"), "interface nosuch does not exist"),
        (("lab", "--mode", "bridge", "--tap", "up0"), "interface up0 exists already"),
        (("lab", "--mode", "bridge", "--port", "up0"), "interface up0 is a bridge"),
        (("lab", "--mode", "bridge", "--port", "lo"), "interface lo is the loopback"),
    ],
)
def test_create_refuses_a_clash_and_changes_nothing(
    words: tuple[str, ...], reason: str, host: Namespace, guest: Namespace
) -> None:
    host.setup("link add up0 type bridge\naddr add 192.0.2.1/24 dev up0\nlink set up0 up")
    before = host.state()
    result = host.net("create", *words)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert reason in result.stderr
    assert host.state() == before


def test_port_of_the_host_leads_to_one_guest_only(host: Namespace) -> None:
    created(host, "one", "--address", "10.77.1.1/24", "--no-dhcp", "--forward", "tcp:2222:10.77.1.9:22")
    before = host.state()
    two = ("two", "--address", "10.77.2.1/24", "--no-dhcp", "--forward")
    result = host.net("create", *two, "tcp:2222:10.77.2.9:22")
    assert result.returncode == 1
    assert result.stderr == (
        "pyhyve net: forward: tcp port 2222 of the host leads to 10.77.1.9 port 22 in network one already\n"
    )
    assert host.state() == before
    created(host, *two, "udp:2222:10.77.2.9:22")


def test_bridge_that_someone_else_made_meanwhile_is_not_removed(host: Namespace) -> None:
    created(host, "lab", "--mode", "bridge")
    host.setup("link del lab\nlink add lab type bridge")
    assert json.loads(host.net("list", "--json").stdout)[0]["up"] is False
    assert host.net("delete", "lab").returncode == 0
    assert '"lab"' in host.state()["addresses"]


def test_without_the_right_to_it_is_one_line(host: Namespace) -> None:
    result = host.try_run(
        *("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"),
        *(sys.executable, "-m", "pyhyve", "net", "create", "lab", "--no-dhcp"),
    )
    assert result.returncode == 1
    assert "no permission" in result.stderr
    assert result.stderr.count("\n") == 1
    assert json.loads(host.net("list", "--json").stdout) == []
