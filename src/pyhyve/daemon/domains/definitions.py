"""What is done to definitions: undefining, renaming, autostart, metadata, and writing them for those who ask."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains import checkpoints, saving, snapshots
from pyhyve.daemon.domains.definition.parse import malformed
from pyhyve.daemon.domains.definition.view import XmlFlags, format_domain, inactive_view, migratable_view
from pyhyve.daemon.domains.domain import StoredDefinition
from pyhyve.daemon.domains.faults import failed, invalid, invalid_argument, system_error, xml_error
from pyhyve.daemon.domains.states import Affect, DefinedDetail, LifecycleEvent
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.events import DomainEvent
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.xml.document import Node, XmlError, format_node, parse_document
from pyhyve.xml.element import replace

if TYPE_CHECKING:
    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.daemon.domains.registry import DomainRegistry
    from pyhyve.xml.domain import Domain

__all__ = [
    "change",
    "document",
    "get_metadata",
    "native_command",
    "rename",
    "set_autostart",
    "set_lifecycle_action",
    "set_metadata",
    "undefine",
]

_MANAGED_SAVE, _SNAPSHOTS, _NVRAM, _KEEP_NVRAM, _CHECKPOINTS = 1, 2, 4, 8, 16
_DESCRIPTION, _TITLE, _ELEMENT = 0, 1, 2
_ACTIONS: Final = ("destroy", "restart", "rename-restart", "preserve", "coredump-destroy", "coredump-restart")
_ACTION_FIELDS: Final = ("on_poweroff", "on_reboot", "on_crash")
_DOM: Final = ErrorDomain.DOMAIN


async def undefine(domain: ManagedDomain, flags: int) -> None:
    """Undefine a domain; one that runs becomes transient. Raises LibvirtError."""
    definition = domain.definition
    if definition is None:
        raise invalid("cannot undefine transient domain")
    if not domain.active and (count := snapshots.count(domain)):
        if not flags & _SNAPSHOTS:
            raise invalid(f"cannot delete inactive domain with {count} snapshots")
        await snapshots.drop_metadata(domain)
    if not domain.active and (count := checkpoints.count(domain)):
        if not flags & _CHECKPOINTS:
            raise invalid(f"cannot delete inactive domain with {count} checkpoints")
        await checkpoints.drop_metadata(domain)
    if saving.has_managed_save(domain):
        if not flags & _MANAGED_SAVE:
            raise invalid("Refusing to undefine while domain managed save image exists")
        await saving.remove_managed(domain)
    nvram = domain.registry.hypervisor.nvram_path(definition)
    if nvram is not None and nvram.exists():
        if flags & _NVRAM:
            try:
                nvram.unlink()
            except OSError as error:
                raise system_error(f"failed to remove nvram: {nvram}", error) from error
        elif not flags & _KEEP_NVRAM:
            raise invalid("cannot undefine domain with nvram")
    await domain.registry.definitions.remove(domain.name)
    if domain.autostart:
        domain.autostart = False
        await domain.registry.autostarts.remove(domain.name)
    domain.definition = None
    domain.lifecycle(LifecycleEvent.UNDEFINED, 0)
    if domain.active:
        if domain.record is not None:
            domain.record.transient = True
            await domain.save_record()
    else:
        domain.registry.remove(domain)


async def rename(domain: ManagedDomain, name: str) -> None:
    """Give a domain that does not run another name. Raises LibvirtError."""
    if domain.active:
        raise invalid("cannot rename active domain")
    definition = domain.definition
    if definition is None:
        raise invalid("cannot rename a transient domain")
    if not name:
        raise invalid_argument("new name must not be empty", _DOM)
    if "/" in name:
        raise xml_error(f"name {name} cannot contain '/'")
    if name == domain.name:
        raise failed("Can't rename domain to itself", _DOM)
    registry = domain.registry
    if name in registry.by_name:
        raise invalid(f"domain with name '{name}' already exists")
    old = domain.name
    renamed = replace(definition, name=name)
    text = format_domain(renamed, secure=True)
    await registry.definitions.save(name, StoredDefinition(name, domain.uuid, text))
    await saving.rename_managed(domain, name)
    if domain.autostart:
        await registry.autostarts.save(name, True)  # noqa: FBT003 - the item that is kept
        await registry.autostarts.remove(old)
    await registry.definitions.remove(old)
    domain.lifecycle(LifecycleEvent.UNDEFINED, 1)
    del registry.by_name[old]
    domain.name = name
    registry.by_name[name] = domain
    domain.definition = renamed
    domain.lifecycle(LifecycleEvent.DEFINED, DefinedDetail.RENAMED)


async def set_autostart(domain: ManagedDomain, *, enabled: bool) -> None:
    """Have a domain start by itself, or not. Raises LibvirtError."""
    if not domain.persistent:
        raise invalid("cannot set autostart for transient domain")
    if enabled != domain.autostart:
        if enabled:
            await domain.registry.autostarts.save(domain.name, True)  # noqa: FBT003 - the item that is kept
        else:
            await domain.registry.autostarts.remove(domain.name)
        domain.autostart = enabled


def document(domain: ManagedDomain, flags: int) -> str:
    """Return a domain's document. Raises LibvirtError."""
    secure = bool(flags & XmlFlags.SECURE)
    live = domain.live
    if live is not None and not flags & XmlFlags.INACTIVE:
        held = migratable_view(live) if flags & XmlFlags.MIGRATABLE else live
        return domain.text_of(held, secure=secure)
    if domain.definition is not None:
        return domain.text_of(domain.definition, secure=secure)
    return format_domain(inactive_view(domain.current), secure=secure)


async def change(domain: ManagedDomain, affect: Affect, update: Any) -> None:
    """Change what runs and the definition, as asked, with one function."""
    if affect & Affect.LIVE and domain.live is not None:
        domain.live = update(domain.live)
        await domain.save_record()
    if affect & Affect.CONFIG and domain.definition is not None:
        before = domain.definition
        domain.definition = update(before)
        try:
            await domain.save_definition()
        except OSError as error:
            domain.definition = before
            raise system_error("cannot write the definition", error) from error


# -- metadata ---------------------------------------------------------------------------------------------------------


def _no_metadata() -> LibvirtError:
    return LibvirtError(ErrorCode.NO_DOMAIN_METADATA, _DOM, "Requested metadata element is not present")


def _namespace(node: Node) -> str | None:
    """Return the namespace a node of ``<metadata>`` is in."""
    prefix = node.name.partition(":")[0] if ":" in node.name else ""
    return dict(node.attributes).get(f"xmlns:{prefix}" if prefix else "xmlns")


def get_metadata(domain: ManagedDomain, kind: int, uri: str | None, flags: int) -> str:
    """Return a title, a description, or the element of a namespace. Raises LibvirtError."""
    held = domain.looked_at(flags)
    found: str | None
    if kind == _DESCRIPTION:
        found = held.description
    elif kind == _TITLE:
        found = held.title
    elif kind == _ELEMENT:
        nodes = held.metadata.children if held.metadata is not None else ()
        found = next((format_foreign(node) for node in nodes if _namespace(node) == uri), None)
    else:
        raise invalid_argument(f"unknown metadata type {kind}", _DOM)
    if found is None:
        raise _no_metadata()
    return found


def format_foreign(node: Node) -> str:
    """Return an element of somebody's own XML as libvirt gives it back: the prefix of its namespace left out."""
    prefix = node.name.partition(":")[0] if ":" in node.name else ""
    if prefix:
        node = _without_prefix(node, prefix)
    text = format_node(Node("metadata", children=(node,)))
    lines = text.splitlines()[1:-1]
    return "\n".join(line.removeprefix("  ") for line in lines)


def _without_prefix(node: Node, prefix: str) -> Node:
    name = node.name.removeprefix(f"{prefix}:")
    attributes = tuple(item for item in node.attributes if item[0] != f"xmlns:{prefix}")
    return replace(
        node, name=name, attributes=attributes, children=tuple(_without_prefix(i, prefix) for i in node.children)
    )


def _with_metadata(held: Domain, kind: int, text: str | None, key: str | None, uri: str | None) -> Domain:
    if kind == _DESCRIPTION:
        return replace(held, description=text or None)
    if kind == _TITLE:
        if text and "\n" in text:
            raise xml_error("Domain title can't contain newlines")
        return replace(held, title=text or None)
    kept = tuple(node for node in (held.metadata.children if held.metadata else ()) if _namespace(node) != uri)
    if text:
        try:
            root = parse_document(text)
        except XmlError as error:
            raise malformed(text, error, "metadata_xml") from error
        kept = (*kept, _with_prefix(root, key or "", uri or ""))
    present = bool(kept) or held.metadata is not None
    return replace(held, metadata=Node("metadata", children=kept) if present else None)


def _with_prefix(node: Node, key: str, uri: str) -> Node:
    attributes = tuple(item for item in node.attributes if item[1] != uri or not item[0].startswith("xmlns"))

    def named(inner: Node) -> Node:
        name = inner.name if ":" in inner.name else f"{key}:{inner.name}"
        return replace(inner, name=name, children=tuple(named(child) for child in inner.children))

    return replace(named(node), attributes=((f"xmlns:{key}", uri), *attributes))


async def set_metadata(
    domain: ManagedDomain, kind: int, text: str | None, key: str | None, uri: str | None, flags: int
) -> None:
    """Set a title, a description, or the element of a namespace. Raises LibvirtError."""
    affect = domain.affected(flags)
    if kind not in {_DESCRIPTION, _TITLE, _ELEMENT}:
        raise invalid_argument(f"unknown metadata type {kind}", _DOM)
    await change(domain, affect, lambda held: _with_metadata(held, kind, text, key, uri))
    domain.publish(DomainEvent.METADATA_CHANGE, kind, uri if kind == _ELEMENT else None)


async def set_lifecycle_action(domain: ManagedDomain, kind: int, action: int, flags: int) -> None:
    """Say what happens when a guest powers off, reboots or crashes. Raises LibvirtError."""
    affect = domain.affected(flags)
    if not 0 <= kind < len(_ACTION_FIELDS):
        raise invalid_argument(f"Invalid lifecycle type '{kind}'", _DOM)
    if not 0 <= action < len(_ACTIONS):
        raise invalid_argument(f"Invalid lifecycle action '{action}'", _DOM)
    await change(domain, affect, lambda held: replace(held, **{_ACTION_FIELDS[kind]: _ACTIONS[action]}))


async def native_command(registry: DomainRegistry, form: str, text: str) -> str:
    """Return the command line a document would run. Raises LibvirtError."""
    if form != "qemu-argv":
        raise invalid_argument(f"unsupported config type {form}")
    definition = await registry.complete(text)
    arguments = await registry.hypervisor.command_preview(definition)
    return shlex.join(arguments) + "\n"
