"""Filters bound to machines' interfaces: put into force before a guest runs, and taken away with the interface."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.faults import Faults
from pyhyve.daemon.resources import filter_rules
from pyhyve.hostnet import nft
from pyhyve.hostnet.errors import HostNetError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.rpc.values import NwFilterBinding
from pyhyve.xml.document import Node, format_node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.daemon.daemon import Daemon
    from pyhyve.daemon.resources.filters import Filter, FilterRegistry

__all__ = ["Binding", "FilterBindings"]

_log = logging.getLogger(__name__)
_FAULTS: Final = Faults(ErrorDomain.NWFILTER)


@dataclass(frozen=True, slots=True)
class Binding:
    """One interface with its filter."""

    port: str
    mac: str
    reference: Node
    """The interface's ``<filterref>``."""
    owner_name: str = ""
    owner_uuid: str = ""

    @property
    def filter(self) -> str:
        """Name of the filter."""
        return dict(self.reference.attributes).get("filter", "")

    @property
    def ref(self) -> NwFilterBinding:
        """How clients name it."""
        return NwFilterBinding(self.port, self.filter)

    @property
    def text(self) -> str:
        """The document."""
        owner = Node("owner", children=(Node("name", text=self.owner_name), Node("uuid", text=self.owner_uuid)))
        port = Node("portdev", (("name", self.port),))
        mac = Node("mac", (("address", self.mac),))
        return format_node(Node("filterbinding", children=(owner, port, mac, self.reference)))


class FilterBindings:
    """What is in force now."""

    def __init__(self, daemon: Daemon, filters: FilterRegistry) -> None:
        self._daemon = daemon
        self._filters = filters
        self.by_port: dict[str, Binding] = {}
        filters.bindings = self

    def __iter__(self) -> Iterator[Binding]:
        return iter(sorted(self.by_port.values(), key=lambda held: held.port))

    def named(self, port: str) -> Binding:
        """The binding of an interface. Raises LibvirtError."""
        found = self.by_port.get(port)
        if found is None:
            raise _FAULTS.make(ErrorCode.NO_NWFILTER_BINDING, f"no nwfilter binding for port dev '{port}'")
        return found

    def _find(self, name: str) -> Node:
        for kept in self._filters:
            if kept.name == name:
                return kept.document
        raise filter_rules.missing(name)

    def _script(self, binding: Binding) -> str:
        variables: filter_rules.Variables = {"MAC": (binding.mac,), **filter_rules.parameters(binding.reference)}
        return filter_rules.table_script(binding.port, self._find(binding.filter), variables, self._find)

    async def bind(self, binding: Binding) -> None:
        """Put a filter into force. Raises LibvirtError; then the interface must not be used."""
        script = self._script(binding)
        await self._apply(script)
        self.by_port[binding.port] = binding

    async def _apply(self, script: str) -> None:
        try:
            await self._daemon.run_blocking(nft.apply, script)
        except HostNetError as error:
            raise _FAULTS.make(ErrorCode.BUILD_FIREWALL, str(error)) from error

    async def unbind(self, port: str) -> None:
        """Take a filter away; one that is gone already is no error."""
        if self.by_port.pop(port, None) is None:
            return
        name = filter_rules.table_name(port)
        try:
            await self._daemon.run_blocking(nft.apply, f"table bridge {name}\ndelete table bridge {name}\n")
        except HostNetError:
            _log.exception("cannot remove the filter of %s", port)

    def remember(self, binding: Binding) -> None:
        """Note a filter that is in force since before the daemon started."""
        self.by_port[binding.port] = binding

    def uses(self, name: str) -> bool:
        """Whether an interface's filter is this one, or refers to it."""
        return any(name in filter_rules.used_filters(self._find(held.filter), self._find) for held in self)

    def check_change(self, given: Filter) -> None:
        """Raise LibvirtError where a filter would not work any more for an interface that uses it."""
        for held in self:
            self._script_with(held, given)

    def _script_with(self, held: Binding, given: Filter) -> str | None:
        def find(name: str) -> Node:
            return given.document if name == given.name else self._find(name)

        root = find(held.filter)
        if given.name not in filter_rules.used_filters(root, find):
            return None
        variables: filter_rules.Variables = {"MAC": (held.mac,), **filter_rules.parameters(held.reference)}
        return filter_rules.table_script(held.port, root, variables, find, fresh=False)

    async def changed(self, given: Filter) -> None:
        """Put a changed filter into force where it is used. Raises LibvirtError."""
        for held in self:
            script = self._script_with(held, given)
            if script is not None:
                await self._apply(script)
