"""A libvirtd with directories of its own, in namespaces of its own, for the time of a test."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = """
set -e
for path in /run/libvirt /var/lib/libvirt /etc/libvirt /var/cache/libvirt /var/log/libvirt; do
    mkdir -p $path
    mount -t tmpfs tmpfs $path
done
ip link set lo up
cat > /etc/libvirt/qemu.conf <<END
security_driver = "none"
cgroup_controllers = [$1]
user = "root"
group = "root"
stdio_handler = "file"
END
if [ -n "$2" ]; then
    mount --bind "$(type -P true)" "$(readlink -f "$(type -P "$2")")"
fi
exec libvirtd -f "$0/libvirtd.conf" -p "$0/pid"
"""


def why_not() -> str | None:
    """Return why libvirtd cannot run here, or None."""
    for program, package in (("libvirtd", "libvirt-daemon-system"), ("virsh", "libvirt-clients"), ("ip", "iproute2")):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian package {package})"
    probe = subprocess.run(["unshare", "-m", "-n", "true"], capture_output=True, check=False)
    return None if probe.returncode == 0 else "namespaces need root"


@contextlib.contextmanager
def running_libvirtd(controllers: str = "", *, without: str = "") -> Iterator[Path]:
    """Run libvirtd, with these controllers (as in its qemu.conf) for its machines; give the path of its socket.

    ``without`` is a program that does nothing there, where the host's kernel would not let it.
    """
    with tempfile.TemporaryDirectory(prefix="libvirtd-") as directory:
        Path(directory, "libvirtd.conf").write_text(
            f'unix_sock_dir = "{directory}"\nauth_unix_rw = "none"\nauth_unix_ro = "none"\n', encoding="ascii"
        )
        with Path(directory, "log").open("wb") as log:
            process = subprocess.Popen(
                ["unshare", "-m", "-n", "bash", "-c", SCRIPT, directory, controllers, without],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        try:
            path = Path(directory, "libvirt-sock")
            deadline = time.monotonic() + 60
            while not path.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(Path(directory, "log").read_text(encoding="utf-8", errors="replace"))
                time.sleep(0.1)
            yield path
        finally:
            process.terminate()
            process.wait(60)
