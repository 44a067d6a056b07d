"""Secrets: passwords and keys that domains and pools refer to, kept where only the daemon can read them."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

from pyhyve.daemon.events import EventKind
from pyhyve.daemon.faults import Faults
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.rpc.values import Secret as SecretRef
from pyhyve.xml.document import Node, XmlError, format_node, parse_document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.daemon.daemon import Daemon
    from pyhyve.daemon.drivers.api import Driver

__all__ = ["Secret", "SecretRegistry", "parse_secret", "secret_document"]

USAGES: Final = ("none", "volume", "ceph", "iscsi", "tls", "vtpm")
"""By virSecretUsageType."""
_NAMED_BY: Final = {"volume": "volume", "ceph": "name", "iscsi": "target", "tls": "name", "vtpm": "name"}
_DEFINED, _UNDEFINED = 0, 1
_EVENT_LIFECYCLE, _EVENT_VALUE_CHANGED = 0, 1


@dataclass(frozen=True, slots=True)
class Secret:
    """One secret. ``value`` is None until it is set."""

    uuid: bytes
    usage: str = "none"
    usage_id: str = ""
    description: str | None = None
    ephemeral: bool = False
    private: bool = False
    value: bytes | None = None

    @property
    def ref(self) -> SecretRef:
        """How clients name it."""
        return SecretRef(self.uuid, USAGES.index(self.usage), self.usage_id)

    @property
    def text(self) -> str:
        """The UUID as people write it."""
        return str(UUID(bytes=self.uuid))


_error: Final = Faults(ErrorDomain.SECRET).make


def parse_secret(xml: str) -> Secret:
    """Read a document. Raises LibvirtError."""
    try:
        root = parse_document(xml)
    except XmlError as error:
        raise _error(ErrorCode.XML_ERROR, str(error)) from error
    if root.name != "secret":
        raise _error(ErrorCode.XML_ERROR, f"unexpected root element <{root.name}>, expecting <secret>")
    attributes, children = dict(root.attributes), {child.name: child for child in root.children}
    flags = {}
    for name in ("ephemeral", "private"):
        given = attributes.get(name, "no")
        if given not in {"yes", "no"}:
            detail = f"Invalid value for attribute '{name}' in element 'secret': '{given}'."
            raise _error(ErrorCode.XML_ERROR, detail)
        flags[name] = given == "yes"
    try:
        uuid = UUID(children["uuid"].text.strip()) if "uuid" in children else uuid4()
    except ValueError as error:
        raise _error(ErrorCode.XML_ERROR, "malformed uuid element") from error
    usage, usage_id = _usage(children.get("usage"))
    description = children["description"].text if "description" in children else None
    return Secret(uuid.bytes, usage, usage_id, description, flags["ephemeral"], flags["private"])


def _usage(node: Node | None) -> tuple[str, str]:
    if node is None:
        return "none", ""
    kind = dict(node.attributes).get("type")
    if kind is None:
        raise _error(ErrorCode.XML_ERROR, "unknown secret usage type")
    if kind not in USAGES:
        raise _error(ErrorCode.CONFIG_UNSUPPORTED, f"unknown secret usage type {kind}")
    if kind == "none":
        return kind, ""
    element = _NAMED_BY[kind]
    text = next((child.text.strip() for child in node.children if child.name == element), "")
    if not text:
        what = {"volume": "volume path", "ceph": "name", "iscsi": "target"}.get(kind, "name")
        shown = {"ceph": "Ceph", "tls": "TLS", "vtpm": "vTPM", "iscsi": "iSCSI"}.get(kind, kind)
        raise _error(ErrorCode.INTERNAL_ERROR, f"{shown} usage specified, but {what} is missing")
    return kind, text


def secret_document(secret: Secret) -> str:
    """Return the ``<secret>`` document, without its value."""
    children = [Node("uuid", text=secret.text)]
    if secret.description is not None:
        children.append(Node("description", text=secret.description))
    if secret.usage != "none":
        inner = Node(_NAMED_BY[secret.usage], text=secret.usage_id)
        children.append(Node("usage", (("type", secret.usage),), children=(inner,)))
    flags = (("ephemeral", secret.ephemeral), ("private", secret.private))
    return format_node(
        Node("secret", tuple((name, "yes" if is_so else "no") for name, is_so in flags), children=tuple(children))
    )


class SecretRegistry:
    """The secrets of one driver. Drivers offer it under its class."""

    def __init__(self, daemon: Daemon, driver: Driver, name: str) -> None:
        self.daemon = daemon
        self.driver = driver
        self.by_uuid: dict[bytes, Secret] = {}
        self.stored = daemon.store.collection(f"{name}/secrets", suffix=".json", parse=_parse, form=_form)

    def __iter__(self) -> Iterator[Secret]:
        return iter(sorted(self.by_uuid.values(), key=lambda secret: secret.uuid))

    def with_uuid(self, uuid: bytes) -> Secret:
        """The secret of that UUID. Raises LibvirtError."""
        found = self.by_uuid.get(uuid)
        if found is None:
            raise _error(ErrorCode.NO_SECRET, f"no secret with matching uuid '{UUID(bytes=uuid)}'")
        return found

    def for_usage(self, kind: int, usage_id: str) -> Secret:
        """The secret for that purpose. Raises LibvirtError."""
        for secret in self:
            if USAGES.index(secret.usage) == kind and secret.usage_id == usage_id:
                return secret
        raise _error(ErrorCode.NO_SECRET, f"no secret with matching usage '{usage_id}'")

    async def define(self, given: Secret) -> Secret:
        """Add or change a secret's attributes; its value stays. Raises LibvirtError."""
        known = self.by_uuid.get(given.uuid)
        if known is not None:
            if known.usage_id != given.usage_id:
                detail = f"a secret with UUID {known.text} is already defined for use with {known.usage_id}"
                raise _error(ErrorCode.INTERNAL_ERROR, detail)
            if known.private and not given.private:
                raise _error(ErrorCode.OPERATION_DENIED, "cannot change private flag on existing secret")
            given = replace(given, value=known.value)
        elif given.usage != "none":
            for other in self:
                if (other.usage, other.usage_id) == (given.usage, given.usage_id):
                    detail = f"a secret with UUID {other.text} already defined for use with {given.usage_id}"
                    raise _error(ErrorCode.INTERNAL_ERROR, detail)
        await self._keep(given)
        self._publish(given, _DEFINED)
        return given

    async def set_value(self, secret: Secret, value: bytes) -> None:
        """Set a value."""
        await self._keep(replace(secret, value=value))
        self.daemon.events.publish(self.driver, EventKind.SECRET, _EVENT_VALUE_CHANGED, secret.ref)

    def value(self, secret: Secret) -> bytes:
        """The value, for a client. Raises LibvirtError."""
        if secret.private:
            detail = "secret is private"
            raise _error(ErrorCode.INVALID_SECRET, detail)
        if secret.value is None:
            raise _error(ErrorCode.NO_SECRET, f"secret '{secret.text}' does not have a value")
        return secret.value

    async def undefine(self, secret: Secret) -> None:
        """Remove a secret."""
        if not secret.ephemeral:
            await self.stored.remove(secret.text)
        self.by_uuid.pop(secret.uuid, None)
        self._publish(secret, _UNDEFINED)

    async def _keep(self, secret: Secret) -> None:
        if not secret.ephemeral:
            await self.stored.save(secret.text, secret)
        self.by_uuid[secret.uuid] = secret

    def _publish(self, secret: Secret, event: int) -> None:
        self.daemon.events.publish(self.driver, EventKind.SECRET, _EVENT_LIFECYCLE, secret.ref, event, 0)

    async def start(self) -> None:
        """Bring back what is kept."""
        found = await self.daemon.run_blocking(self.stored.load)
        self.by_uuid = {secret.uuid: secret for secret in found.values()}

    async def stop(self) -> None:
        """Nothing to do."""

    def reload(self) -> None:
        """Nothing to read again."""


def _parse(data: bytes) -> Secret:
    try:
        held = json.loads(data)
        value = held.pop("value")
        if held["usage"] not in USAGES:
            raise ValueError(held["usage"])
        uuid = UUID(held.pop("uuid")).bytes
        return Secret(uuid, **held, value=None if value is None else base64.b64decode(value))
    except (KeyError, TypeError, AttributeError) as error:
        msg = f"not a secret: {error}"
        raise ValueError(msg) from error


def _form(secret: Secret) -> bytes:
    held = {
        "uuid": secret.text,
        "usage": secret.usage,
        "usage_id": secret.usage_id,
        "description": secret.description,
        "ephemeral": secret.ephemeral,
        "private": secret.private,
        "value": None if secret.value is None else base64.b64encode(secret.value).decode(),
    }
    return json.dumps(held, indent=1).encode()
