"""``<devices>``: everything a domain has besides CPUs and memory.

Source: libvirt's documentation, "Domain XML format", devices.
"""

from __future__ import annotations

from pyhyve.xml.address import Address, Alias
from pyhyve.xml.character import (
    Channel,
    CharLog,
    CharProtocol,
    CharSource,
    CharTarget,
    CharTargetModel,
    Console,
    Parallel,
    Serial,
)
from pyhyve.xml.disk import BootOrder, Disk
from pyhyve.xml.document import Node
from pyhyve.xml.element import (
    INTEGER,
    NUMBER,
    YES_NO,
    Element,
    attribute,
    child,
    child_text,
    children,
    element,
    node,
    nodes,
    text,
)
from pyhyve.xml.interface import Interface

__all__ = [
    "Audio",
    "Channel",
    "CharLog",
    "CharProtocol",
    "CharSource",
    "CharTarget",
    "CharTargetModel",
    "Console",
    "Controller",
    "ControllerTarget",
    "Devices",
    "Filesystem",
    "Graphics",
    "GraphicsListen",
    "Hostdev",
    "Input",
    "MemBalloon",
    "ModelName",
    "Panic",
    "Parallel",
    "Redirdev",
    "Rng",
    "RngBackend",
    "Serial",
    "Shmem",
    "Sound",
    "StatsPeriod",
    "Tpm",
    "Video",
    "VideoModel",
    "Vsock",
    "Watchdog",
]


@element("model")
class ModelName(Element):
    """The name of the part that is emulated."""

    name: str | None = attribute("name")


@element("target")
class ControllerTarget(Element):
    """What tells one PCI controller from another."""

    chassis_nr: int | None = attribute("chassisNr", INTEGER)
    chassis: int | None = attribute("chassis", INTEGER)
    port: str | None = attribute("port")
    bus_nr: int | None = attribute("busNr", INTEGER)
    index: int | None = attribute("index", INTEGER)
    hotplug: str | None = attribute("hotplug")
    numa_node: Node | None = node("node")


@element("controller")
class Controller(Element):
    """A controller other devices hang on."""

    type: str = attribute("type", required=True)
    index: int | None = attribute("index", INTEGER)
    model: str | None = attribute("model")
    ports: int | None = attribute("ports", NUMBER)
    vectors: int | None = attribute("vectors", NUMBER)
    model_name: ModelName | None = child(ModelName)
    target: ControllerTarget | None = child(ControllerTarget)
    driver: Node | None = node("driver")
    pcihole64: Node | None = node("pcihole64")
    alias: Alias | None = child(Alias)
    master: Node | None = node("master")
    address: Address | None = child(Address)


@element("filesystem")
class Filesystem(Element):
    """A directory of the host inside the guest."""

    type: str | None = attribute("type")
    accessmode: str | None = attribute("accessmode")
    fmode: str | None = attribute("fmode")
    dmode: str | None = attribute("dmode")
    model: str | None = attribute("model")
    driver: Node | None = node("driver")
    binary: Node | None = node("binary")
    source: Node | None = node("source")
    target: Node | None = node("target")
    readonly: Node | None = node("readonly")
    alias: Alias | None = child(Alias)
    address: Address | None = child(Address)


@element("input")
class Input(Element):
    """A keyboard, mouse or tablet."""

    type: str = attribute("type", required=True)
    bus: str | None = attribute("bus")
    model: str | None = attribute("model")
    driver: Node | None = node("driver")
    source: Node | None = node("source")
    alias: Alias | None = child(Alias)
    address: Address | None = child(Address)


@element("listen")
class GraphicsListen(Element):
    """Where a display waits for people."""

    type: str | None = attribute("type")
    address: str | None = attribute("address")
    network: str | None = attribute("network")
    socket: str | None = attribute("socket")


@element("graphics")
class Graphics(Element):
    """How people see the screen; port -1 lets the hypervisor choose."""

    type: str = attribute("type", required=True)
    display: str | None = attribute("display")
    xauth: str | None = attribute("xauth")
    fullscreen: str | None = attribute("fullscreen")
    port: int | None = attribute("port", INTEGER)
    tls_port: int | None = attribute("tlsPort", INTEGER)
    autoport: bool | None = attribute("autoport", YES_NO)
    websocket: int | None = attribute("websocket", INTEGER)
    listen: str | None = attribute("listen")
    socket: str | None = attribute("socket")
    keymap: str | None = attribute("keymap")
    default_mode: str | None = attribute("defaultMode")
    passwd: str | None = attribute("passwd")
    passwd_valid_to: str | None = attribute("passwdValidTo")
    connected: str | None = attribute("connected")
    share_policy: str | None = attribute("sharePolicy")
    power_control: str | None = attribute("powerControl")
    listens: tuple[GraphicsListen, ...] = children(GraphicsListen)
    audio: Node | None = node("audio")
    channel: tuple[Node, ...] = nodes("channel")
    image: Node | None = node("image")
    jpeg: Node | None = node("jpeg")
    zlib: Node | None = node("zlib")
    playback: Node | None = node("playback")
    streaming: Node | None = node("streaming")
    mouse: Node | None = node("mouse")
    clipboard: Node | None = node("clipboard")
    filetransfer: Node | None = node("filetransfer")
    gl: Node | None = node("gl")


@element("sound")
class Sound(Element):
    """A sound card."""

    model: str = attribute("model", required=True)
    codec: tuple[Node, ...] = nodes("codec")
    audio: Node | None = node("audio")
    alias: Alias | None = child(Alias)
    address: Address | None = child(Address)


@element("audio")
class Audio(Element):
    """Where the host plays the guest's sound."""

    id: int = attribute("id", INTEGER, required=True)
    type: str = attribute("type", required=True)
    input: Node | None = node("input")
    output: Node | None = node("output")


@element("model")
class VideoModel(Element):
    """A display adapter; memory in KiB."""

    type: str | None = attribute("type")
    ram: int | None = attribute("ram", NUMBER)
    vram: int | None = attribute("vram", NUMBER)
    vram64: int | None = attribute("vram64", NUMBER)
    vgamem: int | None = attribute("vgamem", NUMBER)
    heads: int | None = attribute("heads", NUMBER)
    primary: bool | None = attribute("primary", YES_NO)
    blob: str | None = attribute("blob")
    acceleration: Node | None = node("acceleration")
    resolution: Node | None = node("resolution")


@element("video")
class Video(Element):
    """A display."""

    driver: Node | None = node("driver")
    model: VideoModel | None = child(VideoModel)
    alias: Alias | None = child(Alias)
    address: Address | None = child(Address)


@element("hostdev")
class Hostdev(Element):
    """A device of the host given to the guest."""

    mode: str | None = attribute("mode")
    type: str | None = attribute("type")
    managed: str | None = attribute("managed")
    sgio: str | None = attribute("sgio")
    rawio: str | None = attribute("rawio")
    model: str | None = attribute("model")
    display: str | None = attribute("display")
    driver: Node | None = node("driver")
    source: Node | None = node("source")
    readonly: Node | None = node("readonly")
    shareable: Node | None = node("shareable")
    boot: BootOrder | None = child(BootOrder)
    alias: Alias | None = child(Alias)
    rom: Node | None = node("rom")
    address: Address | None = child(Address)


@element("redirdev")
class Redirdev(Element):
    """A USB device of whoever looks at the display."""

    bus: str | None = attribute("bus")
    type: str = attribute("type", required=True)
    source: CharSource | None = child(CharSource)
    protocol: CharProtocol | None = child(CharProtocol)
    boot: BootOrder | None = child(BootOrder)
    alias: Alias | None = child(Alias)
    address: Address | None = child(Address)


@element("watchdog")
class Watchdog(Element):
    """A timer that acts when the guest hangs."""

    model: str = attribute("model", required=True)
    action: str | None = attribute("action")
    alias: Alias | None = child(Alias)
    address: Address | None = child(Address)


@element("stats")
class StatsPeriod(Element):
    """How often the guest reports its memory, in seconds."""

    period: int | None = attribute("period", NUMBER)


@element("memballoon")
class MemBalloon(Element):
    """The balloon that takes memory back."""

    model: str = attribute("model", required=True)
    autodeflate: str | None = attribute("autodeflate")
    free_page_reporting: str | None = attribute("freePageReporting")
    stats: StatsPeriod | None = child(StatsPeriod)
    alias: Alias | None = child(Alias)
    address: Address | None = child(Address)
    driver: Node | None = node("driver")


@element("backend")
class RngBackend(Element):
    """Where randomness comes from."""

    model: str = attribute("model", required=True)
    type: str | None = attribute("type")
    source: tuple[Node, ...] = nodes("source")
    path: str | None = text()


@element("rng")
class Rng(Element):
    """A source of randomness."""

    model: str = attribute("model", required=True)
    rate: Node | None = node("rate")
    backend: RngBackend | None = child(RngBackend)
    driver: Node | None = node("driver")
    alias: Alias | None = child(Alias)
    address: Address | None = child(Address)


@element("panic")
class Panic(Element):
    """How the guest says that it crashed."""

    model: str | None = attribute("model")
    alias: Alias | None = child(Alias)
    address: Address | None = child(Address)


@element("tpm")
class Tpm(Element):
    """A trusted platform module."""

    model: str | None = attribute("model")
    backend: Node | None = node("backend")
    alias: Alias | None = child(Alias)
    address: Address | None = child(Address)


@element("shmem")
class Shmem(Element):
    """Memory shared with other machines."""

    name: str | None = attribute("name")
    role: str | None = attribute("role")
    model: Node | None = node("model")
    size: Node | None = node("size")
    server: Node | None = node("server")
    msi: Node | None = node("msi")
    alias: Alias | None = child(Alias)
    address: Address | None = child(Address)


@element("vsock")
class Vsock(Element):
    """A socket between guest and host."""

    model: str | None = attribute("model")
    cid: Node | None = node("cid")
    driver: Node | None = node("driver")
    alias: Alias | None = child(Alias)
    address: Address | None = child(Address)


@element("devices")
class Devices(Element):
    """A domain's devices, in the order libvirt writes them."""

    emulator: str | None = child_text("emulator")
    disk: tuple[Disk, ...] = children(Disk)
    controller: tuple[Controller, ...] = children(Controller)
    lease: tuple[Node, ...] = nodes("lease")
    filesystem: tuple[Filesystem, ...] = children(Filesystem)
    interface: tuple[Interface, ...] = children(Interface)
    smartcard: tuple[Node, ...] = nodes("smartcard")
    serial: tuple[Serial, ...] = children(Serial)
    parallel: tuple[Parallel, ...] = children(Parallel)
    console: tuple[Console, ...] = children(Console)
    channel: tuple[Channel, ...] = children(Channel)
    input: tuple[Input, ...] = children(Input)
    tpm: tuple[Tpm, ...] = children(Tpm)
    graphics: tuple[Graphics, ...] = children(Graphics)
    sound: tuple[Sound, ...] = children(Sound)
    audio: tuple[Audio, ...] = children(Audio)
    video: tuple[Video, ...] = children(Video)
    hostdev: tuple[Hostdev, ...] = children(Hostdev)
    redirdev: tuple[Redirdev, ...] = children(Redirdev)
    redirfilter: Node | None = node("redirfilter")
    hub: tuple[Node, ...] = nodes("hub")
    watchdog: tuple[Watchdog, ...] = children(Watchdog)
    memballoon: MemBalloon | None = child(MemBalloon)
    rng: tuple[Rng, ...] = children(Rng)
    nvram: Node | None = node("nvram")
    panic: tuple[Panic, ...] = children(Panic)
    shmem: tuple[Shmem, ...] = children(Shmem)
    memory: tuple[Node, ...] = nodes("memory")
    iommu: Node | None = node("iommu")
    vsock: Vsock | None = child(Vsock)
