"""Network filters in force: what a guest sends under another's name does not get through."""

# ruff: noqa: E501 - documents, and a script for another network
from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from guests import EMULATORS, document
from sides import ENVIRONMENT, VIRSH, Side, our_daemon

FILTERS = Path("/usr/share/libvirt/nwfilter")
pytestmark = [
    pytest.mark.skipif(
        shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin") is None, reason="no nft (package nftables)"
    ),
    pytest.mark.skipif(
        not (FILTERS / "clean-traffic.xml").exists(),
        reason="no filters (Debian package libvirt-daemon-config-nwfilter)",
    ),
    pytest.mark.skipif(
        subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode != 0,
        reason="namespaces need root",
    ),
    pytest.mark.skipif(
        subprocess.run(
            ["unshare", "-n", "nft", "add table bridge t"], capture_output=True, check=False, env=ENVIRONMENT
        ).returncode
        != 0,
        reason="this kernel does not filter on bridges",
    ),
]
MAC, IP = "52:54:00:00:00:01", "10.0.0.1"
_WIRE = """
import json, socket, subprocess, sys
sys.path.insert(0, sys.argv[2])
from pyhyve.daemon.resources.filter_rules import table_script
from pyhyve.daemon.resources.filters import parse_filter
from pathlib import Path
directory = Path(sys.argv[1])
filters = {path.stem: parse_filter(path.read_text()).document for path in directory.glob("*.xml")}
def ip(*words): subprocess.run(["ip", "link", *words], check=True)
ip("add", "br0", "type", "bridge")
for port, end in (("p0", "g0"), ("q0", "r0")):
    ip("add", port, "type", "veth", "peer", "name", end)
    ip("set", port, "master", "br0")
for name in ("br0", "p0", "g0", "q0", "r0"):
    Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1") if Path("/proc/sys/net/ipv6").exists() else None
    ip("set", name, "up")
MAC, OTHER, ALL = "525400000001", "525400000099", "ffffffffffff"
me, you = bytes([10, 0, 0, 1]).hex(), bytes([10, 0, 0, 9]).hex()
def packet(source, address):
    head = bytes.fromhex("45000014000000004011" + "0000" + address + "0a0000ff")
    total = sum(int.from_bytes(head[at:at + 2], "big") for at in range(0, 20, 2))
    check = ~((total & 0xffff) + (total >> 16)) & 0xffff
    head = head[:10] + check.to_bytes(2, "big") + head[12:]
    return (bytes.fromhex(ALL + source + "0800") + head).ljust(60, b"\\0")
def arp(source, sender, address):
    return bytes.fromhex(ALL + source + "0806" + "0001080006040001" + sender + address + "0" * 12 + "0a0000ff").ljust(60, b"\\0")
frames = {
    "right": packet(MAC, me), "wrong mac": packet(OTHER, me), "wrong address": packet(MAC, you),
    "right arp": arp(MAC, MAC, me), "arp of another": arp(MAC, OTHER, me), "arp for another": arp(MAC, MAC, you),
    "ipx": bytes.fromhex(ALL + MAC + "8137").ljust(60, b"\\0"),
}
def end(name):
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    found.bind((name, 0))
    return found
last = bytes.fromhex(ALL + MAC + "0806" + "0001080006040001" + MAC + me + "0" * 12 + "0a0000fe").ljust(60, b"\\0")
def through(wanted):
    guest, other = end("g0"), end("r0")
    guest_out, far_in = (guest, other) if wanted == "out" else (other, guest)
    far_in.settimeout(60)
    found = []
    for name, frame in frames.items():
        guest_out.send(frame)
    guest_out.send(last)  # what came before it got through, or did not
    while True:
        data = far_in.recv(2048)
        if data == last:
            return found
        found += [name for name, frame in frames.items() if data.ljust(60, b"\\0") == frame]  # padding may be taken off
import time
for _ in range(200):
    if all(Path(f"/sys/class/net/{name}/operstate").read_text().strip() == "up" for name in ("p0", "q0")):
        break
    time.sleep(0.05)
time.sleep(0.1)
def states():
    return [Path(f"/sys/class/net/{name}/brport/state").read_text().strip() for name in ("p0", "q0")]
while states() != ["3", "3"]:
    time.sleep(0.05)
said = {"without": through("out")}
for name, root in (("clean-traffic", "clean-traffic"), ("no-mac-spoofing", "no-mac-spoofing"), ("allow-arp", "allow-arp")):
    script = table_script("p0", filters[root], {"MAC": ("52:54:00:00:00:01",), "IP": ("10.0.0.1",)}, filters.__getitem__)
    subprocess.run(["/usr/sbin/nft", "-f", "-"], input=script, text=True, check=True)
    said[name] = through("out")
print(json.dumps(said))
"""


def wired(script: str) -> dict[str, Any]:
    """What a script says that has a network of its own."""
    command = [sys.executable, "-c", script, str(FILTERS), str(Path(__file__).parents[3] / "src")]
    done = subprocess.run(
        ["unshare", "-n", "-m", "bash", "-c", 'mount -t sysfs sysfs /sys; exec "$@"', "bash", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_filter_lets_through_what_a_guest_may_send() -> None:
    said = wired(_WIRE)
    assert len(said["without"]) == 7
    assert said["clean-traffic"] == ["right", "right arp"]
    assert said["no-mac-spoofing"] == [name for name in said["without"] if name != "wrong mac"]
    assert said["allow-arp"] == said["without"]


_CONNECTIONS = """
ME, YOU, MAC_OF = "0a000001", "0a000009", {"out": ("525400000099", MAC), "in": (MAC, "525400000099")}
def ip4(way, protocol, payload):
    source, target = (ME, YOU) if way == "out" else (YOU, ME)
    head = bytes.fromhex(f"4500{20 + len(payload):04x}000000004 0{protocol:02x}0000".replace(" ", "") + source + target)
    total = sum(int.from_bytes(head[at:at + 2], "big") for at in range(0, 20, 2))
    check = ~((total & 0xffff) + (total >> 16)) & 0xffff
    return bytes.fromhex("".join(MAC_OF[way]) + "0800") + head[:10] + check.to_bytes(2, "big") + head[12:] + payload
def tcp(way, source, target, flags):
    payload = source.to_bytes(2, "big") + target.to_bytes(2, "big") + bytes(8) + bytes([0x50, flags, 1, 0, 0, 0, 0, 0])
    return ip4(way, 6, payload)
def udp(way, source, target):
    return ip4(way, 17, source.to_bytes(2, "big") + target.to_bytes(2, "big") + bytes([0, 8, 0, 0]))
def icmp(way, kind):
    return ip4(way, 1, bytes([kind, 0, 255 - kind, 255, 0, 0, 0, 0]))
guest, other = end("g0"), end("r0")
def mark(number):
    return bytes.fromhex("ffffffffffff" + "525400000077" + "88b5") + number.to_bytes(2, "big").ljust(46, b"\\0")
def passes(way, frame, number):
    near, far = (guest, other) if way == "out" else (other, guest)
    far.settimeout(60)
    near.send(frame.ljust(60, b"\\0"))
    near.send(mark(number))
    through = False
    while True:
        data = far.recv(2048)
        if data.ljust(60, b"\\0") == mark(number):
            return through
        through |= data[:len(frame)] == frame and data[6:12] == frame[6:12]
def judge(rules, packets, **options):
    root = parse_filter(f"<filter name='f' chain='root'>{rules}</filter>").document
    script = table_script("p0", root, {"MAC": ("52:54:00:00:00:01",), "IP": ("10.0.0.1",)}, filters.__getitem__, **options)
    subprocess.run(["/usr/sbin/nft", "-f", "-"], input=script, text=True, check=True)
    return [passes(way, frame, number) for number, (way, frame) in enumerate(packets)]
ACCEPT, DROP = "<rule action='accept' direction='{}'><{}/></rule>", "<rule action='drop' direction='inout'><all/></rule>"
said = {}
ssh = [("in", tcp("in", 22, 1000, 18)), ("out", tcp("out", 1000, 22, 2)), ("in", tcp("in", 22, 1000, 18)),
       ("in", tcp("in", 22, 1001, 18)), ("out", tcp("out", 1000, 23, 2)), ("in", tcp("in", 1000, 22, 2))]
said["begun by the guest"] = judge(ACCEPT.format("out", "tcp dstportstart='22'") + DROP, ssh)
said["known still"] = judge(ACCEPT.format("out", "tcp dstportstart='22'") + DROP, ssh[:1], fresh=False)
web = [("out", tcp("out", 80, 2000, 18)), ("in", tcp("in", 2000, 80, 2)), ("out", tcp("out", 80, 2000, 18)),
       ("out", tcp("out", 80, 2001, 18)), ("out", tcp("out", 2000, 80, 2))]
said["begun by others"] = judge(ACCEPT.format("in", "tcp dstportstart='80' dstportend='81'") + DROP, web)
dns = [("in", udp("in", 53, 5)), ("out", udp("out", 5, 53)), ("in", udp("in", 53, 5)), ("in", udp("in", 53, 6))]
said["states"] = judge(
    ACCEPT.format("out", "all state='NEW,ESTABLISHED'") + ACCEPT.format("in", "all state='ESTABLISHED,RELATED'") + DROP,
    [*dns, ("in", icmp("in", 3)), ("in", icmp("in", 8)), ("out", icmp("out", 8)), ("in", icmp("in", 0))])
said["not followed"] = judge(
    "<rule action='accept' direction='out' statematch='false'><udp dstportstart='53'/></rule>" + DROP,
    [("in", udp("in", 53, 5)), ("out", udp("out", 5, 53)), ("in", udp("in", 54, 5))])
said["dropped both ways"] = judge(
    "<rule action='drop' direction='in'><tcp dstportstart='80' flags='SYN,ACK/SYN'/></rule>",
    [("in", tcp("in", 9, 80, 2)), ("in", tcp("in", 9, 80, 16)), ("out", tcp("out", 80, 9, 2)), ("out", tcp("out", 9, 80, 2))])
print(json.dumps(said))
"""


def test_filter_follows_connections() -> None:
    head = _WIRE[: _WIRE.index('said = {"without"')]
    said = wired(head + _CONNECTIONS)
    assert said["begun by the guest"] == [False, True, True, False, False, False]
    assert said["known still"] == [True]
    assert said["begun by others"] == [False, True, True, False, False]
    assert said["states"] == [False, True, True, False, True, False, True, True]
    assert said["not followed"] == [True, True, False]
    assert said["dropped both ways"] == [False, True, False, True]


@pytest.mark.skipif(EMULATORS["qemu"] is None, reason="no QEMU (Debian package qemu-system-x86)")
@pytest.mark.skipif(shutil.which("virsh") is None, reason="no virsh (Debian package libvirt-clients)")
def test_machine_starts_with_its_filter_in_force(tmp_path: Path) -> None:
    reference = f"<filterref filter='clean-traffic'><parameter name='IP' value='{IP}'/></filterref>"
    nic = f"<interface type='network'><mac address='{MAC}'/><source network='n'/><model type='virtio'/>{{}}</interface>"
    files = {
        "net.xml": "<network><name>n</name><bridge name='vbrf0'/></network>",
        "f.xml": document("f", devices=nic.format(reference)),
        "g.xml": document("g", devices=nic.format("<filterref filter='nosuch'/>")),
        "h.xml": document("h", devices=nic.format("<filterref filter='clean-traffic'/>")),
        "changed.xml": "<filter name='no-mac-spoofing' chain='mac'><rule action='drop' direction='out'><tcp ipset='x' ipsetflags='src'/></rule></filter>",
    }
    with our_daemon(tmp_path / "root") as uri:
        side = Side(VIRSH, uri, tmp_path, files, ())
        for path in FILTERS.glob("*.xml"):
            assert side.run(f"nwfilter-define {path}")[0] == 0
        assert (
            side.run(
                "net-define @DIR@/net.xml; net-start n; define @DIR@/f.xml; define @DIR@/g.xml; define @DIR@/h.xml"
            )[0]
            == 0
        )
        assert side.run("nwfilter-binding-list")[1].count("clean-traffic") == 0
        try:
            status, _, said = side.run("start f")
            assert status == 0, said
            assert "vnet0 clean-traffic" in side.run("nwfilter-binding-list")[1]
            assert "<mac address='52:54:00:00:00:01'/>" in side.run("nwfilter-binding-dumpxml vnet0")[1]
            assert "nwfilter is in use" in side.run("nwfilter-undefine no-mac-spoofing")[2]
            uuid = re.findall(r"([0-9a-f-]{36}) no-mac-spoofing", side.run("nwfilter-list")[1])[0]
            changed = tmp_path / "changed.xml"
            changed.write_text(changed.read_text().replace("<rule", f"<uuid>{uuid}</uuid><rule"))
            assert (
                "attribute 'ipset' of a rule on 'tcp' is not supported"
                in side.run("nwfilter-define @DIR@/changed.xml")[2]
            )
            assert "referenced filter 'nosuch' is missing" in side.run("start g")[2]
            assert "unresolvable variables or unavailable list elements: IP" in side.run("start h")[2]
        finally:
            side.run("destroy f")
        assert "vnet0" not in side.run("nwfilter-binding-list")[1]
        assert side.run("net-destroy n")[0] == 0
