"""What kinds of pool and volume there are, as documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyhyve.daemon.storage import faults
from pyhyve.daemon.storage.filesystem_backend import DEVICE_FORMATS, NETWORK_FORMATS
from pyhyve.daemon.storage.images import FORMATS
from pyhyve.daemon.storage.logical_backend import volume_groups
from pyhyve.daemon.storage.registry import BACKENDS, TYPES
from pyhyve.xml.document import Node, format_node

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["find_sources", "pool_capabilities"]

_POOL_FORMATS: Final[dict[str, tuple[str, Sequence[str]]]] = {
    "fs": ("auto", DEVICE_FORMATS),
    "netfs": ("auto", NETWORK_FORMATS),
    "logical": ("lvm2", ("unknown", "lvm2")),
}


def _choice(container: str, enumeration: str, default: str, values: Sequence[str]) -> Node:
    inner = tuple(Node("value", text=value) for value in values)
    enum = Node("enum", (("name", enumeration),), children=inner, spread=not inner)
    return Node(container, children=(Node("defaultFormat", (("type", default),)), enum))


def pool_capabilities() -> str:
    """Return the ``<storagepoolCapabilities>`` document."""
    pools = []
    for kind in TYPES:
        backend = BACKENDS.get(kind)
        inner = []
        if backend is not None and kind in _POOL_FORMATS:
            inner.append(_choice("poolOptions", "sourceFormatType", *_POOL_FORMATS[kind]))
        if backend is not None and backend.formats_volumes:
            inner.append(_choice("volOptions", "targetFormatType", "raw", FORMATS))
        supported = "no" if backend is None else "yes"
        pools.append(Node("pool", (("type", kind), ("supported", supported)), children=tuple(inner), spread=not inner))
    return format_node(Node("storagepoolCapabilities", children=tuple(pools)))


def find_sources(kind: str, source: str | None) -> str:
    """Return the ``<sources>`` a pool of a kind could be made of. Blocks. Raises LibvirtError."""
    from pyhyve.daemon.errors import LibvirtError  # noqa: PLC0415 - beside its use
    from pyhyve.rpc.errors import ErrorDomain  # noqa: PLC0415 - ditto

    if kind not in TYPES:
        raise faults.argument(f"unknown storage pool type {kind}")
    if kind == "netfs":
        raise faults.argument("hostname must be specified for netfs sources")
    if kind != "logical":
        function = f"pool type '{kind}' does not support source discovery"
        raise LibvirtError.no_support(function, ErrorDomain.STORAGE)
    found = []
    for group, devices in volume_groups():
        inner = [Node("device", (("path", device),)) for device in devices]
        inner += [Node("name", text=group), Node("format", (("type", "lvm2"),))]
        found.append(Node("source", children=tuple(inner)))
    return format_node(Node("sources", children=tuple(found), spread=not found))
