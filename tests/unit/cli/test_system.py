"""QEMU's command line: what it becomes, and what is refused."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from pyhyve.cli.system import main, pid_file, report
from pyhyve.cli.system_machine import SystemSettings
from pyhyve.cli.system_monitors import MonitorSocket
from pyhyve.cli.system_options import split_command_line
from pyhyve.cli.system_tables import OPTIONS
from pyhyve.devices.error_policy import ErrorPolicy
from pyhyve.machine.config import AccelChoice, Board, CpuTopology, DiskConfig, DiskInterface, MemoryKind, RtcBase
from pyhyve.machine.outcome import Outcome, OutcomeKind
from pyhyve.support.errors import InputError, UserError

if TYPE_CHECKING:
    from pyhyve.machine.config import MachineConfig


disk = functools.partial(DiskConfig, write_errors=ErrorPolicy.ENOSPC)
"""A disk as this command line makes it: `werror` is `enospc` unless it says otherwise."""


def ide(path: Path, index: int, **fields: Any) -> DiskConfig:
    """An IDE drive."""
    name = f"ide{index >> 1}-{'cd' if fields.get('is_cdrom') else 'hd'}{index & 1}"
    return disk(path, interface=DiskInterface.IDE, index=index, drive_id=name, **fields)


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(512))
    return str(path)


def settings(*words: str) -> SystemSettings:
    found = SystemSettings()
    for name, value in split_command_line(words, OPTIONS):
        found.handle(name, value)
    return found


def configure(*words: str) -> MachineConfig:
    return settings("-display", "none", *words).configuration()


def serial_backends(config: MachineConfig) -> list[Any]:
    """What the serial ports are connected to."""
    chardevs = {entry["id"]: entry["backend"] for entry in config.additions.chardevs}
    return [chardevs[name] for name in config.additions.serials or ()]


def test_values_reach_the_configuration(image: str) -> None:
    config = configure(
        *("-machine", "pc,accel=kvm", "-cpu", "host", "-m", "size=1G", "-smp", "4,sockets=4,cores=1"),
        *("-name", "guest=vm,debug-threads=on", "-uuid", "00000000-0000-0000-0000-000000000007"),
        *("-kernel", image, "--initrd", image, "-append", "a,b=c", "-boot", "order=d"),
        *("-no-reboot", "-no-shutdown", "-S", "-nodefaults", "-vga", "none", "-monitor", "none"),
    )
    assert (config.accel, config.memory_bytes, config.cpus, config.name) == (AccelChoice.KVM, 1 << 30, 4, "vm")
    assert config.uuid == UUID(int=7)
    assert (str(config.kernel), str(config.initrd), config.append) == (image, image, "a,b=c")
    assert (config.boot_order, config.no_reboot, config.no_shutdown, config.start_paused) == ("d", True, True, True)


def test_defaults_are_those_of_qemu() -> None:
    config = configure()
    assert (config.memory_bytes, config.cpus, config.accel) == (128 << 20, 1, AccelChoice.JIT)
    assert serial_backends(config) == [{"type": "null", "data": {}}]
    assert serial_backends(settings("-nographic").configuration()) == [{"type": "stdio", "data": {}}]
    assert serial_backends(configure("-nodefaults")) == []
    assert configure("-accel", "kvm", "-accel", "tcg").accel is AccelChoice.AUTO
    assert configure("-enable-kvm").accel is AccelChoice.KVM


def test_all_ways_to_a_disk(image: str) -> None:
    path = Path(image)
    assert configure("-hda", image, "-snapshot").disks == (ide(path, 0, snapshot=True),)
    assert configure(image).disks == (ide(path, 0),)
    assert configure("-cdrom", image).disks == (ide(path, 2, readonly=True, is_cdrom=True),)
    assert configure("-hdd", image, "-drive", f"file={image},id=d").disks == (
        ide(path, 3),
        replace(ide(path, 0), drive_id="d"),
    )
    placed = [f"file={image},media=cdrom,bus=1,unit=1", f"file={image},if=ide,index=1"]
    assert configure("-drive", placed[0], "-drive", placed[1]).disks == (
        ide(path, 3, readonly=True, is_cdrom=True),
        ide(path, 1),
    )
    assert configure("-drive", f"file={image},if=virtio,format=raw,serial=s1").disks == (
        disk(path, "raw", serial="s1"),
    )
    later = configure("-device", "virtio-blk-pci,drive=d,id=vd", "-drive", f"file={image},if=none,id=d,readonly")
    assert later.disks == (disk(path, readonly=True, drive_id="d", is_unplugged=True),)
    assert later.additions.devices == ({"driver": "virtio-blk-pci", "drive": "d", "id": "vd"},)


def test_vga_is_there_by_default_when_firmware_starts(image: str) -> None:
    assert configure("-hda", image).has_vga
    assert not configure("-hda", image).firmware_on_serial
    assert settings("-nographic").configuration().firmware_on_serial
    for words in (["-kernel", image], ["-vga", "none"], ["-nodefaults"], ["-M", "none"], ["-device", "VGA"]):
        assert not configure(*words).has_vga
    assert configure("-kernel", image, "-vga", "std").has_vga
    assert configure("-device", "VGA,id=v").needs_vga_memory
    assert not configure("-vga", "none").needs_vga_memory


def test_microvm_has_virtio_devices_without_pci(image: str) -> None:
    words = ["-M", "microvm", "-kernel", image, "-hda", image, "-cdrom", image, "-nic", "user"]
    config = configure(*words)
    assert config.board is Board.MICROVM
    assert [found.interface for found in config.disks] == [DiskInterface.VIRTIO] * 2
    assert [device["driver"] for device in config.additions.devices] == ["virtio-net-device"]
    assert (config.has_vga, config.has_keyboard) == (False, False)
    for more in (["-vga", "std"], ["-drive", f"file={image},if=ide,index=1"], ["-device", "VGA"]):
        with pytest.raises(InputError, match="no VGA and no IDE without PCI"):
            configure(*words, *more)
    with pytest.raises(InputError, match="name a kernel"):
        configure("-M", "microvm")


def test_q35_has_sata_disks_by_default(image: str) -> None:
    config = configure("-hda", image, "-cdrom", image, "-drive", f"file={image},bus=5,unit=0", "-M", "q35")
    assert (config.board, config.has_vga, config.has_keyboard) == (Board.Q35, True, True)
    assert [(found.interface, found.index, found.drive_id) for found in config.disks] == [
        (DiskInterface.IDE, 0, "ide0-hd0"),
        (DiskInterface.IDE, 2, "ide2-cd0"),
        (DiskInterface.IDE, 5, "ide5-hd0"),
    ]
    with pytest.raises(InputError, match=re.escape("unit 1 too big (max is 0)")):
        configure("-M", "pc-q35-7.2", "-drive", f"file={image},if=ide,bus=1,unit=1")
    with pytest.raises(InputError, match="there are 6 SATA drives at most"):
        configure("-M", "q35", "-drive", f"file={image},index=6")


def test_empty_machine_starts_no_kernel(image: str) -> None:
    with pytest.raises(InputError, match="machine none: it has no processor to start a kernel on"):
        configure("-M", "none", "-kernel", image)


def test_globals_are_what_is_so_anyway() -> None:
    configure("-global", "ICH9-LPC.disable_s3=1", "-global", "driver=PIIX4_PM,property=disable_s4,value=1")
    with pytest.raises(InputError, match=re.escape("-global ICH9-LPC.disable_s3=0: not supported (only 1 or on)")):
        configure("-global", "ICH9-LPC.disable_s3=0")
    with pytest.raises(InputError, match=re.escape("-global e1000.x: not supported")):
        configure("-global", "e1000.x=1")


def test_smbios_fields(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("from a file\n")
    config = configure(
        *("-smbios", "type=1,serial=ds=nocloud;s=http://x/,product=P,uuid=00000000-0000-0000-0000-000000000007"),
        *("-smbios", "type=0,uefi=on,release=1.2"),
        *("-smbios", f"type=11,value=one,value=two,path={tmp_path}/text"),
    )
    assert config.uuid == UUID(int=7)
    assert [dict(entry) for entry in config.smbios] == [
        {"type": 1, "serial": "ds=nocloud;s=http://x/", "product": "P", "uuid": str(UUID(int=7))},
        {"type": 0, "uefi": True, "release": "1.2"},
        {"type": 11, "value": "one"},
        {"type": 11, "value": "two"},
        {"type": 11, "value": "from a file"},
    ]


def test_boot_options_for_firmware() -> None:
    config = configure("-boot", "order=dc,once=d,menu=on,splash-time=1500,strict=on")
    assert (config.boot_order, config.boot_once, config.boot_menu) == ("dc", "d", True)
    assert (config.boot_menu_ms, config.boot_strict) == (1500, True)


def test_options_come_from_a_file_and_are_changed(image: str, tmp_path: Path) -> None:
    path = tmp_path / "machine.cfg"
    path.write_text(
        f"""# a machine
[machine]
  type = "q35"
[memory]
  size = "256M"

[drive "d0"]
  file = "{image}"
  format = "raw"
  if = "none"
[ device "v0" ]
  driver = "virtio-blk-pci"
  drive = "d0"
"""
    )
    config = configure(
        "-m", "64", "-readconfig", str(path), "-set", "device.v0.serial=a,b", "-set", "drive.d0.cache=none"
    )
    assert (config.board, config.memory_bytes) == (Board.Q35, 256 << 20)
    (drive,) = config.disks
    assert (drive.drive_id, str(drive.path), drive.is_unplugged, drive.cache) == ("d0", image, True, "none")
    assert config.additions.devices == ({"driver": "virtio-blk-pci", "id": "v0", "drive": "d0", "serial": "a,b"},)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a", "1: parse error"),
        ('\na = "b"', "2: no group defined"),
        ("[none]", "1: there is no option group 'none'"),
        ('[device "x" y]', "1: parse error"),
        ("[device]\nx = y", "2: parse error"),
    ],
)
def test_files_that_make_no_sense_are_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "machine.cfg"
    path.write_text(text)
    with pytest.raises(InputError, match=f"machine.cfg:{said}"):
        configure("-readconfig", str(path))


def test_dotted_members_of_a_drive(image: str) -> None:
    words = f"if=none,id=d,driver=raw,file.driver=file,file.filename={image}"
    (drive,) = configure("-drive", f"{words},cache.direct=on,cache.no-flush=off").disks
    assert (str(drive.path), drive.format, drive.cache) == (image, "raw", "none")
    (drive,) = configure("-drive", f"{words},cache.no-flush=on").disks
    assert drive.cache == "unsafe"


def test_cache_mode_of_a_drive(image: str) -> None:
    assert configure("-drive", f"file={image},cache=directsync").disks == (ide(Path(image), 0, cache="directsync"),)


def test_nodes_are_those_of_the_schema(image: str) -> None:
    config = configure(
        *("-blockdev", f"driver=file,node-name=f,filename={image},auto-read-only=on,discard=unmap"),
        *("-blockdev", '{"node-name": "n", "driver": "qcow2", "file": "f", "read-only": true, "backing": null}'),
        *("-blockdev", f"raw,node-name=r,file.driver=file,file.filename={image},offset=1k"),
        *("-device", '{"driver": "virtio-blk-pci", "drive": "n", "id": "vd", "serial": "x", "addr": "0x4"}'),
    )
    assert config.additions.blockdevs == (
        {"driver": "file", "node-name": "f", "filename": image, "auto-read-only": True, "discard": "unmap"},
        {"node-name": "n", "driver": "qcow2", "file": "f", "read-only": True, "backing": None},
        {"driver": "raw", "node-name": "r", "file": {"driver": "file", "filename": image}, "offset": 1024},
    )
    assert config.additions.devices == (
        {"driver": "virtio-blk-pci", "drive": "n", "id": "vd", "serial": "x", "addr": "0x4"},
    )


def test_all_ways_to_a_network() -> None:
    config = configure(
        *("-netdev", "user,id=n0,hostfwd=tcp::2222-:22,hostfwd=udp:127.0.0.1:53-:5353"),
        *("-device", "virtio-net-pci,netdev=n0,mac=52:54:00:00:00:01,id=nic0"),
        *("-nic", "tap,ifname=tap7,script=no,downscript=no,model=virtio-net-pci"),
        *("-nic", "bridge,br=br1", "-nic", "none", "-net", "none"),
    )
    assert config.additions.netdevs == (
        {"type": "user", "id": "n0", "hostfwd": [{"str": "tcp::2222-:22"}, {"str": "udp:127.0.0.1:53-:5353"}]},
        {"type": "tap", "ifname": "tap7", "script": "no", "downscript": "no", "id": "#nic0"},
        {"type": "bridge", "br": "br1", "id": "#nic1"},
    )
    assert config.additions.devices == (
        {"driver": "virtio-net-pci", "netdev": "n0", "mac": "52:54:00:00:00:01", "id": "nic0"},
        {"driver": "virtio-net-pci", "netdev": "#nic0"},
        {"driver": "virtio-net-pci", "netdev": "#nic1"},
    )
    stream = configure("-netdev", "stream,id=s,server=on,addr.type=unix,addr.path=/x").additions.netdevs
    assert stream == ({"type": "stream", "id": "s", "server": True, "addr": {"type": "unix", "path": "/x"}},)


UNIX = {"type": "unix", "data": {"path": "/x"}}
LISTENS = {"server": True, "wait": False}


@pytest.mark.parametrize(
    ("words", "backend"),
    [
        (("-serial", "stdio"), {"type": "stdio", "data": {}}),
        (("-serial", "pty"), {"type": "pty", "data": {}}),
        (("-serial", "file:/x"), {"type": "file", "data": {"out": "/x"}}),
        (("-serial", "unix:/x,server=on,wait=off"), {"type": "socket", "data": {"addr": UNIX, **LISTENS}}),
        (("-serial", "unix:/x,server,nowait"), {"type": "socket", "data": {"addr": UNIX, **LISTENS}}),
        (("-serial", "unix:/x"), {"type": "socket", "data": {"addr": UNIX, "server": False}}),
        (
            ("-chardev", "file,id=c,path=/x,append=on", "-serial", "chardev:c"),
            {"type": "file", "data": {"out": "/x", "append": True}},
        ),
        (
            ("-chardev", "pty,id=c,logfile=/l,logappend=on", "-serial", "chardev:c"),
            {"type": "pty", "data": {"logfile": "/l", "logappend": True}},
        ),
        (("-chardev", "ringbuf,id=c,size=64k", "-serial", "chardev:c"), {"type": "ringbuf", "data": {"size": 65536}}),
    ],
)
def test_serial_port(words: tuple[str, ...], backend: dict[str, Any]) -> None:
    assert serial_backends(configure(*words)) == [backend]


def test_serial_port_is_shared_with_a_monitor() -> None:
    found = settings("-display", "none", "-serial", "mon:stdio")
    config = found.configuration()
    assert found.shared == ["serial0"]
    assert config.additions.chardevs == ({"id": "serial0", "backend": {"type": "stdio", "data": {}}, "mux": True},)
    words = ["-chardev", "stdio,id=c,mux=on", "-serial", "chardev:c", "-mon", "chardev=c"]
    found = settings("-display", "none", *words)
    assert [entry.get("mux") for entry in found.configuration().additions.chardevs] == [True]
    assert (found.shared, found.monitors) == (["c"], [])
    words = ["-chardev", "stdio,id=c,mux=on", "-device", "virtio-serial-pci", "-device", "virtconsole,chardev=c"]
    assert configure("-serial", "none", *words).additions.chardevs == (
        {"id": "c", "backend": {"type": "stdio", "data": {}}},
    )
    alone = settings("-display", "none", "-serial", "none", "-chardev", "stdio,id=c,mux=on", "-mon", "c")
    assert alone.configuration().additions.chardevs == ()
    assert alone.monitors == [MonitorSocket("stdio", "c", for_people=True)]


def test_several_serial_ports_and_none() -> None:
    assert serial_backends(configure("-serial", "none")) == []
    found = serial_backends(configure("-serial", "null", "-serial", "file:/x"))
    assert [backend["type"] for backend in found] == ["null", "file"]


def test_topology_of_processors() -> None:
    assert configure("-smp", "8,sockets=2,cores=2,threads=2").topology == CpuTopology(2, 1, 2, 2)
    assert configure("-smp", "4,threads=2").topology == CpuTopology(1, 1, 2, 2)
    assert configure("-smp", "sockets=2,cores=3").cpus == 6
    assert configure("-smp", "4").topology is None
    assert CpuTopology(2, 1, 2, 2).place(5) == (1, 0, 0, 1)


def test_memory_backend_boot_and_clock() -> None:
    config = configure(
        *("-m", "256", "-object", "memory-backend-memfd,id=ram,size=256M", "-machine", "pc,memory-backend=ram"),
        *("-boot", "order=c,once=d,menu=off,strict=on", "-rtc", "base=2006-06-17T16:01:21,driftfix=slew"),
        *("-overcommit", "mem-lock=off", "-audiodev", '{"id": "a", "driver": "none"}', "-D", "/tmp/log"),
    )
    assert config.memory is MemoryKind.SHARED
    assert (config.boot_order, config.boot_once, config.boot_strict) == ("c", "d", True)
    assert config.rtc_start_s == 1150560081
    assert configure("-rtc", "base=localtime").rtc is RtcBase.LOCALTIME
    assert config.rtc_follows_host
    assert not configure("-rtc", "clock=vm").rtc_follows_host


def test_monitors() -> None:
    found = settings(
        *("-display", "none", "-qmp", "unix:/a,server=on,wait=off", "-qmp", "tcp:localhost:4444,server,nowait"),
        *("-chardev", "socket,id=mon0,path=/b,server=on,wait=off", "-mon", "chardev=mon0,id=m,mode=control"),
        *("-chardev", "socket,id=mon1,fd=9,server=on,wait=off", "-mon", "mon1,mode=control"),
    )
    found.configuration()
    assert found.monitors == [
        MonitorSocket("unix:/a", "compat_monitor0"),
        MonitorSocket("tcp:localhost:4444", "compat_monitor1"),
        MonitorSocket("unix:/b", "mon0"),
        MonitorSocket("fd:9", "mon1", 9),
    ]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("-frobnicate", "-frobnicate: invalid option"),
        ("-m", "-m: requires an argument"),
        ("-m 1G,slots=2", "'slots'"),
        ("-m x", "-m x: not a size"),
        ("-machine pc-q35-9.0", "-machine pc-q35-9.0: not supported (use q35)"),
        ("-machine isapc", "-machine isapc: not supported (use pc)"),
        ("-machine pc,memory-backend=m", "there is no memory backend of that name"),
        ("-smp 4,cores=3", "is not the number of processors (4)"),
        ("-smp 2,maxcpus=4", "maxcpus=4 is not supported"),
        ("-device e1000,netdev=n", "'e1000' is not a valid device model name"),
        ("-device virtio-blk-pci,drive=d,frobnicate=on", "frobnicate' not found"),
        ("-device virtio-blk-pci,drive=d", "can't find value 'd'"),
        ("-device virtio-blk-pci", "drive property not set"),
        ("-device virtio-rng-pci,addr=40", "Property 'addr' doesn't take value '40'"),
        ("-device virtio-rng-pci,addr=5 -device virtio-rng-pci,addr=5", "slot 5 function 0 not available"),
        ("-device virtio-rng-pci,bus=pci.1", "Bus 'pci.1' not found"),
        ("-device virtio-rng-pci,id=a -device virtio-rng-pci,id=a", "Duplicate device ID 'a'"),
        ("-device virtio-net-pci,netdev=n", "can't find value 'n'"),
        ("-netdev vde,id=n", "does not accept value 'vde'"),
        ("-netdev tap,id=n", "name the interface with ifname"),
        ("-netdev socket,id=n,mcast=230.0.0.1:1234", "mcast is not supported"),
        ("-drive file=IMAGE,if=none,id=a", "drive: a is used by no device"),
        ("-blockdev raw,node-name=n,file=f", "node-name='f'"),
        ("-blockdev raw,node-name=n,file.driver=file,file.filename=/nowhere", "No such file"),
        ("-blockdev frob,node-name=n", "does not accept value 'frob'"),
        ("-blockdev raw,node-name=n,file.driver=file,file.filename=IMAGE,size=many", "expects a number"),
        ("-object frob,id=x", "does not accept value 'frob'"),
        ("-object memory-backend-ram,id=x", "Parameter 'size' is missing"),
        ("-object secret,id=x", "Either 'file' or 'data' must be provided"),
        ("-serial unix:/x,server=on", "add wait=off"),
        ("-daemonize -serial stdio", "-daemonize: nothing can be on the terminal"),
        ("-qmp stdio -daemonize", "-daemonize: nothing can be on the terminal"),
        ("-rtc base=yesterday", "-rtc base=yesterday"),
        ("-overcommit mem-lock=on", "mem-lock=on is not supported"),
        ("-add-fd fd=1,set=0", "not a descriptor above 2"),
        ("-machine pc,kernel_irqchip=split", "'kernel_irqchip'"),
        ("-machine pc,usb=on", "usb=on is not supported"),
        ("-accel hvf", "-accel hvf"),
        ("-cpu Haswell", "-cpu Haswell"),
        ("-cpu host", "-cpu host: needs -accel kvm"),
        ("-smp many", "-smp many: not a number"),
        ("-uuid 7", "-uuid 7"),
        ("-kernel /nowhere", "-kernel /nowhere: No such file"),
        ("-append x", "append: needs a kernel"),
        ('-device {"driver"', "-device: "),
        ('-device {"driver":}', "JSON parse error"),
        ("-netdev user,id=n,restrict=on", "'restrict'"),
        ("-netdev user,id=n,hostfwd=tcp:22", "hostfwd=tcp:22"),
        ("-nic user,model=e1000", "model=e1000 is not supported"),
        ("-drive file=IMAGE,if=scsi", "if=scsi is not supported"),
        ("-hda IMAGE -drive file=IMAGE,index=0", "drive with bus=0, unit=0 (index=0) exists"),
        ("-drive file=IMAGE,index=4", "4 IDE drives at most"),
        ("-drive file=IMAGE,index=1,bus=0", "index cannot be used with bus"),
        ("-hda IMAGE -hdb IMAGE -hdc IMAGE -hdd IMAGE IMAGE", "(index=0) exists"),
        ("-boot menu=maybe", "menu=maybe"),
        ("-rtc clock=rt", "clock=rt is not supported (only host or vm)"),
        ("-rtc driftfix=never", "driftfix=never"),
        ("-rtc base=never", "base=never: write utc"),
        ("-object secret,id=s,data=x,keyid=master,iv=y", "keyid is not supported"),
        ("-smbios type=1,bogus=2", "'bogus'"),
        ("-smbios type=9", "type=9: not supported"),
        ("-smbios serial=1", "parameter 'type' is missing"),
        ("-smbios type=0,release=1", "release=1: write two numbers"),
        ("-smbios type=11,path=/nowhere", "path=/nowhere: No such file"),
        ("-boot splash-time=-1", "splash-time=-1"),
        ("-drive file=IMAGE,if=none", "if=none needs an id"),
        ("-drive file=IMAGE,cache=cold", "cache=cold: use writeback, none"),
        ("-drive if=virtio", "parameter 'file' is missing"),
        ("-drive file=IMAGE,file.filename=IMAGE", "file.filename and file are both given"),
        ("-drive file=IMAGE,cache=none,cache.direct=on", "do not fit together"),
        ("-drive file=IMAGE,cache.direct=on,cache.no-flush=on", "do not fit together"),
        ("-drive file.driver=nbd", "file.driver=nbd is not supported"),
        ("-readconfig /nowhere", "Could not open '/nowhere': No such file"),
        ("-set device.x.y=z", 'there is no device "x" defined'),
        ("-set device.x", "write GROUP.ID.MEMBER=VALUE"),
        ("-drive file=IMAGE,readonly=maybe", "readonly=maybe"),
        ("-serial chardev:c", "no chardev c"),
        ("-serial mon:mon:stdio", "-serial mon:stdio: not supported"),
        ("-serial mon:stdio -monitor stdio", "stdio: can be used once only"),
        ("-chardev socket,id=c,server=on,wait=off", "needs a path"),
        ("-mon chardev=c,mode=control", "chardev c is not a listening socket"),
        ("-mon chardev=c,mode=x", "mode=x is not control or readline"),
        ("-monitor stdio -serial stdio", "stdio: can be used once only"),
        ("-qmp unix:/x", "add server=on,wait=off"),
        ("-monitor unix:/x", "add server=on,wait=off"),
        ("-vga cirrus", "-vga cirrus: not supported"),
        ("-action panic=none", "'panic'"),
        ("-action reboot=maybe", "reboot=maybe"),
    ],
)
def test_unsupported_is_refused_by_name(words: str, named: str, image: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["-display", "none", "-S", "-nodefaults", "-machine", "none", *words.replace("IMAGE", image).split()]
    assert main(command) in {1, 2}
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


def test_screen_is_on_the_terminal_where_there_is_one(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.isatty", lambda _fd: False)
    found = settings("-hda", image)
    assert found.configuration().firmware_on_serial
    assert not found.screen_on_terminal
    with pytest.raises(InputError, match="not a terminal"):
        settings("-display", "curses").configuration()
    with pytest.raises(InputError, match="-daemonize: there is no terminal"):
        settings("-daemonize").configuration()
    monkeypatch.setattr("os.isatty", lambda _fd: True)
    found = settings("-hda", image)
    assert not found.configuration().firmware_on_serial
    assert found.screen_on_terminal
    taken = (["-monitor", "stdio"], ["-serial", "stdio"], ["-serial", "mon:stdio"], ["-nographic"])
    for words in (*taken, ["-display", "none"]):
        found = settings("-hda", image, *words)
        found.configuration()
        assert not found.screen_on_terminal
    with pytest.raises(InputError, match="used once only"):
        settings("-display", "curses", "-monitor", "stdio").configuration()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-help"], "-pidfile FILE"),
        (["-h"], "-netdev user|tap|bridge"),
        (["--version"], "pyhyve-system-x86_64 "),
        (["-device", "help"], 'name "virtio-blk-pci"'),
        (["-machine", "help"], "pc-i440fx-7.2"),
        (["-M", "?"], "microvm"),
        (["-vga", "help"], "std"),
        (["-netdev", "help"], "stream"),
        (["-chardev", "help"], "  ringbuf"),
        (["-object", "help"], "  iothread"),
        (["-display", "?"], "curses"),
        (["-device", "VGA,help"], "vgamem_mb"),
        (["-accel", "help"], "tcg"),
        (["-cpu", "help"], "x86 host"),
    ],
)
def test_help(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert text in capsys.readouterr().out


def test_every_option_is_handled(image: str) -> None:
    known = SystemSettings()
    for name, option in OPTIONS.items():
        if name in {"readconfig", "set"}:
            continue  # carried out where options are found
        try:
            known.handle(name, image if option.value else "")
        except InputError as error:
            assert name in str(error) or name == "M"  # noqa: PT017 - some of them may take the value


def test_pid_file_is_held_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with pid_file(path):
        assert int(path.read_text()) > 0
    assert not path.exists()
    with pytest.raises(UserError, match="-pidfile"), pid_file(tmp_path / "none" / "pid"):
        pass


@pytest.mark.parametrize(
    ("kind", "status"),
    [(OutcomeKind.POWERED_OFF, 0), (OutcomeKind.STOPPED, 0), (OutcomeKind.RESET, 0), (OutcomeKind.TRIPLE_FAULT, 1)],
)
def test_exit_status(kind: OutcomeKind, status: int) -> None:
    assert report(Outcome(kind, "m", "d")) == status


@pytest.mark.parametrize(
    "where", ["unix:", "tcp:1", "tcp:localhost:x", "pipe:/x", "unix:/nowhere/at/all", "tcp:127.0.0.1:70000"]
)
def test_monitor_address_that_cannot_be_used(where: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-display", "none", "-qmp", f"{where},server=on,wait=off"]) in {1, 2}
    assert where.rsplit(":", maxsplit=1)[-1] in capsys.readouterr().err


def test_monitor_socket_is_removed_when_the_machine_cannot_be_built(tmp_path: Path, image: str) -> None:
    path = tmp_path / "qmp"
    words = ["-machine", "none", "-qmp", f"unix:{path},server=on,wait=off"]
    words += ["-drive", f"file={image},if=virtio,format=qcow2"]
    assert main(["-display", "none", *words]) != 0
    assert not path.exists()


def test_error_policies(image: str) -> None:
    path = Path(image)
    assert configure("-drive", f"file={image},if=virtio,werror=stop,rerror=ignore").disks == (
        DiskConfig(path, write_errors=ErrorPolicy.STOP, read_errors=ErrorPolicy.IGNORE),
    )
    with pytest.raises(InputError, match="rerror=enospc: use report, stop, ignore"):
        configure("-drive", f"file={image},if=virtio,rerror=enospc")


def test_help_on_a_device_lists_its_properties(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-device", "virtio-blk-pci,help"]) == 0
    text = capsys.readouterr().out
    assert "virtio-blk-pci options:" in text
    assert "  num-queues=<uint16>" in text
