"""``<devices>``: everything a domain has besides CPUs and memory.

Source: libvirt's documentation, "Domain XML format", devices.
"""

from __future__ import annotations

from pyhyve.xml.address import Address, Alias
from pyhyve.xml.disk import Disk
from pyhyve.xml.element import INTEGER, NUMBER, YES_NO, Element, attribute, child, child_text, children, element, text
from pyhyve.xml.interface import Interface

__all__ = [
    "Channel",
    "CharSource",
    "CharTarget",
    "Console",
    "Controller",
    "Devices",
    "Graphics",
    "Input",
    "MemBalloon",
    "Rng",
    "RngBackend",
    "Serial",
    "Video",
    "VideoModel",
]


@element("controller")
class Controller(Element):
    """A controller other devices hang on."""

    type: str = attribute("type", required=True)
    index: int | None = attribute("index", INTEGER)
    model: str | None = attribute("model")
    ports: int | None = attribute("ports", NUMBER)
    alias: Alias | None = child(Alias)
    address: Address | None = child(Address)


@element("source")
class CharSource(Element):
    """Where characters come from and go to."""

    mode: str | None = attribute("mode")
    host: str | None = attribute("host")
    service: str | None = attribute("service")
    path: str | None = attribute("path")
    append: str | None = attribute("append")


@element("target")
class CharTarget(Element):
    """What the guest sees: a port of a card, or a named channel."""

    type: str | None = attribute("type")
    name: str | None = attribute("name")
    state: str | None = attribute("state")
    port: int | None = attribute("port", INTEGER)


class _Character(Element):
    type: str
    source: CharSource | None
    target: CharTarget | None


@element("serial")
class Serial(_Character):
    """A serial port."""

    type: str = attribute("type", required=True)
    source: CharSource | None = child(CharSource)
    target: CharTarget | None = child(CharTarget)
    alias: Alias | None = child(Alias)
    address: Address | None = child(Address)


@element("console")
class Console(_Character):
    """The console people talk to."""

    type: str = attribute("type", required=True)
    tty: str | None = attribute("tty")
    source: CharSource | None = child(CharSource)
    target: CharTarget | None = child(CharTarget)
    alias: Alias | None = child(Alias)
    address: Address | None = child(Address)


@element("channel")
class Channel(_Character):
    """A named channel between guest and host."""

    type: str = attribute("type", required=True)
    source: CharSource | None = child(CharSource)
    target: CharTarget | None = child(CharTarget)
    alias: Alias | None = child(Alias)
    address: Address | None = child(Address)


@element("input")
class Input(Element):
    """A keyboard, mouse or tablet."""

    type: str = attribute("type", required=True)
    bus: str | None = attribute("bus")
    model: str | None = attribute("model")
    alias: Alias | None = child(Alias)
    address: Address | None = child(Address)


@element("graphics")
class Graphics(Element):
    """How people see the screen; port -1 lets the hypervisor choose."""

    type: str = attribute("type", required=True)
    port: int | None = attribute("port", INTEGER)
    autoport: bool | None = attribute("autoport", YES_NO)
    websocket: int | None = attribute("websocket", INTEGER)
    listen: str | None = attribute("listen")
    keymap: str | None = attribute("keymap")
    passwd: str | None = attribute("passwd")


@element("model")
class VideoModel(Element):
    """A display adapter; memory in KiB."""

    type: str | None = attribute("type")
    ram: int | None = attribute("ram", NUMBER)
    vram: int | None = attribute("vram", NUMBER)
    heads: int | None = attribute("heads", NUMBER)
    primary: bool | None = attribute("primary", YES_NO)


@element("video")
class Video(Element):
    """A display."""

    model: VideoModel | None = child(VideoModel)
    alias: Alias | None = child(Alias)
    address: Address | None = child(Address)


@element("memballoon")
class MemBalloon(Element):
    """The balloon that takes memory back."""

    model: str = attribute("model", required=True)
    autodeflate: str | None = attribute("autodeflate")
    alias: Alias | None = child(Alias)
    address: Address | None = child(Address)


@element("backend")
class RngBackend(Element):
    """Where randomness comes from."""

    model: str = attribute("model", required=True)
    path: str | None = text()


@element("rng")
class Rng(Element):
    """A source of randomness."""

    model: str = attribute("model", required=True)
    backend: RngBackend | None = child(RngBackend)
    alias: Alias | None = child(Alias)
    address: Address | None = child(Address)


@element("devices")
class Devices(Element):
    """A domain's devices."""

    emulator: str | None = child_text("emulator")
    disk: tuple[Disk, ...] = children(Disk)
    controller: tuple[Controller, ...] = children(Controller)
    interface: tuple[Interface, ...] = children(Interface)
    serial: tuple[Serial, ...] = children(Serial)
    console: tuple[Console, ...] = children(Console)
    channel: tuple[Channel, ...] = children(Channel)
    input: tuple[Input, ...] = children(Input)
    graphics: tuple[Graphics, ...] = children(Graphics)
    video: tuple[Video, ...] = children(Video)
    memballoon: MemBalloon | None = child(MemBalloon)
    rng: tuple[Rng, ...] = children(Rng)
