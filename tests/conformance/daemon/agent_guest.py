"""A Linux guest with Debian's qemu-ga in it, on a disk with a file system: for what is asked of the guest agent."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from pyhyve.guest import cpio

AGENT = Path("/usr/sbin/qemu-ga")
_SCRIPT = b"""#!/bin/busybox sh
mkdir -p /mnt/data /var/run
mount -t ext4 /dev/vda /mnt/data
/usr/sbin/qemu-ga -d -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -t /run
"""


def why_not() -> str | None:
    """Why there can be no such guest here, or None."""
    if not AGENT.exists():
        return "no guest agent (Debian package qemu-guest-agent)"
    return None if shutil.which("mkfs.ext4", path="/usr/sbin:/sbin") else "no mkfs.ext4 (Debian package e2fsprogs)"


def _libraries() -> list[Path]:
    said = subprocess.run(["ldd", AGENT], capture_output=True, text=True, check=True).stdout
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", said)]


def make_initrd(base: Path, path: Path) -> Path:
    """Return a guest's initial RAM file system with the agent added to it."""
    entries = [
        cpio.directory(name)
        for name in ("usr", "usr/sbin", "etc", "etc/init.d", "lib", "lib64", "lib/x86_64-linux-gnu", "mnt", "var")
    ]
    entries.append(cpio.file("usr/sbin/qemu-ga", AGENT.read_bytes(), 0o755))
    entries += [cpio.file(str(library).lstrip("/"), library.resolve().read_bytes(), 0o755) for library in _libraries()]
    entries.append(cpio.file("etc/init.d/agent", _SCRIPT, 0o755))
    path.write_bytes(base.read_bytes() + cpio.pack(entries))
    return path


def make_disk(path: Path) -> Path:
    """A disk with an empty file system on it, the same one each time."""
    with path.open("wb") as file:
        file.truncate(16 << 20)
    uuid = "6cb9ea2b-5f4e-4d8b-8f0e-2d3f6f2a1a11"
    command = ["/usr/sbin/mkfs.ext4", "-q", "-F", "-U", uuid, str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


def document(name: str, kernel: Path, initrd: Path, disk: Path) -> str:
    """The guest's document."""
    return f"""<domain type='qemu'><name>{name}</name><memory unit='MiB'>256</memory><vcpu>2</vcpu>
    <os><type arch='x86_64' machine='pc'>hvm</type><kernel>{kernel}</kernel><initrd>{initrd}</initrd>
    <cmdline>console=ttyS0 quiet pyhyve.hostname=asked</cmdline></os><features><acpi/></features>
    <clock offset='utc'/><devices>
    <disk type='file' device='disk'><driver name='qemu' type='raw' discard='unmap'/><source file='{disk}'/>
    <target dev='vda' bus='virtio'/></disk>
    <interface type='user'><mac address='52:54:00:11:22:33'/><model type='virtio'/></interface>
    <serial type='pty'/>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices></domain>"""
