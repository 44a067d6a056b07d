"""The options of QEMU's command line that there are, and what some of them can say."""

from __future__ import annotations

from pyhyve.cli.system_options import Option
from pyhyve.machine.config import Board

MACHINES = {
    "pc": "Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-7.2)",
    "pc-i440fx-7.2": "Standard PC (i440FX + PIIX, 1996) (default)",
    "q35": "Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-7.2)",
    "pc-q35-7.2": "Standard PC (Q35 + ICH9, 2009)",
    "microvm": "microvm (i386)",
    "none": "empty machine",
}
NOT_HERE = {"q35": "q35", "isapc": "pc"}
BOARDS = {"q35": Board.Q35, "pc-q35-7.2": Board.Q35, "microvm": Board.MICROVM}
"""Machine types of QEMU that are not there, and what to use instead."""
DEFAULT_MEMORY_BYTES = 128 << 20
OPTIONS = {
    "accel": Option("[accel=]kvm|tcg", "what runs the guest: KVM, or our CPU engine (tcg; the default)"),
    "action": Option("reboot=reset|shutdown,shutdown=poweroff|pause", "what a reset or a power-off of the guest does"),
    "add-fd": Option("fd=N,set=N[,opaque=S]", "put an inherited descriptor into a set (/dev/fdset/N)"),
    "append": Option("STRING", "command line of the Linux kernel"),
    "audiodev": Option("none,id=ID", "no sound"),
    "bios": Option("FILE", "firmware image"),
    "blockdev": Option("driver=D,node-name=N,…", "a block node, for a device"),
    "boot": Option("[order=]cdn,once=cdn,menu=on|off,strict=on|off", "boot order: disk, CD-ROM, network"),
    "cdrom": Option("FILE", "a CD-ROM image"),
    "chardev": Option(
        "null|stdio|file|pipe|pty|ringbuf|socket,id=ID,…", "a character device, for devices and monitors"
    ),
    "cpu": Option("MODEL[,±FEATURE]", "the processor's model (-cpu help lists them; default: max)"),
    "D": Option("FILE", "write the log there"),
    "daemonize": Option("", "go to the background once the machine is made"),
    "device": Option("DRIVER,…", "a device (-device help lists them, -device DRIVER,help their properties)"),
    "display": Option("curses|none", "the screen on the terminal (the default on one), or nowhere"),
    "drive": Option("file=FILE,if=ide|virtio|none,…", "a disk, by default an IDE one"),
    "enable-kvm": Option("", "as -accel kvm"),
    "global": Option("DRIVER.PROPERTY=VALUE", "a property of a device of the board: what is so anyway"),
    "h": Option("", "show this"),
    "hda": Option("FILE", "an IDE disk"),
    "hdb": Option("FILE", "another disk"),
    "hdc": Option("FILE", "another disk"),
    "hdd": Option("FILE", "another disk"),
    "help": Option("", "show this"),
    "incoming": Option("defer|fd:N|file:PATH|unix:PATH|tcp:HOST:PORT|exec:COMMAND", "take a saved machine from there"),
    "initrd": Option("FILE", "initial RAM file system"),
    "kernel": Option("FILE", "Linux bzImage or PVH ELF kernel"),
    "loadvm": Option("TAG", "go on from a snapshot in the disks"),
    "m": Option("[size=]SIZE", "guest memory (default: 128M)"),
    "M": Option("pc|q35|microvm", "as -machine"),
    "machine": Option("[type=]pc|q35|microvm,…", "machine type (-machine help lists them)"),
    "mon": Option("chardev=ID,mode=control|readline", "QMP, or a monitor for people, on a character device"),
    "monitor": Option("stdio|none|unix:PATH|tcp:HOST:PORT", "a monitor for people"),
    "msg": Option("timestamp=on|off", "put the time in front of error messages"),
    "name": Option("NAME", "name of the machine"),
    "net": Option("none", "no network card"),
    "netdev": Option("user|tap|bridge|socket|stream,id=ID,…", "a network, for a device"),
    "nic": Option("user|tap|bridge|socket|stream|none,…", "a network card with its network"),
    "no-hpet": Option("", "no HPET (there is none)"),
    "no-reboot": Option("", "end when the guest reboots"),
    "no-shutdown": Option("", "keep the machine, stopped, when the guest powers off"),
    "no-user-config": Option("", "read no configuration of the user (none is read)"),
    "nodefaults": Option("", "no default devices"),
    "nographic": Option("", "no display; the first serial port on the terminal"),
    "object": Option("QOM-TYPE,id=ID,…", "an object: memory-backend-*, rng-*, iothread, secret"),
    "overcommit": Option("mem-lock=off,cpu-pm=off", "memory is not locked, processors do not sleep by themselves"),
    "pidfile": Option("FILE", "write the process id there, and lock it"),
    "qmp": Option("stdio|unix:PATH|tcp:HOST:PORT,server=on,wait=off", "QMP on a socket"),
    "readconfig": Option("FILE", "take options from a file of QEMU's format"),
    "rtc": Option("base=utc|localtime|TIME,clock=host|vm", "what the clock shows at the start, and what it goes by"),
    "runas": Option("USER|UID:GID", "become another user once all is set up"),
    "sandbox": Option("on|off,files=allow|deny", "what the process may do is limited once all is set up"),
    "S": Option("", "do not start before a monitor says so"),
    "serial": Option("[mon:]stdio|null|none|pty|file:PATH|unix:PATH|tcp:HOST:PORT|chardev:ID", "what a serial port is"),
    "smp": Option("[cpus=]N,sockets=N,dies=N,cores=N,threads=N", "number of processors and how they are grouped"),
    "set": Option("GROUP.ID.MEMBER=VALUE", "change an option that came before"),
    "smbios": Option("type=0|1|2|3|11,FIELD=TEXT,…", "what DMI says of the machine"),
    "snapshot": Option("", "keep what is written to disks in temporary files"),
    "uuid": Option("UUID", "identity of the machine"),
    "version": Option("", "show the version"),
    "vga": Option("std|none", "the graphics card"),
}
KINDS = {
    "netdev": ("Available netdev backend types:", "", ("NetClientDriver",)),
    "chardev": ("Available chardev backend types: ", "  ", ("ChardevBackendKind",)),
    "object": ("List of user creatable objects:", "  ", ("ObjectType",)),
    "display": ("Available display backend types:", "", ("none", "curses")),
}
"""What `help` shows for an option: a heading, an indent, and an enum of the schema or the words themselves."""


def list_kinds(option: str) -> str:
    """What `help` shows for an option of `KINDS`."""
    from pyhyve.machine.monitor.schema import SCHEMA

    heading, indent, kinds = KINDS[option]
    words = SCHEMA.enums.get(kinds[0], kinds)
    return "\n".join([heading, *(indent + word for word in words), ""])
