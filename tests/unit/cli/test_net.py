from __future__ import annotations

import argparse
import json
import os
import signal
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pyhyve.cli import net
from pyhyve.hostnet.dnsmasq import Lease
from pyhyve.hostnet.networks import NetworkStatus
from pyhyve.hostnet.spec import Mode, NetworkSpec, PortForward, TapSpec, default_range, host_interface, ip_address
from pyhyve.support.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

HOST = host_interface("10.7.0.1/24")


def spec_of(*words: str) -> NetworkSpec:
    parser = argparse.ArgumentParser()
    net.configure(parser)
    return net.build_spec(parser.parse_args(["create", *words]))


def test_create_defaults_to_nat_with_dhcp() -> None:
    spec = spec_of("lab")
    assert (spec.bridge, spec.mode, len(spec.dhcp)) == ("lab", Mode.NAT, 1)
    assert [str(address) for address in spec.addresses] == [net.DEFAULT_ADDRESS]


def test_create_of_a_plain_bridge_has_no_address_and_no_dhcp() -> None:
    spec = spec_of("wire", "--mode", "bridge", "--port", "eth0", "--bridge", "br100")
    assert (spec.bridge, spec.addresses, spec.dhcp, spec.ports) == ("br100", (), (), ("eth0",))


def test_create_takes_every_part() -> None:
    spec = spec_of(
        *("lab", "--address", "10.7.0.1/24", "--address", "fd07::1/64", "--dhcp", "10.7.0.50,10.7.0.60"),
        *("--reserve", "52:54:00:00:00:0A,10.7.0.9,web", "--tap", "t0:0", "--tap", "t1", "--mtu", "1400"),
        *("--forward", "tcp:2222:10.7.0.9:22", "--forward", "udp:[::1]:53:[fd07::9]:5353", "--domain", "lab.test"),
    )
    assert [(str(given.first), str(given.last)) for given in spec.dhcp] == [("10.7.0.50", "10.7.0.60")]
    assert (spec.reservations[0].mac, spec.reservations[0].hostname) == ("52:54:00:00:00:0a", "web")
    assert spec.taps == (TapSpec("t0", 0), TapSpec("t1"))
    assert spec.forwards == (
        PortForward("tcp", 2222, ip_address("10.7.0.9"), 22),
        PortForward("udp", 53, ip_address("fd07::9"), 5353, ip_address("::1")),
    )


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--mode", "magic"), "--mode magic: unknown"),
        (("--dhcp", "10.7.0.5"), "write --dhcp FIRST,LAST"),
        (("--dhcp", "10.100.0.5,10.100.0.6", "--no-dhcp"), "contradict"),
        (("--reserve", "52:54:00:00:00:01"), "write --reserve"),
        (("--forward", "tcp:22"), "write --forward"),
        (("--forward", "tcp:x:10.100.0.2:22"), "write --forward"),
        (("--forward", "tcp:999999:10.100.0.2:22"), "write --forward"),
        (("--forward", "sctp:1:10.100.0.2:2"), "unknown protocol"),
        (("--tap", "t0:no-such-user"), "no user"),
        (("--bridge", "much-too-long-a-name"), "not an interface name"),
    ],
)
def test_create_says_what_is_wrong(words: tuple[str, ...], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        spec_of("lab", *words)


def status(**changes: bool) -> NetworkStatus:
    spec = NetworkSpec("lab", "lab0", addresses=(HOST,), dhcp=(default_range(HOST),))
    return NetworkStatus(spec, changes.get("is_up", True), changes.get("has_dhcp", True), ("t0", "t1"))


def test_list_shows_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    net.show_networks([status()], as_json=False)
    line = capsys.readouterr().out.splitlines()[1]
    assert line.split("  ")[0] == "lab"
    assert "10.7.0.1/24" in line
    assert "t0, t1" in line
    assert line.strip().endswith("up")


def test_list_shows_what_is_gone(capsys: pytest.CaptureFixture[str]) -> None:
    net.show_networks([status(is_up=False, has_dhcp=False)], as_json=False)
    out = capsys.readouterr().out
    assert "bridge is gone" in out
    assert "stopped" in out
    net.show_networks([], as_json=False)
    assert "no networks" in capsys.readouterr().out


def test_list_as_json_is_one_array(capsys: pytest.CaptureFixture[str]) -> None:
    net.show_networks([status()], as_json=True)
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["name"], found["up"], found["dhcp_runs"], found["bridge_ports"]) == ("lab", True, True, ["t0", "t1"])


class FakeNetworks:
    """Networks with one lease."""

    def statuses(self) -> list[NetworkStatus]:
        return [status()]

    def leases(self, name: str) -> list[Lease]:
        assert name == "lab"
        return [Lease(0, "52:54:00:00:00:01", "10.7.0.9", "")]


def test_leases_of_all_networks(capsys: pytest.CaptureFixture[str]) -> None:
    net.show_leases(FakeNetworks(), None, as_json=False)  # type: ignore[arg-type]
    assert capsys.readouterr().out.split() == ["lab", "10.7.0.9", "52:54:00:00:00:01", "-", "for", "ever"]
    net.show_leases(FakeNetworks(), "lab", as_json=True)  # type: ignore[arg-type]
    assert json.loads(capsys.readouterr().out)[0]["address"] == "10.7.0.9"


def test_switch_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "switch"
    command = [sys.executable, "-m", "pyhyve", "net", "switch", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ) | {"PYTHONPATH": "src"}) as process:
        assert process.stdout is not None
        assert str(path).encode() in process.stdout.readline()
        assert stat.S_ISSOCK(path.stat().st_mode)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert not path.exists()
