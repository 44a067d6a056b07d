"""Real virsh over every transport, with every way to authenticate."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from certificates import make_certificates
from daemon_process import DaemonProcess, running_daemon, virsh

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("virsh") is None, reason="no virsh (Debian package libvirt-clients)")
PASSWORD = "pencil and paper"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl (Debian package openssl)")
    directory = tmp_path_factory.mktemp("pki")
    make_certificates(directory)
    return directory


def configure(root: Path, text: str) -> None:
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "daemon.toml").write_text(text)


def tls_section(certificates: Path, more: str = "") -> str:
    files = {"ca": "cacert.pem", "certificate": "servercert.pem", "key": "serverkey.pem"}
    return "[tls]\n" + "\n".join(f'{key} = "{certificates / name}"' for key, name in files.items()) + f"\n{more}\n"


def client_pki(certificates: Path, directory: Path, name: str) -> Path:
    directory.mkdir()
    shutil.copy(certificates / "cacert.pem", directory / "cacert.pem")
    shutil.copy(certificates / f"{name}cert.pem", directory / "clientcert.pem")
    shutil.copy(certificates / f"{name}key.pem", directory / "clientkey.pem")
    return directory


def credentials(directory: Path, password: str) -> dict[str, str]:
    """What virsh reads names and passwords from, as its environment."""
    path = directory / "auth.conf"
    path.write_text(f"[credentials-x]\nauthname=alice\npassword={password}\n[auth-libvirt-default]\ncredentials=x\n")
    return {"LIBVIRT_AUTH_FILE": str(path)}


def test_tcp_without_authentication(tmp_path: Path) -> None:
    port = free_port()
    configure(tmp_path / "root", '[tcp]\nauth = "none"\n')
    with running_daemon(tmp_path / "root", "--listen", f"tcp:127.0.0.1:{port}"):
        done = virsh(f"test+tcp://127.0.0.1:{port}/default", "nodeinfo")
        assert (done.returncode, done.stderr) == (0, "")
        assert "i686" in done.stdout


def test_tcp_asks_for_a_password_unless_told_otherwise(tmp_path: Path) -> None:
    port = free_port()
    with running_daemon(tmp_path / "root", "--listen", f"tcp:127.0.0.1:{port}"):
        done = virsh(f"test+tcp://127.0.0.1:{port}/default", "nodeinfo")
        assert done.returncode == 1
        assert "error: failed to connect to the hypervisor" in done.stderr


@pytest.mark.parametrize(("who", "accepted"), [("client", True), ("stranger", False)])
def test_tls_with_certificates_on_both_sides(tmp_path: Path, certificates: Path, who: str, accepted: bool) -> None:
    port = free_port()
    configure(tmp_path / "root", tls_section(certificates))
    pki = client_pki(certificates, tmp_path / "pki", who)
    with running_daemon(tmp_path / "root", "--listen", f"tls:localhost:{port}") as daemon:
        done = virsh(f"test+tls://localhost:{port}/default?pkipath={pki}", "capabilities")
        assert (done.returncode == 0) is accepted, done.stderr
        assert ("</capabilities>" in done.stdout) is accepted
        assert virsh(daemon.uri(), "hostname").returncode == 0


@pytest.mark.parametrize(("pattern", "accepted"), [("CN=alice,*", True), ("CN=bob,*", False)])
def test_tls_names_are_checked(tmp_path: Path, certificates: Path, pattern: str, accepted: bool) -> None:
    port = free_port()
    configure(tmp_path / "root", tls_section(certificates, f'allowed_names = ["{pattern}"]'))
    pki = client_pki(certificates, tmp_path / "pki", "client")
    with running_daemon(tmp_path / "root", "--listen", f"tls:localhost:{port}"):
        done = virsh(f"test+tls://localhost:{port}/default?pkipath={pki}", "hostname")
        assert (done.returncode == 0) is accepted, done.stderr


@pytest.mark.parametrize("transport", ["unix", "tls"])
def test_scram_lets_in_who_knows_the_password(
    tmp_path: Path, certificates: Path, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    sections = tls_section(certificates, 'auth = "sasl"') + '[unix]\nauth = "sasl"\n'
    configure(tmp_path / "root", sections)
    set_password = subprocess.run(
        [sys.executable, "-m", "pyhyve", "daemon", "--root", tmp_path / "root", "--set-password", "alice"],
        input=PASSWORD + "\n",
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert set_password.returncode == 0
    pki = client_pki(certificates, tmp_path / "pki", "client")
    with running_daemon(tmp_path / "root", "--listen", f"tls:localhost:{port}") as daemon:
        uri = daemon.uri() if transport == "unix" else f"test+tls://localhost:{port}/default?pkipath={pki}"
        for password, accepted in ((PASSWORD, True), ("wrong", False)):
            for name, value in credentials(tmp_path, password).items():
                monkeypatch.setenv(name, value)
            done = virsh(uri, "hostname")
            if "No worthy mechs" in done.stderr:
                pytest.skip("the client has no SCRAM (Debian package libsasl2-modules)")
            assert (done.returncode == 0) is accepted, done.stderr
            assert ("authentication failed" in done.stderr) is not accepted


def test_policy_decides_by_user(tmp_path: Path) -> None:
    root = tmp_path / "root"
    configure(root, "")
    (root / "etc" / "policy.toml").write_text(
        '[[rule]]\nwho = ["user:root", "uid:1000"]\nallow = ["connect:getattr", "connect:read"]\n'
    )
    with running_daemon(root) as daemon:
        assert virsh(daemon.uri(), "nodeinfo").returncode == 0
        done = virsh(daemon.uri(), "allocpages 2048 1")
        assert done.returncode == 1
        assert "access denied: 'connect' denied 'write' access" in done.stderr
        (root / "etc" / "policy.toml").write_text('[[rule]]\nwho = ["*"]\nallow = ["connect:getattr"]\n')
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 60
        while "reloaded" not in daemon.log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert "denied 'read'" in virsh(daemon.uri(), "nodeinfo").stderr


ACTIVATOR = """
import os, socket, sys
listeners = []
for number, path in enumerate(sys.argv[1:3]):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    listeners.append(listener)
first = [os.dup(listener.fileno()) for listener in listeners]
for number, descriptor in enumerate(first):
    os.dup2(descriptor, 3 + number)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "pyhyve-daemon:pyhyve-daemon-ro"}
os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
"""


@pytest.fixture
def activated(tmp_path: Path) -> Iterator[Path]:
    """A daemon whose sockets and notification are systemd's, or would be."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as endpoint:
        endpoint.bind(str(tmp_path / "notify"))
        endpoint.settimeout(60)
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", ACTIVATOR, tmp_path / "sock", tmp_path / "sock-ro"),
                *("-m", "pyhyve", "daemon", "--root", tmp_path / "root"),
            ],
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "NOTIFY_SOCKET": str(tmp_path / "notify")},
            stderr=subprocess.DEVNULL,
        )
        assert endpoint.recv(100) == b"READY=1"
        yield tmp_path / "sock"
        process.terminate()
        assert endpoint.recv(100) == b"STOPPING=1"
        assert process.wait(60) == 0


def test_sockets_of_systemd_are_served(activated: Path) -> None:
    assert virsh(f"test+unix:///default?socket={activated}", "hostname").returncode == 0
    done = virsh(f"test+unix:///default?socket={activated}-ro", "allocpages 2048 1")
    assert "read only access prevents" in done.stderr
    assert not (activated.parent / "root/run/virtpyhyved-sock").exists()


def test_only_one_daemon_serves_a_directory(ours: DaemonProcess) -> None:
    second = DaemonProcess(ours.root)
    with pytest.raises(RuntimeError, match=r"another daemon \(process \d+\) already serves"):
        second.start_beside()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_daemon_stops_cleanly_with_a_client_connected(tmp_path: Path, number: signal.Signals) -> None:
    with running_daemon(tmp_path / "root") as daemon, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(daemon.socket))
        assert daemon.stop(number) == 0
        assert client.recv(1) == b""
        assert not daemon.socket.exists()
    with running_daemon(tmp_path / "root") as daemon:
        assert daemon.process is not None
        daemon.process.kill()
        daemon.process.wait(60)
        assert daemon.socket.exists()
        again = DaemonProcess(tmp_path / "root")
        again.start()
        assert virsh(again.uri(), "hostname").returncode == 0
        assert again.stop() == 0
