"""Limits of interfaces, as the kernel keeps them: no more gets through than the bucket and the time allow."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = str(Path(__file__).parents[3] / "src")
pytestmark = [
    pytest.mark.skipif(
        shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin") is None, reason="no nft (package nftables)"
    ),
    pytest.mark.skipif(
        subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode != 0,
        reason="namespaces need root",
    ),
    pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="no /dev/net/tun"),
]
_HEAD = """
import fcntl, json, os, select, socket, struct, sys, time
sys.path.insert(0, sys.argv[1])
from pyroute2 import IPRoute
from pyhyve.hostnet import shaping
from pyhyve.hostnet.shaping import Promise, Rate
tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
fcntl.ioctl(tap, 0x400454CA, struct.pack("=16sH22x", b"t0", 0x1002))
route = IPRoute()
index = socket.if_nametoindex("t0")
route.link("set", index=index, state="up")
host = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5))
host.bind(("t0", 0))
host.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE: hosts allow less
host.setblocking(False)
SIZE = 1000
def frame(last):
    return (bytes.fromhex("5254000000" + last) + bytes.fromhex("020000000009") + b"\\x88\\xb5").ljust(SIZE, b"x")
def received(count):  # what of the guest's frames arrives at the host
    begun = time.monotonic()
    for _ in range(count):
        os.write(tap, frame("01"))
    took = time.monotonic() - begun
    got = 0
    while True:
        try:
            got += len(host.recv(2048))
        except BlockingIOError:
            return got, took
def taken():
    got = 0
    while True:
        try:
            got += SIZE if os.read(tap, 2048)[12:14] == b"\\x88\\xb5" else 0
        except BlockingIOError:
            return got
def sent(count, last="01"):  # what of the host's frames the guest has got while they were sent
    taken()
    begun, got = time.monotonic(), 0
    for _ in range(count):
        try:
            host.send(frame(last))
        except OSError:
            pass
        got += taken()
    return got, time.monotonic() - begun
def classes():
    return {held["handle"] & 0xFFFF: dict(held.get_attr("TCA_OPTIONS").get_attr("TCA_HTB_PARMS"))["rate"]
            for held in route.get_classes(index)}
"""


def run(script: str) -> dict[str, object]:
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", _HEAD + script, SOURCE],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if "scheduler htb" in done.stderr or "nf_tables" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_no_more_gets_through_than_bucket_and_time_allow() -> None:
    said = run("""
RATE = 100_000
free = received(1000)[0], sent(1000)[0]
shaping.limit("t0", Rate(RATE, 0, 20_000), Rate(RATE))
(inside, took), (outside, needed) = received(1000), sent(1000)
held = classes()
shaping.limit("t0", Rate(2 * RATE), None)
changed = classes(), received(1000)[0]
shaping.clear("t0")
shaping.clear("t0")
shaping.clear("gone")
print(json.dumps({
    "free": free, "received": inside, "most received": RATE * (1 + took) + SIZE, "sent": outside,
    "most sent": 20_000 + RATE * needed + 3 * SIZE, "held": held, "changed": changed, "cleared": classes(),
    "freed": (received(1000)[0], sent(1000)[0]),
}))
""")
    assert said["free"] == said["freed"] == [1_000_000, 1_000_000]
    assert said["held"] == {"1": 100_000}
    assert said["changed"] == [{"1": 200_000}, 1_000_000]
    assert said["cleared"] == {}
    for way in ("received", "sent"):
        found, most = said[way], said[f"most {way}"]
        assert isinstance(found, int)
        assert isinstance(most, float)
        assert 0 < found <= most < 1_000_000


def test_promised_rates_are_kept_apart() -> None:
    said = run("""
whole = Rate(1_000_000, 2_000_000, 5000)
shaping.limit_bridge("t0", whole, None)
before = classes()
promises = [Promise(3, "52:54:00:00:00:01", 300_000), Promise(4, "52:54:00:00:00:02", 100_000)]
shaping.keep_promises("t0", whole, None, promises)
both = classes()
sent(5, "02")
def packets(stats):
    return stats.get_attr("TCA_STATS_BASIC")["packets"] + stats.get_attr("TCA_STATS_QUEUE")["qlen"]
counted = {held["handle"] & 0xFFFF: packets(held.get_attr("TCA_STATS2")) for held in route.get_classes(index)}
shaping.keep_promises("t0", whole, None, promises[1:])
print(json.dumps({"before": before, "both": both, "counted": counted, "one": classes()}))
""")
    assert said["before"] == {"1": 1_000_000, "2": 1_000_000}
    assert said["both"] == {"1": 1_000_000, "2": 600_000, "3": 300_000, "4": 100_000}
    counted = said["counted"]
    assert isinstance(counted, dict)
    assert (counted["3"], counted["4"]) == (0, 5)
    assert said["one"] == {"1": 1_000_000, "2": 900_000, "4": 100_000}
