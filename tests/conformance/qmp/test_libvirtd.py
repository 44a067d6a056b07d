"""Real libvirtd, unmodified, with `pyhyve-system-x86_64` as the emulator of a Linux guest.

In name spaces of its own: mounts, network, and directories below the test's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyhyve.guest.builder import GuestSpec, build_guest
from pyhyve.image.opening import create_image
from pyhyve.support.errors import UserError

PROGRAMS = ("libvirtd", "virsh", "unshare", "ip")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None and not Path(f"/usr/sbin/{name}").exists()]
pytestmark = [
    pytest.mark.skipif(
        bool(MISSING), reason=f"{', '.join(MISSING)} missing (packages libvirt-daemon, libvirt-clients)"
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="libvirtd's name spaces need root"),
    pytest.mark.timeout(1200),
]

SETUP = """
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /run/libvirt
for name in lib cache log; do
    mkdir -p "$WORK/$name"
    mount --bind "$WORK/$name" /var/$name/libvirt
done
mkdir -p "$WORK/etc"
mount --bind "$WORK/etc" /etc/libvirt
cat > /etc/libvirt/libvirtd.conf <<END
log_outputs="3:file:$WORK/libvirtd.log"
auth_unix_rw = "none"
END
cat > /etc/libvirt/qemu.conf <<END
user = "root"
group = "root"
security_driver = "none"
namespaces = []
cgroup_controllers = []
remember_owner = 0
stdio_handler = "file"
END
ip link set lo up
libvirtd </dev/null >"$WORK/out" 2>&1 &
daemon=$!
trap 'kill $daemon; wait $daemon' EXIT
for _ in $(seq 300); do [ -S /run/libvirt/libvirt-sock ] && break; sleep 0.1; done
set +e
"""

DOMAIN = """<domain type='qemu'>
  <name>guest</name><memory unit='MiB'>192</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type><kernel>{kernel}</kernel><initrd>{initrd}</initrd>
    <cmdline>console=ttyS0 quiet</cmdline></os>
  <features><acpi/><apic/></features>
  <devices><emulator>{emulator}</emulator>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{work}/disk.qcow2'/>
      <target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{work}/ide.raw'/>
      <target dev='hda' bus='ide'/></disk>
    <disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{work}/disc.raw'/>
      <target dev='hdc' bus='ide'/><readonly/></disk>
    <interface type='ethernet'><target dev='tap0' managed='yes'/><model type='virtio'/></interface>
    <video><model type='vga'/></video>
    <serial type='file'><source path='{work}/serial.log'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memballoon model='virtio'/>
  </devices>
</domain>
"""
Q35_DOMAIN = """<domain type='qemu'>
  <name>guest</name><memory unit='MiB'>192</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{kernel}</kernel><initrd>{initrd}</initrd>
    <cmdline>console=ttyS0 quiet</cmdline></os>
  <features><acpi/><apic/></features>
  <devices><emulator>{emulator}</emulator>
    <controller type='pci' index='0' model='pcie-root'/>
    <controller type='pci' index='7' model='pcie-root-port'/>
    <controller type='pci' index='8' model='pcie-root-port'/>
    <controller type='usb' model='none'/>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{work}/disk.qcow2'/>
      <target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{work}/ide.raw'/>
      <target dev='sda' bus='sata'/></disk>
    <disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{work}/disc.raw'/>
      <target dev='sdb' bus='sata'/><readonly/></disk>
    <interface type='ethernet'><target dev='tap0' managed='yes'/><model type='virtio'/></interface>
    <serial type='file'><source path='{work}/serial.log'/></serial>
    <memballoon model='virtio'/>
  </devices>
</domain>
"""
CARD = """<interface type='ethernet'><target dev='tap1' managed='yes'/><model type='virtio'/>
<mac address='52:54:00:11:22:33'/></interface>
"""

VERBS = [
    "define {work}/domain.xml",
    "start guest",
    "list",
    "domstate guest --reason",
    "dominfo guest",
    "vcpuinfo guest",
    "BOOTED",
    "suspend guest",
    "resume guest",
    "dommemstat guest",
    "setmem guest 160M --live",
    "domstats guest",
    "send-key guest KEY_LEFTSHIFT KEY_A",
    "screenshot guest {work}/shot.png",
    "change-media guest hdc --eject",
    "change-media guest hdc {work}/disc.raw --insert",
    "domblkinfo guest vda",
    "domblkstat guest vda",
    "domiflist guest",
    "domif-setlink guest tap0 down",
    "domif-setlink guest tap0 up",
    "attach-disk guest {work}/second.raw vdb --driver qemu --subdriver raw --live",
    "detach-disk guest vdb --live",
    "attach-device guest {work}/card.xml --live",
    "detach-device guest {work}/card.xml --live",
    "blockresize guest vda 64M",
    "snapshot-create-as guest one --disk-only --no-metadata --diskspec vda,file={work}/one.qcow2",
    "blockcommit guest vda --active --pivot --wait",
    "snapshot-create-as guest two --disk-only --no-metadata --diskspec vda,file={work}/two.qcow2",
    "blockpull guest vda --wait",
    "blockcopy guest vda {work}/copy.qcow2 --wait --transient-job --finish",
    "dump guest {work}/core --memory-only",
    "inject-nmi guest",
    "save guest {work}/saved",
    "restore {work}/saved",
    "domstate guest",
    "managedsave guest",
    "start guest",
    "reset guest",
    "destroy guest",
    "undefine guest",
]
"""What virsh is asked for, in this order; every one must succeed."""

Q35_VERBS = [
    "define {work}/domain.xml",
    "start guest",
    "BOOTED",
    "attach-disk guest {work}/second.raw vdb --driver qemu --subdriver raw --live",
    "attach-device guest {work}/card.xml --live",
    "detach-disk guest vdb --live",
    "change-media guest sdb --eject",
    "change-media guest sdb {work}/disc.raw --insert",
    "save guest {work}/saved",
    "restore {work}/saved",
    "domblkinfo guest sda",
    "destroy guest",
    "undefine guest",
]
"""The same of a machine whose virtio devices are behind root ports, and whose drives are SATA ones."""


@pytest.mark.parametrize(("domain", "verbs"), [(DOMAIN, VERBS), (Q35_DOMAIN, Q35_VERBS)], ids=["pc", "q35"])
def test_virsh_manages_a_guest(domain: str, verbs: list[str], tmp_path: Path) -> None:
    try:
        guest = build_guest(GuestSpec(), lambda *_: None, lambda _text: None)
    except UserError as error:
        pytest.skip(f"the guest cannot be built here: {error}")
    create_image(str(tmp_path / "disk.qcow2"), "qcow2", 32 << 20)
    for name in ("second", "ide", "disc"):
        create_image(str(tmp_path / f"{name}.raw"), "raw", 8 << 20)
    emulator = tmp_path / "emulator"
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = os.pathsep.join(entry for entry in sys.path if entry)
    emulator.write_text(
        f"#!/bin/sh\nexport PYTHONPATH='{path}' XDG_CACHE_HOME='{cache}'\n"
        f'exec {sys.executable} -m pyhyve.cli.system "$@"\n'
    )
    emulator.chmod(0o755)
    names = {"kernel": guest.kernel, "initrd": guest.initrd, "emulator": emulator, "work": tmp_path}
    (tmp_path / "domain.xml").write_text(domain.format(**names))
    (tmp_path / "card.xml").write_text(CARD)
    lines = [SETUP]
    for verb in verbs:
        if verb == "BOOTED":
            # Hotplug wants a guest that is up.
            lines.append(
                f"for _ in $(seq 1200); do grep -q 'pyhyve:~#' {tmp_path}/serial.log && break; sleep 0.1; done"
            )
        else:
            asked = f"timeout 200 virsh {verb.format(work=tmp_path)} >{tmp_path}/said 2>&1"
            if verb.startswith("detach-") and verbs is Q35_VERBS:
                # A port refuses while the guest is still busy with what was plugged in.
                asked = f"for _ in $(seq 100); do {asked} && break; sleep 0.2; false; done"
            lines.append(asked)
            lines.append(f"echo \"$? {verb.split()[0]} $(head -c 300 {tmp_path}/said | tr '\\n' ' ')\"")
            if verb.startswith("detach-disk"):
                # libvirt waits five seconds, Linux behind a port a little longer.
                gone = f"! virsh domblklist guest | grep -q {verb.split()[2]}"
                lines.append(f"for _ in $(seq 600); do {gone} && break; sleep 0.1; done")
    script = tmp_path / "script"
    script.write_text("\n".join(lines))
    # The engine is compiled before libvirtd asks for it: it waits for its emulator half a minute only.
    subprocess.run(
        [emulator, "-S", "-nodefaults", "-display", "none", "-m", "16", "-qmp", "stdio"],
        input='{"execute": "qmp_capabilities"}{"execute": "quit"}',
        text=True, capture_output=True, check=True, timeout=300,
    )  # fmt: skip
    done = subprocess.run(
        ["unshare", "-m", "-n", "bash", str(script)],
        env=os.environ | {"WORK": str(tmp_path), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
        capture_output=True, text=True, check=False, timeout=550,
    )  # fmt: skip
    answers = [line.split(" ", 2) for line in done.stdout.splitlines() if line[:1].isdigit()]
    failed = [answer for answer in answers if answer[0] != "0"]
    log = tmp_path / "log" / "qemu" / "guest.log"
    assert failed == [], (failed, log.read_text()[-2000:] if log.exists() else done.stderr)
    assert [answer[1] for answer in answers] == [verb.split()[0] for verb in verbs if verb != "BOOTED"]
    if verbs is VERBS:
        assert (tmp_path / "shot.png").read_bytes().startswith(b"\x89PNG")
        return
    started = log.read_text()
    assert '"driver":"virtio-blk-pci","bus":"pci.' in started
    assert started.count('"driver":"pcie-root-port"') >= 4 * 2
    assert "pcie-pci-bridge" not in started
