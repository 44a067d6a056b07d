from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyhyve.hostnet import dnsmasq
from pyhyve.hostnet.dnsmasq import Files, Lease
from pyhyve.hostnet.spec import (
    Mode,
    NetworkSpec,
    Reservation,
    SpecError,
    default_range,
    host_interface,
    ip_address,
)

if TYPE_CHECKING:
    from pathlib import Path

HOST, HOST6 = host_interface("10.7.0.1/24"), host_interface("fd07::1/64")


def render(spec: NetworkSpec, tmp_path: Path) -> list[str]:
    return dnsmasq.render(spec, Files(tmp_path), as_root=False).splitlines()


def test_render_serves_its_bridge_only(tmp_path: Path) -> None:
    lines = render(NetworkSpec("lab", "lab0", addresses=(HOST,), dhcp=(default_range(HOST),)), tmp_path)
    assert {"interface=lab0", "except-interface=lo", "bind-dynamic"} <= set(lines)
    assert "dhcp-range=10.7.0.2,10.7.0.254,255.255.255.0,1h" in lines
    assert f"dhcp-leasefile={tmp_path}/leases" in lines
    assert "no-resolv" not in lines


def test_render_of_ipv6_announces_routes(tmp_path: Path) -> None:
    lines = render(NetworkSpec("lab", "lab0", addresses=(HOST6,), dhcp=(default_range(HOST6),)), tmp_path)
    assert "dhcp-range=fd07::2,fd07::fe,64,1h" in lines
    assert "enable-ra" in lines


def test_render_of_isolated_gives_no_way_out(tmp_path: Path) -> None:
    spec = NetworkSpec("lab", "lab0", Mode.ISOLATED, (HOST,), (default_range(HOST),))
    assert {"no-resolv", "dhcp-option=option:router"} <= set(render(spec, tmp_path))


def test_render_of_what_else_is_served(tmp_path: Path) -> None:
    served = (("no-resolv", ""), ("server", "8.8.8.8"), ("dhcp-boot", "pxelinux.0"))
    lines = render(NetworkSpec("lab", "lab0", addresses=(HOST,), served=served), tmp_path)
    assert {"no-resolv", "server=8.8.8.8", "dhcp-boot=pxelinux.0"} <= set(lines)
    for wrong in (("conf-file", "/etc/passwd"), ("server", "1\nuser=x")):
        with pytest.raises(SpecError):
            NetworkSpec("lab", "lab0", addresses=(HOST,), served=(wrong,))


def test_render_of_reservations(tmp_path: Path) -> None:
    spec = NetworkSpec(
        "lab",
        "lab0",
        addresses=(HOST, HOST6),
        dhcp=(default_range(HOST), default_range(HOST6)),
        reservations=(
            Reservation("52:54:00:00:00:0A", ip_address("10.7.0.9"), "web"),
            Reservation("52:54:00:00:00:0B", ip_address("fd07::9")),
        ),
        domain="lab.test",
    )
    lines = render(spec, tmp_path)
    assert "dhcp-host=52:54:00:00:00:0a,10.7.0.9,web" in lines
    assert "dhcp-host=52:54:00:00:00:0b,[fd07::9]" in lines
    assert "domain=lab.test" in lines


LEASES = """\
1700000000 52:54:00:00:00:01 10.7.0.9 web 01:52:54:00:00:00:01
0 52:54:00:00:00:02 10.7.0.10 * *
duid 00:01:00:01:2d:6e:2d:6e:52:54:00:00:00:ff
1700000000 5505024 fd07::9 web 00:01:00:01:aa
garbage
"""


def test_parse_leases_of_both_families() -> None:
    assert dnsmasq.parse_leases(LEASES) == [
        Lease(1700000000, "52:54:00:00:00:01", "10.7.0.9", "web"),
        Lease(0, "52:54:00:00:00:02", "10.7.0.10", ""),
        Lease(1700000000, "00:01:00:01:aa", "fd07::9", "web"),
    ]


@given(st.text())
def test_parse_leases_takes_any_text(text: str) -> None:
    assert all(lease.expires >= 0 for lease in dnsmasq.parse_leases(text))


def test_read_leases_leaves_out_what_expired(tmp_path: Path) -> None:
    files = Files(tmp_path)
    assert dnsmasq.read_leases(files) == []
    later = int(time.time()) + 60
    files.leases.write_text(
        f"1 52:54:00:00:00:01 10.7.0.2 a *\n{later} 52:54:00:00:00:02 10.7.0.3 b *\n0 m 10.7.0.4 c *"
    )
    assert [lease.hostname for lease in dnsmasq.read_leases(files)] == ["b", "c"]


def test_running_is_none_without_a_process(tmp_path: Path) -> None:
    files = Files(tmp_path)
    assert dnsmasq.running(files) is None
    files.pid.write_text("1")
    assert dnsmasq.running(files) is None


@pytest.mark.parametrize("ignores", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN);"])
def test_stop_returns_once_the_process_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ignores: str) -> None:
    monkeypatch.setattr(dnsmasq, "STOP_TIMEOUT_S", 0.2 if ignores else 30)
    files = dnsmasq.Files(tmp_path)
    program = f"import signal, sys, time; {ignores} print(1, flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", program, f"--conf-file={files.configuration}"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        files.pid.write_text(f"{process.pid}\n")
        assert dnsmasq.running(files) == process.pid
        dnsmasq.stop(files)
        assert os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        assert dnsmasq.running(files) is None
