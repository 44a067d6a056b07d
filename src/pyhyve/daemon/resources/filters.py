"""Network filters: kept and shown. Those of running machines are in force (:mod:`.filter_bindings`).

Documents are checked for being filters; what is in their rules is kept as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.faults import Faults
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.rpc.values import NwFilter
from pyhyve.xml.document import Node, XmlError, format_node, parse_document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.daemon.daemon import Daemon
    from pyhyve.daemon.resources.filter_bindings import FilterBindings

__all__ = ["Filter", "FilterRegistry", "parse_filter"]


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter and its document."""

    name: str
    uuid: bytes
    document: Node

    @property
    def ref(self) -> NwFilter:
        """How clients name it."""
        return NwFilter(self.name, self.uuid)

    @property
    def text(self) -> str:
        """The document."""
        return format_node(self.document)


_error: Final = Faults(ErrorDomain.NWFILTER).make


def parse_filter(xml: str | bytes) -> Filter:
    """Read a document. Raises LibvirtError."""
    try:
        root = parse_document(xml)
    except XmlError as error:
        raise _error(ErrorCode.XML_ERROR, str(error)) from error
    if root.name != "filter":
        raise _error(ErrorCode.XML_ERROR, f"unexpected root element <{root.name}>, expecting <filter>")
    name = dict(root.attributes).get("name")
    if not name:
        raise _error(ErrorCode.INTERNAL_ERROR, "filter has no name")
    held = next((child for child in root.children if child.name == "uuid"), None)
    try:
        uuid = uuid4() if held is None else UUID(held.text.strip())
    except ValueError as error:
        raise _error(ErrorCode.XML_ERROR, "malformed uuid element") from error
    rest = tuple(child for child in root.children if child.name != "uuid")
    attributes = root.attributes
    if "chain" not in dict(attributes):
        attributes = (*attributes, ("chain", "root"))
    return Filter(
        name, uuid.bytes, replace(root, attributes=attributes, children=(Node("uuid", text=str(uuid)), *rest))
    )


class FilterRegistry:
    """The filters of one driver. Drivers offer it under its class."""

    def __init__(self, daemon: Daemon, name: str) -> None:
        self.daemon = daemon
        self.by_uuid: dict[bytes, Filter] = {}
        self.bindings: FilterBindings | None = None
        """Interfaces that filters are in force for."""
        self.stored = daemon.store.collection(
            f"{name}/filters", suffix=".xml", parse=_parse, form=lambda kept: kept.text.encode()
        )

    def __iter__(self) -> Iterator[Filter]:
        return iter(sorted(self.by_uuid.values(), key=lambda kept: kept.name))

    def named(self, name: str) -> Filter:
        """The filter of that name. Raises LibvirtError."""
        for kept in self:
            if kept.name == name:
                return kept
        raise _error(ErrorCode.NO_NWFILTER, f"no nwfilter with matching name '{name}'")

    def with_uuid(self, uuid: bytes) -> Filter:
        """The filter of that UUID. Raises LibvirtError."""
        found = self.by_uuid.get(uuid)
        if found is None:
            raise _error(ErrorCode.NO_NWFILTER, f"no nwfilter with matching uuid '{UUID(bytes=uuid)}'")
        return found

    async def define(self, given: Filter) -> Filter:
        """Add or change a filter. Raises LibvirtError."""
        for kept in self:
            if kept.name == given.name and kept.uuid != given.uuid:
                detail = f"filter '{kept.name}' already exists with uuid {UUID(bytes=kept.uuid)}"
                raise _error(ErrorCode.OPERATION_FAILED, detail)
        known = self.by_uuid.get(given.uuid)
        if known is not None and known.name != given.name:
            detail = f"filter with same UUID but different name ('{known.name}') already exists"
            raise _error(ErrorCode.OPERATION_FAILED, detail)
        if self.bindings is not None:
            self.bindings.check_change(given)
        await self.stored.save(given.name, given)
        self.by_uuid[given.uuid] = given
        if self.bindings is not None:
            await self.bindings.changed(given)
        return given

    async def undefine(self, kept: Filter) -> None:
        """Remove a filter. Raises LibvirtError while another refers to it."""
        for other in self:
            referred = {
                dict(node.attributes).get("filter") for node in other.document.children if node.name == "filterref"
            }
            if other is not kept and kept.name in referred:
                raise _error(ErrorCode.OPERATION_INVALID, "nwfilter is in use")
        if self.bindings is not None and self.bindings.uses(kept.name):
            raise _error(ErrorCode.OPERATION_INVALID, "nwfilter is in use")
        await self.stored.remove(kept.name)
        self.by_uuid.pop(kept.uuid, None)

    async def start(self) -> None:
        """Bring back what is kept."""
        found = await self.daemon.run_blocking(self.stored.load)
        self.by_uuid = {kept.uuid: kept for kept in found.values()}

    async def stop(self) -> None:
        """Nothing to do."""

    def reload(self) -> None:
        """Nothing to read again."""


def _parse(data: bytes) -> Filter:
    try:
        return parse_filter(data)
    except LibvirtError as error:
        raise ValueError(str(error)) from error
