"""``<bandwidth>``: how much may come and go through an interface of a guest, or a network's bridge.

Source: libvirt's documentation, "Domain XML format" and "Network XML format", quality of service. Rates are kilobytes
(1000) per second, bursts kibibytes. ``inbound`` is what guests receive, ``floor`` what an interface is sure of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.faults import Faults
from pyhyve.hostnet.shaping import Rate
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.xml.document import Node

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyhyve.daemon.errors import LibvirtError

__all__ = ["NAMES", "Bandwidth", "Way", "form", "given", "held", "parse", "sent_and_received"]

NAMES: Final = (
    ("inbound", "average"),
    ("inbound", "peak"),
    ("inbound", "burst"),
    ("inbound", "floor"),
    ("outbound", "average"),
    ("outbound", "peak"),
    ("outbound", "burst"),
)
_ORDER: Final = ("average", "peak", "floor", "burst")
_unsupported: Final = Faults(ErrorDomain.DOMAIN).unsupported
_ULLONG_MAX: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Way:
    """What one way may carry: KB/s on average, at its peak and at least; KiB at the peak's speed. 0: not said."""

    average: int = 0
    peak: int = 0
    floor: int = 0
    burst: int = 0

    def rate(self) -> Rate | None:
        """Return it for the host, or None where it is not limited."""
        if not self.average:
            return None
        return Rate(self.average * 1000, self.peak * 1000, self.burst << 10)


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Both ways."""

    inbound: Way = Way()
    outbound: Way = Way()

    def __bool__(self) -> bool:
        return self != Bandwidth()


def parse(node: Node | None, *, with_floor: bool = True) -> Bandwidth:
    """Read an element; only interfaces on virtual networks may have a floor. Raises LibvirtError."""
    ways: dict[str, Way] = {}
    for child in node.children if node is not None else ():
        if child.name not in {"inbound", "outbound"}:
            continue
        if child.name in ways:
            raise _malformed(f"Only one child <{child.name}> element allowed")
        ways[child.name] = _way(child)
    if not with_floor and "inbound" in ways and ways["inbound"].floor:
        raise _unsupported("floor attribute is not supported for this config")
    return Bandwidth(ways.get("inbound", Way()), ways.get("outbound", Way()))


def _malformed(text: str) -> LibvirtError:
    return Faults(ErrorDomain.DOMAIN).worded(ErrorCode.XML_DETAIL, text)


def _way(node: Node) -> Way:
    attributes = dict(node.attributes)
    values: dict[str, int] = {}
    for name in _ORDER:
        text = attributes.get(name)
        if text is None:
            continue
        if not text.strip().isdecimal() or int(text) > _ULLONG_MAX:
            raise _unsupported(f"could not convert bandwidth {name} value '{text}'")
        values[name] = int(text)
    if node.name == "outbound" and "floor" in attributes:
        raise _unsupported("'floor' attribute allowed only in <inbound> element")
    if "average" not in values and "floor" not in values:
        raise _malformed("Missing mandatory average or floor attributes")
    if ("peak" in values or "burst" in values) and "average" not in values:
        raise _unsupported("'peak' and 'burst' require 'average' attribute")
    way = Way(**values)
    return way if way.average or way.floor else Way()


def form(bandwidth: Bandwidth) -> Node | None:
    """Return the element, or None where nothing is limited."""
    children = []
    for name, way in (("inbound", bandwidth.inbound), ("outbound", bandwidth.outbound)):
        attributes = tuple((key, str(getattr(way, key))) for key in _ORDER if getattr(way, key))
        if attributes:
            children.append(Node(name, attributes))
    return Node("bandwidth", children=tuple(children)) if children else None


def held(bandwidth: Bandwidth) -> list[tuple[str, int]]:
    """Return every number under the name clients have for it."""
    return [(f"{way}.{key}", getattr(getattr(bandwidth, way), key)) for way, key in NAMES]


def given(before: Bandwidth, numbers: Mapping[str, int]) -> Bandwidth:
    """Return limits with the ways changed that numbers are given for; one without an average or floor has none."""
    ways = {}
    for way, leads in (("inbound", ("average", "floor")), ("outbound", ("average",))):
        if any(f"{way}.{key}" in numbers for key in leads):
            new = Way(**{key: numbers.get(f"{way}.{key}", 0) for name, key in NAMES if name == way})
            ways[way] = new if new.average or new.floor else Way()
        else:
            ways[way] = getattr(before, way)
    return Bandwidth(**ways)


def sent_and_received(bandwidth: Bandwidth) -> tuple[Rate | None, Rate | None]:
    """Return what limits mean for the host's end: it sends what the guest receives."""
    return bandwidth.inbound.rate(), bandwidth.outbound.rate()
