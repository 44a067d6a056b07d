"""Linux's virtio-blk driver against our rings and requests: QEMU runs the guest and lends its memory (vhost-user)."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from pyhyve.backends.block import open_backend
from pyhyve.backends.ioloop import IoLoop
from pyhyve.devices.virtio.block import BlockOptions, VirtioBlock
from pyhyve.devices.virtio.spec import Feature
from pyhyve.guest.builder import find_guest
from pyhyve.image.opening import OpenSettings, open_image
from pyhyve.support.errors import UserError
from pyhyve.testing.vhost_user import VhostUserBackend

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86 is not installed"),
    pytest.mark.skipif(shutil.which("mke2fs") is None, reason="e2fsprogs is not installed"),
]

SCRIPT = """\
echo serial=$(cat /sys/block/vdb/serial)
mkdir -p /mnt
dd if=/dev/urandom of=/tmp/a bs=64k count=128 2>/dev/null
echo written=$(md5sum < /tmp/a)
mount -t ext4 /dev/vdb /mnt && cp /tmp/a /mnt/x && umount /mnt
echo 3 > /proc/sys/vm/drop_caches
mount -t ext4 /dev/vdb /mnt && echo remounted=$(md5sum < /mnt/x); umount /mnt
device=$(basename $(readlink -f /sys/block/vdb/device))
i=0
while [ $i -lt 100 ]; do
    echo $device > /sys/bus/virtio/drivers/virtio_blk/unbind
    echo $device > /sys/bus/virtio/drivers/virtio_blk/bind
    i=$((i+1))
done
mount -t ext4 /dev/vdb /mnt && echo rebound=$(md5sum < /mnt/x); umount /mnt
dd if=/dev/vdb of=/dev/null bs=4k count=500 iflag=direct 2>/dev/null && echo direct=ok
blkdiscard /dev/vdb && echo discarded=$(dd if=/dev/vdb bs=64k count=16 2>/dev/null | tr -d '\\0' | wc -c)
poweroff -f
exit
"""


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_linux_uses_our_disk(tmp_path: Path, packed: bool) -> None:
    try:
        guest = find_guest("debian")
    except UserError as error:
        pytest.skip(str(error))
    disk, script, path = tmp_path / "disk", tmp_path / "script", tmp_path / "blk"
    script.write_bytes(SCRIPT.encode().ljust(1 << 20, b"\n"))
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", str(disk)], check=True)
    loop = IoLoop("vhost-user")
    image = open_image(str(disk), OpenSettings(format_name="raw", writable=True))
    backend = VhostUserBackend(
        str(path),
        loop,
        lambda memory: VirtioBlock(memory, loop, open_backend(image), BlockOptions(serial="pyhyve-1", queues=2)),
    )
    loop.start()
    device = f"vhost-user-blk-pci,chardev=blk,num-queues=2,packed={'on' if packed else 'off'}"
    command = [
        "qemu-system-x86_64", "-M", "q35", "-m", "192M", "-accel", "tcg", "-nographic", "-nodefaults", "-no-reboot",
        "-object", "memory-backend-memfd,id=ram,size=192M,share=on", "-machine", "memory-backend=ram",
        "-serial", "stdio", "-kernel", str(guest.kernel), "-initrd", str(guest.initrd),
        "-append", "console=ttyS0 quiet panic=-1 pyhyve.run=sh,/dev/vda",
        "-drive", f"file={script},format=raw,if=none,id=script", "-device", "virtio-blk-pci,drive=script",
        "-chardev", f"socket,id=blk,path={path}", "-device", device,
    ]  # fmt: skip
    try:
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=200, check=False)
        features = backend.device.driver_features
    finally:
        backend.close()
        assert isinstance(backend.device, VirtioBlock)
        backend.device.close()
        loop.stop()
    said = dict(re.findall(r"(\w+)=([^\r\n]*)", result.stdout.decode(errors="replace")))
    assert said["serial"] == "pyhyve-1"
    assert said["written"] == said["remounted"] == said["rebound"]
    assert said["direct"] == "ok"
    assert said["discarded"] == "0"
    assert bool(features & Feature.RING_PACKED) == packed
    assert features & Feature.EVENT_IDX
