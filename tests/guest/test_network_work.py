"""Streams between two guests and their host, on a bridge, with everything that taps can leave undone."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from .conftest import BOOT_TIMEOUT_S
from .programs import find_program, install_programs, program_disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyhyve.guest.builder import Guest
    from pyhyve.guest.console import GuestConsole

    from .conftest import StartMachine

HOST, FIRST, SECOND = "10.213.78.1", "10.213.78.2", "10.213.78.3"
STREAM_S = 2
STREAM_TIMEOUT_S = 120


@pytest.fixture
def bridge() -> Iterator[str]:
    """An isolated network of the host's."""
    if os.geteuid() != 0:
        pytest.skip("making a network needs root")
    if shutil.which("nft") is None:
        pytest.skip("nft is not installed (apt-get install nftables)")
    name = f"phw{os.getpid()}"
    net = [sys.executable, "-m", "pyhyve", "net"]
    words = ["--mode", "isolated", "--address", f"{HOST}/24", "--no-dhcp"]
    subprocess.run([*net, "create", name, *words], check=True, capture_output=True)
    yield name
    subprocess.run([*net, "delete", name], check=True, capture_output=True)


def stream(text: str) -> dict[str, Any]:
    """What `iperf3 -J` reports of a stream."""
    report = json.loads(text[text.index("{") :])
    assert "error" not in report, report
    result: dict[str, Any] = report["end"]
    return result


def test_streams_between_guests_and_host(debian_6_1: Guest, bridge: str, tmp_path: Path, start: StartMachine) -> None:
    iperf = find_program("iperf3", "iperf3")
    tools = program_disk(tmp_path / "tools", iperf)

    def boot(address: str) -> GuestConsole:
        append = f"console=ttyS0 quiet pyhyve.net={address}/24"
        return start(
            debian_6_1, append, "--disk", f"{tools},format=raw,readonly=on", "--net", f"bridge={bridge}",
            "--memory", "256M",
        )  # fmt: skip

    first, second = boot(FIRST), boot(SECOND)
    for console in (first, second):
        console.wait_ready(BOOT_TIMEOUT_S)
        install_programs(console, "/dev/vda")
    # The daemon may take a while until it listens.
    first.run("iperf3 -s -D; until netstat -ltn | grep -q :5201; do usleep 100000; done", STREAM_TIMEOUT_S)

    for reverse in ([], ["-R"]):
        command = [str(iperf), "-c", FIRST, "-t", str(STREAM_S), "-J", *reverse]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=STREAM_TIMEOUT_S)
        assert stream(done.stdout)["sum_received"]["bytes"] > 1 << 20
        said = second.run(" ".join(["iperf3", "-c", FIRST, "-t", str(STREAM_S), "-J", *reverse]), STREAM_TIMEOUT_S)
        assert stream(said)["sum_received"]["bytes"] > 1 << 20

    # Checksums are left undone between guests: nothing but the contents shows whether all arrived. nc ends with its
    # input, so that is kept open.
    listen = (
        "(sleep 999 | nc -l -p {0} | sha256sum > /tmp/sum) 2>/dev/null &"
        " until netstat -ltn | grep -q :{0}; do usleep 100000; done"
    )
    first.run(listen.format(5001), STREAM_TIMEOUT_S)
    sent = second.run(
        f"head -c 20000000 /dev/urandom > /tmp/data; nc {FIRST} 5001 < /tmp/data; sha256sum < /tmp/data",
        STREAM_TIMEOUT_S,
    )
    wait_for_sum = "until [ -s /tmp/sum ]; do usleep 100000; done; cat /tmp/sum; rm /tmp/sum"
    assert first.run(wait_for_sum, STREAM_TIMEOUT_S).split()[0] == sent.split()[0]

    data = random.Random(3).randbytes(20_000_000)
    first.run(listen.format(5002), STREAM_TIMEOUT_S)
    with socket.create_connection((FIRST, 5002), STREAM_TIMEOUT_S) as connection:
        connection.sendall(data)
    assert first.run(wait_for_sum, STREAM_TIMEOUT_S).split()[0] == hashlib.sha256(data).hexdigest()

    # While a stream runs, the driver gives its card up and takes it again, as often as the device is reset.
    second.run(f"(while :; do iperf3 -c {FIRST} -t 60 >/dev/null 2>&1; usleep 100000; done) &")
    resets = (
        "d=$(basename $(readlink -f /sys/class/net/eth0/device)); cd /sys/bus/virtio/drivers/virtio_net;"
        " for n in $(seq 100); do echo $d > unbind; echo $d > bind; done; cd /;"
        f" ip link set eth0 up; ip address add {FIRST}/24 dev eth0; echo did $n"
    )
    assert first.run(resets, STREAM_TIMEOUT_S).endswith("did 100\n")
    second.run("kill %1")
    # And once more in peace, so that nothing is under way; the neighbour may have to ask for its address anew.
    assert first.run(resets.replace("seq 100", "seq 1"), STREAM_TIMEOUT_S).endswith("did 1\n")
    said = second.run(f"until ping -c 1 -W 5 {FIRST}; do sleep 1; done", STREAM_TIMEOUT_S)
    assert " 1 packets received" in said
