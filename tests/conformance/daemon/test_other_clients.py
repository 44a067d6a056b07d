"""Clients nobody here wrote, beside virsh: virt-install, virt-manager, python-libvirt, an exporter, D-Bus.

They run where the daemon runs: in namespaces of their own, on a bus and a display of their own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
NETWORK = """
<network><name>lab</name><forward mode='nat'/><bridge name='labbr0'/>
<ip address='10.66.0.1' netmask='255.255.255.0'><dhcp><range start='10.66.0.2' end='10.66.0.99'/></dhcp></ip></network>
"""
_SERVE = """
set -e
for path in /run/libvirt /run/pyhyve /var/lib/pyhyve /var/cache/pyhyve /etc/pyhyve /var/log/pyhyve; do
    mkdir -p $path
    mount -t tmpfs -o mode=755 tmpfs $path
done
ip link set lo up
mount -t sysfs sysfs /sys
exec "$0" -m pyhyve daemon --system --listen libvirt
"""
_EVENTS = """
import libvirt, threading
libvirt.virEventRegisterDefaultImpl()
threading.Thread(target=lambda: [libvirt.virEventRunDefaultImpl() for _ in iter(int, 1)], daemon=True).start()
connection = libvirt.open("qemu:///system")
seen, done = [], threading.Event()
def lifecycle(connection, domain, event, detail, _):
    seen.append((domain.name(), event, detail))
    if event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
        done.set()
connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, None)
domain = connection.lookupByName("guest")
assert [d.name() for d in connection.listAllDomains()] == ["guest"]
assert connection.networkLookupByName("lab").isActive()
domain.suspend(); domain.resume(); domain.destroy()
assert done.wait(60)
print(seen)
"""


def missing(*programs: str) -> str | None:
    absent = [program for program in programs if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    probe = subprocess.run(["unshare", "-m", "-n", "true"], capture_output=True, check=False)
    return None if probe.returncode == 0 else "namespaces need root"


class Place:
    """The namespaces a daemon runs in."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def command(self, *words: str) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "-m", "-n", *words]

    def run(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words), capture_output=True, text=True, check=False, timeout=120, env=os.environ | more
        )

    def virsh(self, line: str) -> str:
        done = self.run("virsh", line)
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextlib.contextmanager
def started(command: list[str], log: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=os.environ | more, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def wait_for(text: str, log: Path, seconds: float = 60) -> str:
    deadline = time.monotonic() + seconds
    while text not in (said := log.read_text(errors="replace")):
        assert time.monotonic() < deadline, said
        time.sleep(0.1)
    return said


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A daemon where a bare client finds it, with a network, a pool and a machine that virt-install made."""
    if reason := missing("virsh", "virt-install", "qemu-system-x86_64", "dnsmasq", "nft", "nsenter"):
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("clients")
    log = directory / "daemon.log"
    command = ["unshare", "-m", "-n", "--propagation", "private", "bash", "-c", _SERVE, sys.executable]
    search = os.pathsep.join(filter(None, sys.path))
    with started(command, log, PYTHONPATH=search) as process:
        wait_for("ready, listening", log)
        here = Place(process.pid)
        (directory / "network.xml").write_text(NETWORK)
        here.virsh(f"net-define {directory}/network.xml; net-start lab")
        here.virsh(f"pool-define-as images dir --target {directory}/images; pool-build images; pool-start images")
        made = here.run(
            *("virt-install", "--connect", "qemu:///system", "--name", "guest", "--memory", "64", "--vcpus", "1"),
            *("--disk", "pool=images,size=0.01", "--network", "network=lab", "--import", "--virt-type", "qemu"),
            *("--osinfo", "detect=off,require=off", "--graphics", "none", "--noautoconsole"),
            PYTHONPATH="",
        )
        assert made.returncode == 0, made.stdout + made.stderr
        try:
            yield here
        finally:
            here.run("virsh", "destroy guest; undefine guest; net-destroy lab; pool-destroy images")


def test_virt_install_made_what_it_was_asked_for(place: Place) -> None:
    assert "running" in place.virsh("domstate guest")
    assert "guest.qcow2" in place.virsh("vol-list images")
    assert "lab" in place.virsh("domiflist guest")


def test_exporter_reads_statistics(place: Place, tmp_path: Path) -> None:
    if reason := missing("prometheus-libvirt-exporter", "curl"):
        pytest.skip(reason)
    command = place.command("prometheus-libvirt-exporter", "--web.listen-address=127.0.0.1:9177")
    with started(command, tmp_path / "log"):
        deadline = time.monotonic() + 60
        while "libvirt_up 1" not in (done := place.run("curl", "-s", "http://127.0.0.1:9177/metrics")).stdout:
            assert time.monotonic() < deadline, done.stdout
            time.sleep(0.1)
    assert 'libvirt_domain_info_virtual_cpus{domain="guest"' in done.stdout
    assert 'source_bridge="labbr0"' in done.stdout


def test_dbus_bridge_lists_domains(place: Place, tmp_path: Path) -> None:
    if reason := missing("libvirt-dbus", "dbus-run-session", "gdbus"):
        pytest.skip(reason)
    script = (
        "export DBUS_SYSTEM_BUS_ADDRESS=$DBUS_SESSION_BUS_ADDRESS; PATH=$PATH:/usr/sbin\n"
        "libvirt-dbus --system & bridge=$!\n"
        "gdbus wait --session --timeout 60 org.libvirt\n"
        "gdbus call --session -d org.libvirt -o /org/libvirt/QEMU -m org.libvirt.Connect.ListDomains 0\n"
        "gdbus call --session -d org.libvirt -o /org/libvirt/QEMU -m org.libvirt.Connect.ListNetworks 0\n"
        "kill $bridge\n"
    )
    done = place.run("dbus-run-session", "--", "bash", "-c", script)
    assert "/org/libvirt/QEMU/domain/_" in done.stdout, done.stderr
    assert "/org/libvirt/QEMU/network/_" in done.stdout


def test_virt_manager_opens_the_machine(place: Place, tmp_path: Path) -> None:
    if reason := missing("virt-manager", "Xvfb", "dbus-run-session", "xdotool", "import"):
        pytest.skip(reason)
    log, screen = tmp_path / "log", tmp_path / "screen.png"
    display = f":{100 + os.getpid() % 400}"
    more = {"DISPLAY": display, "NO_AT_BRIDGE": "1", "GSETTINGS_BACKEND": "memory", "PYTHONPATH": ""}
    more["XDG_CACHE_HOME"] = str(tmp_path)
    window = ("virt-manager", "--no-fork", "--debug", "--connect", "qemu:///system", "--show-domain-console", "guest")
    with (
        started(["Xvfb", display, "-screen", "0", "1024x768x24"], tmp_path / "xvfb.log"),
        started(place.command("dbus-run-session", "--", *window), log, **more),
    ):
        said = wait_for("Opening console stream", log, 120)
        deadline = time.monotonic() + 60
        while True:
            found = subprocess.run(
                ["xdotool", "search", "--onlyvisible", "--name", "guest on"],
                capture_output=True,
                check=False,
                env=os.environ | more,
            )
            if found.stdout.strip():
                break
            assert time.monotonic() < deadline, log.read_text(errors="replace")
            time.sleep(0.3)
        subprocess.run(["import", "-window", "root", str(screen)], check=True, env=os.environ | more, timeout=60)
    assert "Showing VM details: <vmmDomain name=guest" in log.read_text(errors="replace")
    assert "Traceback" not in said
    colours = subprocess.run(
        ["identify", "-format", "%k", str(screen)], capture_output=True, text=True, check=True, timeout=60
    )
    # A console is black, the bars above it are not: an empty screen has one colour.
    assert int(colours.stdout) > 10


def test_python_libvirt_sees_what_happens(place: Place) -> None:
    probe = subprocess.run(["/usr/bin/python3", "-c", "import libvirt"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("no python3-libvirt")
    done = place.run("/usr/bin/python3", "-c", _EVENTS, PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    # suspended (paused), resumed (unpaused), shut down (by the host), stopped (destroyed), as from libvirtd
    assert done.stdout.strip() == "[('guest', 3, 0), ('guest', 4, 0), ('guest', 6, 2), ('guest', 5, 1)]"
