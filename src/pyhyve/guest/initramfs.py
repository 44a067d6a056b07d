"""The initial RAM file system of a guest: busybox, modules, and the scripts beside this file."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from pyhyve.guest import cpio, modules
from pyhyve.guest.deb import PackageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyhyve.guest.modules import Module
    from pyhyve.guest.ssh import SshKeys

APPLETS_START = b"\0[\0[[\0"
"""busybox keeps its applet names sorted, NUL-terminated, with an empty one at the end; these two come first."""

DEVICE_MODULES = (
    "ata_piix",
    "ahci",
    "virtio_pci",
    "virtio_blk",
    "virtio_scsi",
    "virtio_net",
    "virtio_console",
    "virtio_rng",
    "virtio_balloon",
    "virtio_mmio",
    "vmw_vsock_virtio_transport",
    "ext4",
    "crc32c_generic",
    "af_packet",
    "isofs",
    "sd_mod",
    "sr_mod",
)
"""What the devices of our machines need; those that a kernel has built in, or lacks, are left out."""

PROFILE = b"""PS1='\\h:\\w# '
export PS1
cd /root
"""

BENCHMARK_INIT = b"""#!/bin/busybox sh
# For benchmarks: with rdinit=/boot-done, say that process 1 runs, then power off.
echo pyhyve-boot-done
exec busybox poweroff -f
"""


SCRIPTS = ("init.sh", "console.sh", "udhcpc.sh", "dropbear.sh")


def script(name: str) -> bytes:
    """A guest script that comes with pyhyve."""
    return resources.files("pyhyve.guest").joinpath(name).read_bytes()


def applets(busybox: bytes) -> list[str]:
    """The commands that a busybox program offers.

    Raises PackageError when it holds no list of them.
    """
    start = busybox.find(APPLETS_START)
    end = busybox.find(b"\0\0", start + 1)
    if start < 0 or end < 0:
        msg = "busybox: no list of applets in the program"
        raise PackageError(msg)
    names = busybox[start + 1 : end].decode("ascii", "replace").split("\0")
    if not {"sh", "mount", "modprobe", "poweroff"} <= set(names):
        msg = "busybox: the program lacks commands a guest needs"
        raise PackageError(msg)
    return names


def ssh_entries(dropbear: bytes, libraries: Mapping[str, bytes], keys: SshKeys) -> list[cpio.Entry]:
    """An ssh server that starts at boot and accepts the user's key; `libraries` maps paths to contents."""
    return [
        *(cpio.file(path, data, 0o755) for path, data in libraries.items()),
        cpio.file("sbin/dropbear", dropbear, 0o755),
        cpio.file("etc/init.d/50-dropbear", script("dropbear.sh"), 0o755),
        cpio.file("etc/dropbear/ed25519", keys.host_private, 0o600),
        cpio.file("etc/shells", b"/bin/sh\n"),
        cpio.directory("root/.ssh", 0o700),
        cpio.file("root/.ssh/authorized_keys", f"{keys.authorized}\n".encode(), 0o600),
    ]


def build(
    busybox: bytes, release: str, loadable: list[Module], always: list[str], extra: Sequence[cpio.Entry] = ()
) -> bytes:
    """The cpio archive for kernel `release`.

    `always` names modules loaded whether or not a device asks for them; `extra` entries are added as they are.
    """
    base = f"lib/modules/{release}"
    entries = [
        *(cpio.directory(path) for path in ("dev", "proc", "sys", "run", "mnt", "etc/init.d")),
        cpio.directory("tmp", 0o1777),
        cpio.directory("root", 0o700),
        cpio.character_device("dev/console", 5, 1),
        cpio.character_device("dev/null", 1, 3, 0o666),
        cpio.file("init", script("init.sh"), 0o755),
        cpio.file("boot-done", BENCHMARK_INIT, 0o755),
        cpio.file("sbin/console", script("console.sh"), 0o755),
        cpio.file("etc/udhcpc.script", script("udhcpc.sh"), 0o755),
        cpio.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),
        cpio.file("etc/group", b"root:x:0:\n"),
        cpio.file("etc/hosts", b"127.0.0.1 localhost\n"),
        cpio.file("etc/profile", PROFILE),
        cpio.file("etc/modules", "".join(f"{name}\n" for name in always).encode()),
        cpio.file("bin/busybox", busybox, 0o755),
        *(cpio.symlink(f"bin/{name}", "busybox") for name in applets(busybox) if name != "busybox"),
        # The kernel calls /sbin/modprobe by this name.
        cpio.symlink("sbin/modprobe", "../bin/busybox"),
        cpio.file(f"{base}/modules.dep", modules.dependency_index(loadable).encode()),
        cpio.file(f"{base}/modules.alias", modules.alias_index(loadable).encode()),
        cpio.file(f"{base}/modules.symbols", b""),
        *(cpio.file(f"{base}/{module.path}", module.data) for module in loadable),
        *extra,
    ]
    return cpio.pack(entries)
