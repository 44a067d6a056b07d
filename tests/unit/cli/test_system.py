"""QEMU's command line: what it becomes, and what is refused."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from pyhyve.cli.system import main, pid_file, report
from pyhyve.cli.system_machine import OPTIONS, MonitorSocket, SystemSettings
from pyhyve.cli.system_options import split_command_line
from pyhyve.devices.virtio.error_policy import ErrorPolicy
from pyhyve.machine.config import (
    AccelChoice,
    BalloonConfig,
    ConsoleConfig,
    ConsoleKind,
    DiskConfig,
    NetKind,
    PortConfig,
    PortForward,
    RngConfig,
    SerialBusConfig,
    VsockConfig,
)
from pyhyve.machine.outcome import Outcome, OutcomeKind
from pyhyve.support.errors import InputError, UserError

if TYPE_CHECKING:
    from pyhyve.machine.config import MachineConfig


disk = functools.partial(DiskConfig, write_errors=ErrorPolicy.ENOSPC)
"""A disk as this command line makes it: `werror` is `enospc` unless it says otherwise."""


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
    assert config.console.kind is ConsoleKind.NONE
    assert settings("-nographic").configuration().console.kind is ConsoleKind.STDIO
    assert configure("-accel", "kvm", "-accel", "tcg").accel is AccelChoice.AUTO
    assert configure("-enable-kvm").accel is AccelChoice.KVM


def test_all_ways_to_a_disk(image: str) -> None:
    path = Path(image)
    assert configure("-hda", image, "-snapshot").disks == (disk(path, snapshot=True),)
    assert configure(image).disks == (disk(path),)
    assert configure("-cdrom", image).disks == (disk(path, readonly=True, is_cdrom=True),)
    assert configure("-drive", f"file={image},if=virtio,format=raw,serial=s1").disks == (
        disk(path, "raw", serial="s1"),
    )
    later = configure("-device", "virtio-blk-pci,drive=d,id=vd", "-drive", f"file={image},if=none,id=d,readonly")
    assert later.disks == (disk(path, readonly=True, drive_id="d", device_id="vd"),)
    nodes = configure(
        *("-blockdev", f"driver=file,node-name=f,filename={image},auto-read-only=on,discard=unmap"),
        *("-blockdev", '{"node-name": "n", "driver": "qcow2", "file": "f", "read-only": true}'),
        *("-device", '{"driver": "virtio-blk-pci", "drive": "n", "id": "vd", "serial": "x"}'),
    )
    assert nodes.disks == (disk(path, "qcow2", readonly=True, node_name="n", device_id="vd", serial="x"),)
    nested = configure(
        *("-blockdev", f"raw,node-name=n,file.driver=file,file.filename={image}"), "-device", "virtio-blk,drive=n"
    )
    assert nested.disks == (disk(path, "raw", node_name="n"),)
    assert configure("-drive", f"file={image},cache=directsync").disks == (disk(path, cache="directsync"),)
    for where, cache in (("cache.direct", "none"), ("file.cache.direct", "none"), ("cache.no-flush", "unsafe")):
        node = f"raw,node-name=n,file.driver=file,file.filename={image},{where}=on"
        assert configure("-blockdev", node, "-device", "virtio-blk,drive=n").disks[0].cache == cache


def test_all_ways_to_a_network() -> None:
    config = configure(
        *("-netdev", "user,id=n0,hostfwd=tcp::2222-:22,hostfwd=udp:127.0.0.1:53-:5353"),
        *("-device", "virtio-net-pci,netdev=n0,mac=52:54:00:00:00:01,id=nic0"),
        *("-nic", "tap,ifname=tap7,script=no,downscript=no,model=virtio-net-pci"),
        *("-nic", "bridge,br=br1", "-nic", "none", "-net", "none"),
    )
    assert [(net.kind, net.target, net.device_id) for net in config.nets] == [
        (NetKind.TAP, "tap7", ""),
        (NetKind.BRIDGE, "br1", ""),
        (NetKind.USER, "", "nic0"),
    ]
    assert config.nets[2].forwards == (PortForward("tcp", 2222, 22), PortForward("udp", 53, 5353, "127.0.0.1"))
    assert config.nets[2].mac == "52:54:00:00:00:01"


@pytest.mark.parametrize(
    ("words", "console"),
    [
        (("-serial", "stdio"), ConsoleConfig(ConsoleKind.STDIO)),
        (("-serial", "none"), ConsoleConfig(ConsoleKind.NONE)),
        (("-serial", "file:/x"), ConsoleConfig(ConsoleKind.FILE, Path("/x"))),
        (("-serial", "unix:/x,server=on,wait=off"), ConsoleConfig(ConsoleKind.UNIX, Path("/x"))),
        (("-serial", "unix:/x,server,nowait"), ConsoleConfig(ConsoleKind.UNIX, Path("/x"))),
        (("-chardev", "file,id=c,path=/x", "-serial", "chardev:c"), ConsoleConfig(ConsoleKind.FILE, Path("/x"))),
        (("-chardev", "null,id=c", "-serial", "chardev:c"), ConsoleConfig(ConsoleKind.NONE)),
    ],
)
def test_serial_port(words: tuple[str, ...], console: ConsoleConfig) -> None:
    assert configure(*words).console == console


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
        ("-machine q35", "-machine q35: not supported"),
        ("-machine pc,kernel_irqchip=split", "'kernel_irqchip'"),
        ("-machine pc,usb=on", "usb=on is not supported"),
        ("-accel hvf", "-accel hvf"),
        ("-cpu Haswell", "-cpu Haswell"),
        ("-cpu host", "-cpu host: needs -accel kvm"),
        ("-smp 4,cores=4", "cores=4 is not supported"),
        ("-smp many", "-smp many: not a number"),
        ("-uuid 7", "-uuid 7"),
        ("-kernel /nowhere", "-kernel /nowhere: No such file"),
        ("-append x", "append: needs a kernel"),
        ("-device e1000,netdev=n", "-device: e1000 is not a device we have"),
        ("-device virtio-blk-pci,drive=d", "no drive d that is free"),
        ("-device virtio-blk-pci", "parameter 'drive' is missing"),
        ('-device {"driver"', "-device: "),
        ('-device {"driver":}', "JSON parse error"),
        ("-device virtio-net-pci,netdev=n", "no netdev n that is free"),
        ("-netdev user,id=n", "-netdev: n is used by no device"),
        ("-netdev user,id=n -netdev user,id=n", "duplicate id n"),
        ("-netdev user,id=n,restrict=on", "'restrict'"),
        ("-netdev vde,id=n", "type vde is not supported"),
        ("-netdev user,id=n,hostfwd=tcp:22", "hostfwd=tcp:22"),
        ("-netdev tap,id=n,ifname=t,vhost=on", "vhost=on is not supported"),
        ("-nic user,model=e1000", "model=e1000 is not supported"),
        ("-drive file=IMAGE,if=ide", "if=ide is not supported"),
        ("-drive file=IMAGE,if=none", "if=none needs an id"),
        ("-drive file=IMAGE,cache=cold", "cache=cold: use writeback, none"),
        ("-drive file=IMAGE,if=none,id=a", "-drive: a is used by no device"),
        ("-drive if=virtio", "parameter 'file' is missing"),
        ("-drive file=IMAGE,readonly=maybe", "readonly=maybe"),
        ("-blockdev raw,node-name=n,file=f", "cannot find node f"),
        ("-blockdev file,node-name=f,filename=IMAGE", "f is used by no device"),
        ("-serial pty", "-serial pty: not supported"),
        ("-serial null -serial null", "one serial port only"),
        ("-serial chardev:c", "no chardev c"),
        ("-serial unix:/x", "add server=on,wait=off"),
        ("-chardev pty,id=c", "pty is not supported"),
        ("-chardev socket,id=c,server=on,wait=off", "needs a path"),
        ("-mon chardev=c,mode=control", "chardev c is not a listening socket"),
        ("-mon chardev=c,mode=x", "mode=x is not control or readline"),
        ("-monitor stdio -serial stdio", "stdio: can be used once only"),
        ("-qmp stdio -daemonize", "-daemonize: a monitor"),
        ("-qmp unix:/x", "add server=on,wait=off"),
        ("-monitor unix:/x", "add server=on,wait=off"),
        ("-vga std", "-vga std: not supported"),
        ("-action panic=none", "'panic'"),
        ("-action reboot=maybe", "reboot=maybe"),
        ("-boot once=d", "'once'"),
        ("-daemonize -serial stdio", "-daemonize: the serial port"),
    ],
)
def test_unsupported_is_refused_by_name(words: str, named: str, image: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["-display", "none", *words.replace("IMAGE", image).split()]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


def test_display_must_be_declined(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "-display none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-help"], "-pidfile FILE"),
        (["-h"], "-netdev user|tap|bridge"),
        (["--version"], "pyhyve-system-x86_64 "),
        (["-device", "help"], 'name "virtio-blk-pci"'),
        (["-machine", "help"], "pc-i440fx-7.2"),
        (["-M", "?"], "pc-i440fx-7.2"),
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
    words = ["-qmp", f"unix:{path},server=on,wait=off", "-drive", f"file={image},if=virtio,format=qcow2"]
    assert main(["-display", "none", *words]) != 0
    assert not path.exists()


def test_error_policies(image: str) -> None:
    path = Path(image)
    assert configure("-drive", f"file={image},if=virtio,werror=stop,rerror=ignore").disks == (
        DiskConfig(path, write_errors=ErrorPolicy.STOP, read_errors=ErrorPolicy.IGNORE),
    )
    found = configure(
        *("-drive", f"file={image},if=none,id=d,werror=report,rerror=stop"),
        *("-device", "virtio-blk-pci,drive=d,werror=auto,rerror=report"),
    )
    assert found.disks == (DiskConfig(path, drive_id="d", write_errors=ErrorPolicy.REPORT),)
    with pytest.raises(InputError, match="rerror=enospc: use report, stop, ignore"):
        configure("-drive", f"file={image},if=virtio,rerror=enospc")


def test_devices_that_are_no_disks_or_cards() -> None:
    config = configure(
        *("-object", "rng-random,id=r,filename=/dev/zero", "-device", "virtio-rng-pci,rng=r,id=rng0"),
        *("-object", '{"qom-type": "rng-builtin", "id": "b"}', "-device", "virtio-rng,rng=b"),
        *("-device", "virtio-balloon-pci,id=balloon0,free-page-reporting=on", "-device", "virtio-balloon"),
        *("-device", "virtio-vsock-pci,guest-cid=7,path=/tmp/v,id=v"),
    )
    assert config.extras == (
        RngConfig(Path("/dev/zero"), "rng0"),
        RngConfig(),
        BalloonConfig(deflate_on_oom=False, free_page_reporting=True, device_id="balloon0"),
        BalloonConfig(deflate_on_oom=False, free_page_reporting=False),
        VsockConfig(7, Path("/tmp/v"), "v"),
    )


def test_ports_find_their_bus_number_and_chardev() -> None:
    config = configure(
        *("-chardev", "socket,id=a,path=/tmp/a,server=on,wait=off", "-chardev", "null,id=n"),
        *("-chardev", "socket,id=f,fd=9,server=on,wait=off", "-chardev", "file,id=c,path=/tmp/c"),
        *("-device", "virtio-serial-pci,id=bus0", "-device", "virtio-serial"),
        *("-device", '{"driver": "virtserialport", "bus": "bus0.0", "nr": 3, "chardev": "a", "id": "p0", "name": "x"}'),
        *("-device", "virtserialport,chardev=n,name=org.qemu.guest_agent.0"),
        *("-device", "virtserialport,bus=virtio-serial-bus.1,chardev=f", "-device", "virtconsole,chardev=c"),
    )
    unix, null = ConsoleConfig(ConsoleKind.UNIX, Path("/tmp/a")), ConsoleConfig(ConsoleKind.NONE)
    assert config.extras == (
        SerialBusConfig(
            (
                PortConfig(3, unix, "x", device_id="p0"),
                PortConfig(1, null, "org.qemu.guest_agent.0"),
                PortConfig(0, ConsoleConfig(ConsoleKind.FILE, Path("/tmp/c")), is_console=True),
            ),
            "bus0",
        ),
        SerialBusConfig((PortConfig(1, ConsoleConfig(ConsoleKind.UNIX, fd=9)),)),
    )


BUS, CHARDEV = ("-device", "virtio-serial-pci"), ("-chardev", "null,id=n")
PORT = "virtserialport,chardev=n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-object", "memory-backend-ram,id=x"), "memory-backend-ram is not supported"),
        (("-object", "rng-builtin,id=x", "-object", "rng-builtin,id=x"), "duplicate id x"),
        (("-device", "virtio-rng-pci,rng=x"), "there is no object x"),
        (("-device", "virtio-balloon-pci,guests=3"), "'guests' is unknown"),
        ((*CHARDEV, "-device", PORT), "there is no virtio-serial bus"),
        ((*BUS, *CHARDEV, "-device", f"{PORT},bus=b.0"), "there is no virtio-serial bus b.0"),
        ((*BUS, "-device", PORT), "there is no chardev n that is free"),
        ((*BUS, *CHARDEV, "-device", PORT, "-device", PORT), "there is no chardev n that is free"),
        ((*BUS, *CHARDEV, "-device", f"{PORT},nr=31"), "port number 31 is not in 0..30"),
        ((*BUS, *CHARDEV, "-device", f"{PORT},nr=0"), "port number 0 is for virtconsole"),
        ((*BUS, "-chardev", "socket,id=n,host=::1,port=1,server=on,wait=off", "-device", PORT), "needs a Unix socket"),
        (("-device", "virtio-vsock-pci,guest-cid=2,path=/x"), "2 is not an address of a guest"),
        (("-device", "virtio-vsock-pci,guest-cid=7"), "'path' is missing"),
    ],
)
def test_other_device_that_cannot_be(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        configure(*words)
