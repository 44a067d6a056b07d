"""Limits of interfaces and networks: set and shown as by libvirtd, kept by the kernel, and gone with the machine."""

# ruff: noqa: E501 - sessions as somebody would type them

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from daemon_process import DaemonProcess
from guests import EMULATORS, document
from libvirtd_process import running_libvirtd
from sides import ENVIRONMENT, VIRSH, Side, assert_equal_replies, our_daemon, skip_reason

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(skip_reason() is not None, reason=skip_reason() or ""),
    pytest.mark.skipif(EMULATORS["qemu"] is None, reason="no QEMU (Debian package qemu-system-x86)"),
    pytest.mark.skipif(shutil.which("tc") is None, reason="no tc (Debian package iproute2)"),
    pytest.mark.skipif(
        subprocess.run(
            ["unshare", "-n", "tc", "qdisc", "add", "dev", "lo", "root", "htb"],
            capture_output=True,
            check=False,
            env=ENVIRONMENT,
        ).returncode
        != 0,
        reason="this kernel has no scheduler htb",
    ),
    pytest.mark.timeout(600),
]


def _nic(kind: str, last: str, source: str, limits: str = "") -> str:
    where = f"<source {kind}='{source}'/>" if source else ""
    return f"<interface type='{kind}'><mac address='52:54:00:00:00:{last}'/>{where}{limits}</interface>"


def _limits(text: str) -> str:
    return f"<bandwidth>{text}</bandwidth>"


def _network(name: str, limits: str, more: str = "") -> str:
    return f"<network><name>{name}</name><bridge name='v{name}'/><bandwidth>{limits}</bandwidth>{more}</network>"


_FIRST = _nic(
    "network",
    "11",
    "bw",
    _limits("<outbound average='77' burst='33' peak='99'/><inbound average='100' peak='200' burst='64' floor='50'/>"),
)
FILES = {
    "net.xml": _network(
        "bw",
        "<outbound average='500' burst='256'/><inbound average='1000' peak='2000' burst='512'/>",
        "<portgroup name='slow' default='yes'><bandwidth><inbound average='11'/></bandwidth></portgroup><portgroup name='fast'/>",
    ),
    "net1.xml": _network("bad", "<inbound average='1000' floor='2'/>"),
    "net2.xml": _network("bad", "<inbound average='x'/>"),
    "net3.xml": _network("bad", "<inbound peak='2'/>"),
    "limited.xml": document(
        "limited",
        devices=_FIRST
        + _nic("bridge", "12", "vbw", _limits("<inbound average='101'/>"))
        + _nic("user", "14", "", _limits("<outbound average='103'/>"))
        + _nic("network", "15", "bw"),
    ),
    "bridge.xml": document(
        "bridge", devices=_nic("bridge", "12", "vbw", _limits("<inbound average='101' floor='1'/>"))
    ),
    "over2.xml": _nic("bridge", "17", "vbw", _limits("<inbound floor='1'/>")),
    "bad1.xml": _nic("network", "18", "bw", _limits("<inbound floor='5' peak='6'/>")),
    "bad2.xml": _nic("network", "18", "bw", _limits("<outbound average='5' floor='6'/>")),
    "ok.xml": _nic("network", "19", "bw", _limits("<inbound average='5'/>")),
    "upd.xml": _nic("bridge", "12", "vbw", _limits("<inbound average='99'/><outbound average='98'/>")),
    "upd2.xml": _nic("bridge", "12", "vbw"),
}
SESSIONS = """
net-define @DIR@/net.xml; net-start bw; net-dumpxml bw --xpath //bandwidth; net-dumpxml bw --inactive --xpath //bandwidth
define @DIR@/limited.xml; dumpxml limited --xpath //bandwidth; domiftune limited 52:54:00:00:00:11; domiftune limited 52:54:00:00:00:13
domiftune limited 52:54:00:00:00:12 --inbound 7 --live; domiftune limited 52:54:00:00:00:12 --inbound 7,8,9
start limited
domiftune limited 52:54:00:00:00:12; dumpxml limited --xpath //bandwidth
domiftune limited 52:54:00:00:00:11 --inbound 300,400,50,20 --outbound 10,20,30 --live --config; dumpxml limited --xpath //bandwidth; dumpxml limited --inactive --xpath //bandwidth
domiftune limited 52:54:00:00:00:12 --inbound 10,20,,7; domiftune limited 52:54:00:00:00:12 --outbound 10,20; dumpxml limited --xpath //bandwidth
domiftune limited 52:54:00:00:00:12 --inbound 0 --outbound 0; dumpxml limited --xpath //bandwidth
domiftune limited 52:54:00:00:00:14 --inbound 9 --live; domiftune limited 52:54:00:00:00:14 --inbound 9 --config
domiftune limited 52:54:00:00:00:11 --inbound 100,0,0,2001; domiftune limited 52:54:00:00:00:15 --inbound 0,0,0,1990; domiftune limited 52:54:00:00:00:15 --inbound 1,0,0,100; domiftune limited 52:54:00:00:00:15
domiftune limited 52:54:00:00:00:15 --inbound 5; domiftune limited 52:54:00:00:00:15
attach-device limited @DIR@/over2.xml; attach-device limited @DIR@/bad1.xml; attach-device limited @DIR@/bad2.xml
attach-device limited @DIR@/ok.xml; domiftune limited 52:54:00:00:00:19
update-device limited @DIR@/upd.xml; domiftune limited 52:54:00:00:00:12; update-device limited @DIR@/upd2.xml; domiftune limited 52:54:00:00:00:12
attach-interface limited network bw --mac 52:54:00:00:00:1a --inbound 10,20,30 --outbound 5 --live --config; dumpxml limited --xpath //bandwidth; dumpxml limited --inactive --xpath //bandwidth
attach-interface limited network bw --mac 52:54:00:00:00:1b --inbound 10,20,30,5000 --config; attach-interface limited network bw --mac 52:54:00:00:00:1b --inbound 10,20,30,5000 --live
net-dumpxml bw --xpath //bandwidth
destroy limited; start limited; dumpxml limited --xpath //bandwidth; destroy limited; undefine limited; net-destroy bw; net-undefine bw
define @DIR@/bridge.xml; net-define @DIR@/net1.xml; net-define @DIR@/net2.xml; net-define @DIR@/net3.xml
"""
VOLATILE = ((re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}"), "UUID"),)


def test_limits_as_by_libvirtd(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    with our_daemon(tmp_path / "root") as uri:
        mine = Side(VIRSH, uri, tmp_path / "ours", FILES, VOLATILE).run_all(SESSIONS)
    with running_libvirtd(without="tc") as socket:
        uri = f"qemu:///system?socket={socket}"
        real = Side(VIRSH, uri, tmp_path / "theirs", FILES, VOLATILE).run_all(SESSIONS)
    assert_equal_replies(zip(SESSIONS.strip().split("\n"), mine, real, strict=True))


def test_limits_outlive_the_daemon_and_go_with_the_machine(tmp_path: Path) -> None:
    daemon = DaemonProcess(tmp_path / "root", ("--system",))
    name = "phtlimit"
    in_force = ["nft", "list", "table", "netdev", f"pyhyve_limit_{name}"]
    nic = f"<interface type='ethernet'><target dev='{name}'/><mac address='52:54:00:00:00:21'/></interface>"
    side = Side(VIRSH, daemon.uri("qemu+unix:///system"), tmp_path, {"e.xml": document("e", devices=nic)}, ())

    def run(line: str) -> str:
        status, output, errors = side.run(line)
        assert status == 0, errors
        return output

    def kernel(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
        return done.stdout

    daemon.start()
    try:
        run("define @DIR@/e.xml; start e")
        run(f"domiftune e {name} --inbound 300 --outbound 200")
        daemon.stop(signal.SIGKILL)
        assert "rate 2400Kbit" in kernel("tc", "class", "show", "dev", name)
        kernel("nft", "delete", "table", "netdev", f"pyhyve_limit_{name}")
        daemon.start()
        assert "inbound.average: 300" in run(f"domiftune e {name}")
        assert "over 200000 bytes/second" in kernel(*in_force)
        assert "rate 2400Kbit" in kernel("tc", "class", "show", "dev", name)
        run("destroy e; undefine e")
        assert not kernel(*in_force)
        assert not json.loads(kernel("ip", "-j", "link", "show", name) or "[]")
    finally:
        if "e" in side.run("list --name")[1].split():
            side.run("destroy e")
        daemon.stop()
