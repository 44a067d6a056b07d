"""Serial ports, consoles and channels: devices that move characters.

Source: libvirt's documentation, "Domain XML format", consoles, serial, parallel and channel devices.
"""

from __future__ import annotations

from pyhyve.xml.address import Address, Alias
from pyhyve.xml.document import Node
from pyhyve.xml.element import INTEGER, Element, attribute, child, element, node, nodes

__all__ = [
    "Channel",
    "CharLog",
    "CharProtocol",
    "CharSource",
    "CharTarget",
    "CharTargetModel",
    "Console",
    "Parallel",
    "Serial",
]


@element("source")
class CharSource(Element):
    """Where characters come from and go to."""

    mode: str | None = attribute("mode")
    host: str | None = attribute("host")
    path: str | None = attribute("path")
    service: str | None = attribute("service")
    channel: str | None = attribute("channel")
    append: str | None = attribute("append")
    tls: str | None = attribute("tls")
    reconnect: Node | None = node("reconnect")
    seclabel: tuple[Node, ...] = nodes("seclabel")


@element("protocol")
class CharProtocol(Element):
    """What is spoken on a TCP connection: raw or telnet."""

    type: str | None = attribute("type")


@element("log")
class CharLog(Element):
    """A file that gets everything the guest writes."""

    file: str = attribute("file", required=True)
    append: str | None = attribute("append")


@element("model")
class CharTargetModel(Element):
    """The chip a serial port has."""

    name: str = attribute("name", required=True)


@element("target")
class CharTarget(Element):
    """What the guest sees: a port of a card, or a named channel."""

    type: str | None = attribute("type")
    address: str | None = attribute("address")
    name: str | None = attribute("name")
    port: int | None = attribute("port", INTEGER)
    state: str | None = attribute("state")
    model: CharTargetModel | None = child(CharTargetModel)


class _Character(Element):
    type: str
    source: CharSource | None
    protocol: CharProtocol | None
    log: CharLog | None
    target: CharTarget | None
    alias: Alias | None
    address: Address | None


@element("serial")
class Serial(_Character):
    """A serial port."""

    type: str = attribute("type", required=True)
    source: CharSource | None = child(CharSource)
    protocol: CharProtocol | None = child(CharProtocol)
    log: CharLog | None = child(CharLog)
    target: CharTarget | None = child(CharTarget)
    alias: Alias | None = child(Alias)
    address: Address | None = child(Address)


@element("parallel")
class Parallel(_Character):
    """A parallel port."""

    type: str = attribute("type", required=True)
    source: CharSource | None = child(CharSource)
    protocol: CharProtocol | None = child(CharProtocol)
    log: CharLog | None = child(CharLog)
    target: CharTarget | None = child(CharTarget)
    alias: Alias | None = child(Alias)
    address: Address | None = child(Address)


@element("console")
class Console(_Character):
    """The console people talk to."""

    type: str = attribute("type", required=True)
    tty: str | None = attribute("tty")
    source: CharSource | None = child(CharSource)
    protocol: CharProtocol | None = child(CharProtocol)
    log: CharLog | None = child(CharLog)
    target: CharTarget | None = child(CharTarget)
    alias: Alias | None = child(Alias)
    address: Address | None = child(Address)


@element("channel")
class Channel(_Character):
    """A named channel between guest and host."""

    type: str = attribute("type", required=True)
    source: CharSource | None = child(CharSource)
    protocol: CharProtocol | None = child(CharProtocol)
    log: CharLog | None = child(CharLog)
    target: CharTarget | None = child(CharTarget)
    alias: Alias | None = child(Alias)
    address: Address | None = child(Address)
