"""What the two daemons tell each other beside the machine's document: a small document of its own, ending in NUL.

The elements are those of libvirtd's QEMU driver, as far as they are needed; what else a peer says is not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.domains.faults import internal
from pyhyve.xml.document import Node, XmlError, format_node, parse_document

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyhyve.daemon.domains.registry import DomainRegistry

__all__ = ["Cookie", "form_cookie", "own_cookie", "parse_cookie"]

_STATISTICS: Final = (
    "time_elapsed",
    "downtime",
    "setup_time",
    "memory_total",
    "memory_processed",
    "memory_remaining",
    "memory_bps",
    "memory_constant",
    "memory_normal",
    "memory_normal_bytes",
    "memory_dirty_rate",
    "memory_iteration",
    "memory_postcopy_requests",
    "memory_page_size",
)
"""Elements of the statistics, called as the parameters of a job."""


@dataclass(frozen=True, slots=True)
class Cookie:
    """What one side says. ``persistent`` is a definition's document; ``statistics`` are a job's."""

    name: str
    uuid: str
    hostname: str
    host_uuid: str
    persistent: str | None = None
    statistics: Mapping[str, int] | None = None
    nbd_port: int | None = None
    disks: Mapping[str, int] | None = None
    """Capacity in bytes of each disk that is to be copied, by its target."""


async def own_cookie(
    registry: DomainRegistry,
    name: str,
    uuid: str,
    *,
    persistent: str | None = None,
    statistics: Mapping[str, int] | None = None,
) -> Cookie:
    """Return what this side says of a domain."""
    hostname = await registry.daemon.run_blocking(registry.driver.host.hostname)
    return Cookie(name, uuid, hostname, await registry.host_uuid(), persistent=persistent, statistics=statistics)


def form_cookie(cookie: Cookie) -> bytes:
    """Return a cookie as it travels."""
    children = [
        Node("name", text=cookie.name),
        Node("uuid", text=cookie.uuid),
        Node("hostname", text=cookie.hostname),
        Node("hostuuid", text=cookie.host_uuid),
    ]
    if cookie.persistent is not None:
        children.append(parse_document(cookie.persistent))
    if cookie.nbd_port is not None or cookie.disks is not None:
        port = () if cookie.nbd_port is None else (("port", str(cookie.nbd_port)),)
        disks = tuple(
            Node("disk", (("target", target), ("capacity", str(capacity))))
            for target, capacity in (cookie.disks or {}).items()
        )
        children.append(Node("nbd", port, children=disks))
    if cookie.statistics is not None:
        inside = tuple(Node(name, text=str(value)) for name, value in cookie.statistics.items() if name in _STATISTICS)
        children.append(Node("statistics", children=inside))
    return format_node(Node("qemu-migration", children=tuple(children))).encode() + b"\0"


def parse_cookie(data: bytes) -> Cookie | None:
    """Return what a peer says; nothing where it sent nothing. Raises LibvirtError."""
    if not data:
        return None
    if not data.endswith(b"\0"):
        raise internal("Migration cookie was not NULL terminated")
    try:
        root = parse_document(data.rstrip(b"\0"))
    except XmlError as error:
        raise internal(f"cannot read the migration cookie: {error}") from error
    held = {child.name: child for child in root.children}

    def text(name: str) -> str:
        found = held.get(name)
        if found is None:
            raise internal(f"missing {name} element in migration data")
        return found.text.strip()

    nbd = held.get("nbd")
    attributes = dict(nbd.attributes) if nbd is not None else {}
    disks = {}
    for child in nbd.children if nbd is not None else ():
        inner = dict(child.attributes)
        if child.name == "disk" and "target" in inner:
            disks[inner["target"]] = _number(inner.get("capacity"))
    statistics: dict[str, int] | None = None
    if (found := held.get("statistics")) is not None:
        given = {child.name: child.text for child in found.children}
        statistics = {name: _number(given[name]) for name in _STATISTICS if name in given}
    return Cookie(
        text("name"),
        text("uuid"),
        text("hostname"),
        text("hostuuid"),
        format_node(held["domain"]) if "domain" in held else None,
        statistics,
        _number(attributes["port"]) if "port" in attributes else None,
        disks if nbd is not None else None,
    )


def _number(text: str | None) -> int:
    try:
        return int(text or "0")
    except ValueError as error:
        raise internal(f"Malformed number '{text}' in migration data") from error
