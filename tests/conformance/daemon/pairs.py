"""Two daemons that reach each other, on two hosts as far as they can tell: one network, a host name each."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sides import ENVIRONMENT, Reply, Volatile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_LIBVIRTD = """
set -e
hostname "$1"
for path in /run/libvirt /var/lib/libvirt /etc/libvirt /var/cache/libvirt /var/log/libvirt; do
    mkdir -p $path
    mount -t tmpfs tmpfs $path
done
cat > /etc/libvirt/qemu.conf <<END
security_driver = "none"
cgroup_controllers = []
user = "root"
group = "root"
stdio_handler = "file"
END
exec libvirtd --listen -f "$0/libvirtd.conf" -p "$0/pid"
"""
_OURS = 'hostname "$1"; exec "$2" -m pyhyve daemon --system --root "$0/root" --listen "tcp:127.0.0.1:$3"'
PORTS = {"a": 16601, "b": 16602}


@dataclass
class Host:
    """One daemon of a pair."""

    name: str
    directory: Path
    uri: str
    peer_uri: str
    process: subprocess.Popen[bytes]
    command: Sequence[str]

    def virsh(self, *command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run real virsh."""
        return subprocess.run(
            ["virsh", "-c", self.uri, *command],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
        )

    def start_virsh(self, *command: str) -> subprocess.Popen[str]:
        """Run real virsh beside what else happens."""
        return subprocess.Popen(
            ["virsh", "-c", self.uri, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
        )

    def wait_ready(self) -> None:
        """Wait until it serves."""
        deadline = time.monotonic() + 60
        while self.virsh("list").returncode:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.directory / "log").read_text(errors="replace"))
            time.sleep(0.05)

    def start(self) -> None:
        """Start it (again)."""
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=ENVIRONMENT
            )
        self.wait_ready()

    def state(self, domain: str) -> str:
        """A domain's state and its reason; nothing where there is none."""
        return self.virsh("domstate", domain, "--reason").stdout.strip()


@dataclass
class Pair:
    """Two daemons and a directory both see."""

    directory: Path
    a: Host
    b: Host
    replies: list[Reply] = field(default_factory=list)

    def run(self, line: str, volatile: Volatile) -> Reply:
        """Run a line of a session: the host's letter, and commands."""
        host, _, commands = line.partition(" ")
        names = {"@PA@": self.a.peer_uri, "@PB@": self.b.peer_uri, "@A@": self.a.uri, "@B@": self.b.uri}
        for name, uri in {**names, "@DIR@": str(self.directory)}.items():
            commands = commands.replace(name, uri)
        done = (self.a if host == "a" else self.b).virsh(commands)
        return done.returncode, self._plain(done.stdout, volatile), self._plain(done.stderr, volatile)

    def _plain(self, text: str, volatile: Volatile) -> str:
        text = text.replace(str(self.directory), "DIR")
        for pattern, word in volatile:
            text = pattern.sub(word, text)
        return re.sub(r" +", " ", text)

    def clean(self) -> None:
        """Leave no domain behind."""
        for host in (self.a, self.b):
            for name in host.virsh("list", "--name").stdout.split():
                host.virsh("destroy", name)
            for name in host.virsh("list", "--all", "--name").stdout.split():
                host.virsh("undefine", name)


def _host(kind: str, name: str, directory: Path, network: int) -> Host:
    directory.mkdir()
    enter = ["nsenter", "-t", str(network), "-n", "unshare", "-m", "-u", "--propagation", "private", "bash", "-c"]
    port = PORTS[name]
    if kind == "libvirtd":
        uuid = f"11111111-1111-4111-8111-00000000000{ord(name) - ord('a')}"
        (directory / "libvirtd.conf").write_text(
            f'unix_sock_dir = "{directory}"\nauth_unix_rw = "none"\nauth_unix_ro = "none"\nhost_uuid = "{uuid}"\n'
            f'listen_tls = 0\nlisten_tcp = 1\nlisten_addr = "127.0.0.1"\ntcp_port = "{port}"\nauth_tcp = "none"\n',
            encoding="ascii",
        )
        command = [*enter, _LIBVIRTD, str(directory), f"host-{name}"]
        socket = directory / "libvirt-sock"
    else:
        (directory / "root/etc").mkdir(parents=True)
        (directory / "root/etc/daemon.toml").write_text('[tcp]\nauth = "none"\n', encoding="ascii")
        command = [*enter, _OURS, str(directory), f"host-{name}", sys.executable, str(port)]
        socket = directory / "root/run/virtpyhyved-sock"
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=ENVIRONMENT)
    uri, peer = f"qemu:///system?socket={socket}", f"qemu+tcp://127.0.0.1:{port}/system"
    return Host(name, directory, uri, peer, process, command)


@contextlib.contextmanager
def running_pair(kinds: tuple[str, str], directory: Path) -> Iterator[Pair]:
    """Run two daemons, each ``libvirtd`` or ``ours``."""
    network = subprocess.Popen(
        ["unshare", "-n", "bash", "-c", "ip link set lo up && echo up && exec sleep infinity"], stdout=subprocess.PIPE
    )
    hosts: list[Host] = []
    try:
        assert network.stdout is not None
        assert network.stdout.readline() == b"up\n"
        for name, kind in zip("ab", kinds, strict=True):
            hosts.append(_host(kind, name, directory / f"host-{name}", network.pid))
        for host in hosts:
            host.wait_ready()
        pair = Pair(directory, *hosts)
        try:
            yield pair
        finally:
            pair.clean()
    finally:
        for host in hosts:
            host.process.terminate()
        for host in hosts:
            host.process.wait(60)
        network.kill()
        network.wait()
        if network.stdout is not None:
            network.stdout.close()


def has_namespaces() -> bool:
    """Whether namespaces can be made here."""
    probe = subprocess.run(["unshare", "-m", "-n", "-u", "true"], capture_output=True, check=False)
    return probe.returncode == 0 and os.geteuid() == 0
