"""What a machine is made of, as frozen values. Checked here, so that wiring need not doubt it."""

from __future__ import annotations

from pyhyve.accel.cpu_models import HOST, CpuModel
from pyhyve.boot.linux import EntryMode
from pyhyve.devices.error_policy import ErrorPolicy
from pyhyve.support.enums import StrEnum
from pyhyve.support.errors import InputError
from pyhyve.support.records import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike
    from pathlib import Path
    from typing import Any
    from uuid import UUID

MIB = 1 << 20
MAX_MEMORY_BYTES = 1 << 40
"""Largest guest memory accepted: 1 TiB, as far as 40 address bits reach."""
MAX_CPUS = 64
MAX_PORTS = 31
"""Ports of one virtio-serial device."""
MAX_PORT_NAME_BYTES = 255
MAX_DEVICES = 30
"""Slots of the PCI bus, less those of its own two bridges."""
_MAC = r"[0-9a-f]{2}(:[0-9a-f]{2}){5}"


class ConfigError(InputError):
    """A configuration that no machine can have; the message is one line for the user."""


def parse_mac(text: str) -> bytes:
    """The six bytes of a MAC address. Raises ConfigError on a malformed or multicast one."""
    import re  # noqa: PLC0415 - machines without network cards need none

    if not re.fullmatch(_MAC, text.lower()):
        msg = f"net: {text!r} is not a MAC address (use six hexadecimal bytes, 52:54:00:12:34:56)"
        raise ConfigError(msg)
    if int(text[:2], 16) & 1:
        msg = f"net: {text} is a multicast address"
        raise ConfigError(msg)
    return bytes.fromhex(text.replace(":", ""))


class MemoryKind(StrEnum):
    """Who may see the guest's memory."""

    PRIVATE = "private"
    SHARED = "shared"
    """Other processes, through its descriptor."""


class RtcBase(StrEnum):
    """Which time the clock shows."""

    UTC = "utc"
    LOCALTIME = "localtime"


class AccelChoice(StrEnum):
    """Which engine runs the guest."""

    AUTO = "auto"
    KVM = "kvm"
    JIT = "jit"


class ConsoleKind(StrEnum):
    """Where the first serial port goes."""

    STDIO = "stdio"
    NONE = "none"
    FILE = "file"
    UNIX = "unix"


SATA_PORTS = 6
"""Of a Q35: each has one drive, which is its own bus."""


class Board(StrEnum):
    """What the devices are connected to."""

    PC = "pc"
    """An i440FX with a PIIX3: PCI, IDE, firmware."""
    Q35 = "q35"
    """A Q35 with an ICH9: PCI Express, SATA, firmware."""
    MICROVM = "microvm"
    """No PCI: virtio devices over MMIO, and a kernel that is started directly."""


class DiskInterface(StrEnum):
    """What a disk or CD-ROM is connected to."""

    VIRTIO = "virtio"
    """PCI: a virtio disk, or a drive of a virtio SCSI host."""
    IDE = "ide"


class NetKind(StrEnum):
    """What a network card is plugged into."""

    USER = "user"
    BRIDGE = "bridge"
    TAP = "tap"
    SWITCH = "switch"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class ConsoleConfig:
    """A character device; `path` names the file, or the socket to listen on, which may also be inherited as `fd`."""

    kind: ConsoleKind = ConsoleKind.STDIO
    path: Path | None = None
    fd: int | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError when the kind and the path do not match."""
        if (self.path is not None or self.fd is not None) != (self.kind in {ConsoleKind.FILE, ConsoleKind.UNIX}):
            msg = f"console {self.kind}: a path is {'needed' if self.path is None else 'not expected'}"
            raise ConfigError(msg)


def _check_cache_mode(mode: str) -> None:
    from pyhyve.image.opening import CACHE_MODES  # noqa: PLC0415 - images only for machines that have some

    if mode not in CACHE_MODES:
        msg = f"disk: cache={mode}: use {', '.join(CACHE_MODES)}"
        raise ConfigError(msg)


@dataclass(frozen=True, slots=True)
class DiskConfig:
    """One disk or CD-ROM; `format` None means: probe."""

    path: Path
    format: str | None = None
    readonly: bool = False
    snapshot: bool = False
    serial: str = ""
    is_cdrom: bool = False
    drive_id: str = ""
    """Name of the drive, for a monitor."""
    device_id: str = ""
    """Name of the device in front of it."""
    node_name: str = ""
    write_errors: ErrorPolicy = ErrorPolicy.REPORT
    read_errors: ErrorPolicy = ErrorPolicy.REPORT
    cache: str = "writeback"
    """QEMU's cache mode: writeback, writethrough, none, directsync or unsafe."""

    interface: DiskInterface = DiskInterface.VIRTIO
    index: int | None = None
    """Of IDE drives: 0 and 1 are the first channel's, 2 and 3 the second's."""
    is_unplugged: bool = False
    """A drive for a device of `MachineConfig.devices` to name, without one of its own."""

    def __post_init__(self) -> None:
        """Raise ConfigError on an unknown cache mode, or a policy for a full disk where nothing is written."""
        if self.cache != "writeback":
            _check_cache_mode(self.cache)
        if self.read_errors is ErrorPolicy.ENOSPC:
            msg = "disk: rerror=enospc: reading takes no space (use report, stop or ignore)"
            raise ConfigError(msg)


@dataclass(frozen=True, slots=True)
class PortForward:
    """A host port that leads to a guest port."""

    protocol: str
    host_port: int
    guest_port: int
    host_address: str = ""

    def __post_init__(self) -> None:
        """Raise ConfigError on an unknown protocol or a port out of range."""
        if self.protocol not in {"tcp", "udp"}:
            msg = f"forward: unknown protocol {self.protocol!r} (use tcp or udp)"
            raise ConfigError(msg)
        for port in (self.host_port, self.guest_port):
            if not 0 < port < 0x10000:
                msg = f"forward: port {port} is not in 1..65535"
                raise ConfigError(msg)


@dataclass(frozen=True, slots=True)
class NetConfig:
    """One network card; `target` is the bridge or tap name, or the path of a switch's socket."""

    kind: NetKind = NetKind.USER
    target: str = ""
    mac: str | None = None
    forwards: tuple[PortForward, ...] = ()
    device_id: str = ""
    """Name of the card, for a monitor."""
    vhost: bool | None = None
    """Whether the host's kernel moves the packets; None: where it can (a tap, KVM, vhost-net)."""

    def __post_init__(self) -> None:
        """Raise ConfigError on a malformed or multicast MAC address, or a missing bridge or tap name."""
        if self.mac is not None:
            parse_mac(self.mac)
        if self.kind in {NetKind.BRIDGE, NetKind.TAP, NetKind.SWITCH} and not self.target:
            word = "PATH" if self.kind is NetKind.SWITCH else "NAME"
            msg = f"net: {self.kind} needs a name, as in {self.kind}={word}"
            raise ConfigError(msg)


@dataclass(frozen=True, slots=True)
class RngConfig:
    """An entropy device; `source` is a file of random bytes, by default the kernel's generator."""

    source: Path | None = None
    device_id: str = ""


@dataclass(frozen=True, slots=True)
class BalloonConfig:
    """A memory balloon; what it offers the guest."""

    deflate_on_oom: bool = True
    """The guest may take memory back when it runs short."""
    free_page_reporting: bool = True
    """The guest gives back what it does not use at the moment."""
    device_id: str = ""


@dataclass(frozen=True, slots=True)
class PortConfig:
    """A port of a virtio-serial device: a channel with a name, or a console of the guest (hvc)."""

    number: int
    chardev: ConsoleConfig
    name: str = ""
    is_console: bool = False
    device_id: str = ""

    def __post_init__(self) -> None:
        """Raise ConfigError on a number or name that no port can have."""
        if not 0 <= self.number < MAX_PORTS:
            msg = f"channel: port number {self.number} is not in 0..{MAX_PORTS - 1}"
            raise ConfigError(msg)
        if len(self.name.encode()) > MAX_PORT_NAME_BYTES or "\0" in self.name:
            msg = f"channel: {self.name!r} is not a name (at most {MAX_PORT_NAME_BYTES} bytes)"
            raise ConfigError(msg)


@dataclass(frozen=True, slots=True)
class SerialBusConfig:
    """A virtio-serial device with its ports."""

    ports: tuple[PortConfig, ...] = ()
    device_id: str = ""
    max_ports: int = 0
    """How many numbers there are; 0: as many as `ports` need."""

    def __post_init__(self) -> None:
        """Raise ConfigError when two ports have one number."""
        numbers = [port.number for port in self.ports]
        for number in numbers:
            if numbers.count(number) > 1:
                msg = f"channel: two ports with the number {number}"
                raise ConfigError(msg)


@dataclass(frozen=True, slots=True)
class VsockConfig:
    """A virtual socket device: the guest's address, and the Unix socket that stands for the host's side."""

    cid: int
    path: Path
    device_id: str = ""

    def __post_init__(self) -> None:
        """Raise ConfigError on an address that no guest can have (0 to 2 have other meanings)."""
        if not 2 < self.cid < 0xFFFF_FFFF:
            msg = f"vsock: {self.cid} is not an address of a guest (3 to 4294967294)"
            raise ConfigError(msg)


ExtraConfig = RngConfig | BalloonConfig | SerialBusConfig | VsockConfig
"""Devices that are neither disk nor network card."""


@dataclass(frozen=True, slots=True)
class CpuTopology:
    """How processors are grouped; the product is the number of processors there can be."""

    sockets: int = 1
    dies: int = 1
    cores: int = 1
    threads: int = 1

    @property
    def cpus(self) -> int:
        """Number of processors."""
        return self.sockets * self.dies * self.cores * self.threads

    def place(self, index: int) -> tuple[int, int, int, int]:
        """Socket, die, core and thread of a processor."""
        index, thread = divmod(index, self.threads)
        index, core = divmod(index, self.cores)
        socket, die = divmod(index, self.dies)
        return socket, die, core, thread


@dataclass(frozen=True, slots=True)
class Additions:
    """What is added to the board by QEMU's options, as values of its schema; in this order."""

    objects: tuple[Mapping[str, Any], ...] = ()
    chardevs: tuple[Mapping[str, Any], ...] = ()
    """Each with its `id` and `backend`."""
    blockdevs: tuple[Mapping[str, Any], ...] = ()
    netdevs: tuple[Mapping[str, Any], ...] = ()
    devices: tuple[Mapping[str, Any], ...] = ()
    serials: tuple[str, ...] | None = None
    """Names of character devices for COM1 and the next; None: `MachineConfig.console` alone."""
    reserved_slots: tuple[int, ...] = ()
    """PCI slots that `disks`, `nets` and `extras` leave free: their devices moved, or were taken out."""


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """A whole machine. `trace` holds names of trace points (`exits`, `bus`)."""

    name: str = "guest"
    memory_bytes: int = 512 * MIB
    huge_pages: bool = False
    """Take guest memory from the host's reserved huge pages, all of it at the start."""
    cpus: int = 1
    accel: AccelChoice = AccelChoice.AUTO
    cpu: CpuModel = HOST
    kernel: PathLike[str] | None = None
    initrd: PathLike[str] | None = None
    append: str = ""
    firmware: Path | None = None
    disks: tuple[DiskConfig, ...] = ()
    nets: tuple[NetConfig, ...] = ()
    extras: tuple[ExtraConfig, ...] = ()
    console: ConsoleConfig = field(default_factory=ConsoleConfig)
    boot_order: str = "c"
    no_reboot: bool = False
    no_shutdown: bool = False
    """Keep the machine, stopped, when the guest powers off."""
    start_paused: bool = False
    """Wait for `Machine.resume` before the first instruction."""
    uuid: UUID | None = None
    """Identity in SMBIOS; None makes one up."""
    smbios: tuple[Mapping[str, Any], ...] = ()
    """Fields of SMBIOS structures by QEMU's names, each with the structure's `type`."""
    timeout_s: float | None = None
    trace: frozenset[str] = frozenset()
    boot_entry: EntryMode = EntryMode.AUTO
    """Which of the kernel's entries to use."""
    additions: Additions = field(default_factory=Additions)
    topology: CpuTopology | None = None
    """None: each processor is a socket."""
    boot_once: str = ""
    """Boot order of the first start alone; empty: as always."""
    rtc: RtcBase = RtcBase.UTC
    rtc_start_s: int | None = None
    """Time of the clock at the start, in seconds since 1970; None: the host's."""
    rtc_follows_host: bool = True
    """Else the clock counts the time for which the machine ran, from its start on."""
    is_empty: bool = False
    """Nothing is started: the machine is there to be asked what there could be (QEMU's `none`)."""
    boot_strict: bool = False
    """Firmware tries nothing but the devices that have a boot index, if any has."""
    board: Board = Board.PC
    has_vga: bool = False
    """A VGA beside what `additions` say."""
    has_keyboard: bool = False
    firmware_on_serial: bool = True
    """Firmware writes its text to the first serial port, too."""
    boot_menu: bool = False
    """Firmware offers a menu."""
    boot_menu_ms: int | None = None
    """How long it does; None: as long as firmware likes."""
    memory: MemoryKind = MemoryKind.PRIVATE
    passed_fds: tuple[tuple[int, int], ...] = ()
    """Inherited descriptors: the number of a set, and the descriptor."""

    def _check_microvm(self) -> None:
        if self.kernel is None:
            msg = "machine microvm: it has no firmware: name a kernel"
            raise ConfigError(msg)
        if self.needs_vga_memory or any(disk.interface is DiskInterface.IDE for disk in self.disks):
            msg = "machine microvm: there is no VGA and no IDE without PCI"
            raise ConfigError(msg)

    @property
    def needs_vga_memory(self) -> bool:
        """Whether there is a VGA, or will be one."""
        return self.has_vga or any(device.get("driver") == "VGA" for device in self.additions.devices)

    @property
    def has_generation_id(self) -> bool:
        """Whether there is a device that shows a generation ID."""
        return any(device.get("driver") == "vmgenid" for device in self.additions.devices)

    def __post_init__(self) -> None:
        """Raise ConfigError on values no machine can have."""
        if self.memory_bytes < MIB:
            msg = f"memory: {self.memory_bytes} bytes is too little (at least 1M)"
            raise ConfigError(msg)
        if self.memory_bytes > MAX_MEMORY_BYTES:
            most_gib = MAX_MEMORY_BYTES >> 30
            msg = f"memory: {self.memory_bytes} bytes is more than a guest can address (at most {most_gib}G)"
            raise ConfigError(msg)
        if self.memory_bytes % MIB:
            msg = f"memory: {self.memory_bytes} bytes is not a whole number of MiB"
            raise ConfigError(msg)
        if not 1 <= self.cpus <= MAX_CPUS:
            msg = f"cpus: {self.cpus} is not in 1..{MAX_CPUS}"
            raise ConfigError(msg)
        if self.initrd is not None and self.kernel is None:
            msg = "initrd: needs a kernel"
            raise ConfigError(msg)
        if self.append and self.kernel is None:
            msg = "append: needs a kernel"
            raise ConfigError(msg)
        if self.firmware is not None and self.kernel is not None:
            msg = "firmware: cannot be combined with a kernel, which is started without any"
            raise ConfigError(msg)
        if self.is_empty and self.kernel is not None:
            msg = "machine none: it has no processor to start a kernel on"
            raise ConfigError(msg)
        if self.board is Board.MICROVM:
            self._check_microvm()
        on_pci = [disk for disk in self.disks if disk.interface is not DiskInterface.IDE]
        count = len(on_pci) + len(self.nets) + len(self.extras)
        if count > MAX_DEVICES:
            msg = f"disk: {count} disks, network cards and other devices, but the PCI bus has room for {MAX_DEVICES}"
            raise ConfigError(msg)
        if "\0" in self.append:
            msg = "append: the command line holds a NUL character"
            raise ConfigError(msg)
        if self.timeout_s is not None and self.timeout_s <= 0:
            msg = f"timeout: {self.timeout_s} s is not positive"
            raise ConfigError(msg)
        if not self.boot_order or set(self.boot_order + self.boot_once) - set("cdn"):
            msg = f"boot: {self.boot_order + self.boot_once!r} is not made of c, d and n"
            raise ConfigError(msg)
        if self.topology is not None and self.topology.cpus != self.cpus:
            msg = f"smp: {self.cpus} processors do not fill the topology, which has room for {self.topology.cpus}"
            raise ConfigError(msg)
