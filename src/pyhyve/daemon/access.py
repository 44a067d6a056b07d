"""Who may do what: identities, the contract of a policy, and what depends on a call's arguments.

The procedure table has the permissions a procedure needs whatever its arguments; here is what flags add (libvirt's
"@acl" notes with conditions), what a read-only connection may do by flags, and which objects a call is about.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from pyhyve.rpc.procedure import Trait
from pyhyve.rpc.values import (
    Domain,
    DomainCheckpoint,
    DomainSnapshot,
    Interface,
    Network,
    NetworkPort,
    NodeDevice,
    NwFilter,
    NwFilterBinding,
    Secret,
    StatsRecord,
    StoragePool,
    StorageVol,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyhyve.rpc.procedures import Procedure

__all__ = ["AllowAll", "Identity", "Policy", "denied_to_readers", "extra_permissions", "object_of", "objects_in"]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client is, as far as its socket and its authentication tell."""

    transport: str
    """One of unix, tcp, tls."""
    uid: int | None = None
    gid: int | None = None
    pid: int | None = None
    user: str | None = None
    groups: Sequence[str] = field(default=())
    sasl: str | None = None
    certificate: str | None = None
    """Distinguished name of the client's certificate."""
    address: str | None = None

    def __str__(self) -> str:
        parts = [self.transport]
        if self.pid is not None:
            parts.append(f"process {self.pid} of {self.user or self.uid}")
        parts.extend(filter(None, (self.address, self.sasl, self.certificate)))
        return " ".join(parts)


class Policy(Protocol):
    """Decides."""

    by_object: bool
    """Whether it matters which object it is."""

    def allows(self, identity: Identity, permission: str, name: str, uuid: bytes) -> bool:
        """Whether a client has a permission (``object:permission``) on an object, or (no name) on some object."""


class AllowAll:
    """Whoever may connect may do everything: the socket's mode decides."""

    by_object = False

    def allows(self, identity: Identity, permission: str, name: str, uuid: bytes) -> bool:
        """Allow."""
        return True


_XML_SECURE: Final = 1  # VIR_DOMAIN_XML_SECURE, …_SNAPSHOT_XML_SECURE, …_CHECKPOINT_XML_SECURE
_VCPU_GUEST: Final = 8  # VIR_DOMAIN_VCPU_GUEST
_AFFECT_LIVE: Final = 1
_AFFECT_CONFIG: Final = 2
_SOURCE_AGENT: Final = 1  # VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT

_WITH_SECRETS: Final = frozenset(
    {
        "DOMAIN_GET_XML_DESC",
        "DOMAIN_SNAPSHOT_GET_XML_DESC",
        "DOMAIN_CHECKPOINT_GET_XML_DESC",
        "DOMAIN_MANAGED_SAVE_GET_XML_DESC",
    }
)
"""Documents that show passwords when asked to."""
_READABLE: Final = frozenset(
    {
        *_WITH_SECRETS,
        "DOMAIN_GET_GUEST_VCPUS",
        "DOMAIN_GET_VCPUS_FLAGS",
        "DOMAIN_INTERFACE_ADDRESSES",
        "DOMAIN_MIGRATE_GET_COMPRESSION_CACHE",
        "DOMAIN_MIGRATE_GET_MAX_DOWNTIME",
    }
)
"""Open to readers although a policy may ask for more than reading."""
_CLOSED: Final = frozenset({"DOMAIN_SET_SCHEDULER_PARAMETERS", "DOMAIN_GET_LAUNCH_SECURITY_INFO"})
"""Closed to readers although the policy asks for no more than reading."""
_CONFIG_TOO: Final = ("_SET_", "_ATTACH_", "_DETACH_", "_UPDATE_", "_PIN_", "_ADD_", "_DEL_")


def denied_to_readers(row: Procedure, args: Any, function: str) -> str | None:
    """Return why a read-only connection may not make a call, or None where it may."""
    name = row.name
    if name in _WITH_SECRETS and args.flags & _XML_SECURE:
        return f"{function} with secure flag"
    closed = (
        name in _CLOSED
        or (Trait.READ not in row.traits and name not in _READABLE)
        or (name == "DOMAIN_GET_VCPUS_FLAGS" and args.flags & _VCPU_GUEST)
        or (name == "DOMAIN_INTERFACE_ADDRESSES" and args.source == _SOURCE_AGENT)
    )
    return f"read only access prevents {function}" if closed else None


def extra_permissions(row: Procedure, args: Any) -> Sequence[str]:
    """Return the permissions a call needs because of its flags."""
    flags = getattr(args, "flags", 0)
    if row.name in _WITH_SECRETS:
        return ("domain:read_secure",) if flags & _XML_SECURE else ()
    if row.name == "DOMAIN_GET_VCPUS_FLAGS":
        return ("domain:write",) if flags & _VCPU_GUEST else ()
    if row.name == "DOMAIN_INTERFACE_ADDRESSES":
        return ("domain:write",) if args.source == _SOURCE_AGENT else ()
    changes = row.name.startswith("DOMAIN_") and any(word in row.name for word in _CONFIG_TOO)
    if changes and "flags" in getattr(args, "_fields", ()) and "domain:write" in row.permissions:
        # Without either flag a domain that does not run is changed where it is kept.
        lasting = flags & _AFFECT_CONFIG or not flags & (_AFFECT_LIVE | _AFFECT_CONFIG)
        return ("domain:save",) if lasting else ()
    return ()


def object_of(value: object) -> tuple[str, str, bytes] | None:
    """Return kind, name and UUID of a value of the protocol that stands for an object; None where it is none."""
    describe = _OBJECTS.get(type(value))
    return None if describe is None else describe(value)


_OBJECTS: Final[dict[type, Callable[[Any], tuple[str, str, bytes]]]] = {
    Domain: lambda value: ("domain", value.name, value.uuid),
    DomainSnapshot: lambda value: ("domain", value.dom.name, value.dom.uuid),
    DomainCheckpoint: lambda value: ("domain", value.dom.name, value.dom.uuid),
    StatsRecord: lambda value: ("domain", value.dom.name, value.dom.uuid),
    Network: lambda value: ("network", value.name, value.uuid),
    NetworkPort: lambda value: ("network", value.net.name, value.net.uuid),
    StoragePool: lambda value: ("storage_pool", value.name, value.uuid),
    StorageVol: lambda value: ("storage_vol", value.name, b""),
    Secret: lambda value: ("secret", "", value.uuid),
    NodeDevice: lambda value: ("node_device", value.name, b""),
    Interface: lambda value: ("interface", value.name, b""),
    NwFilter: lambda value: ("nwfilter", value.name, value.uuid),
    NwFilterBinding: lambda value: ("nwfilter_binding", value.portdev, b""),
}
"""Kind, name and UUID of each of the protocol's tuples that stand for an object."""


def objects_in(args: Any) -> list[tuple[str, str, bytes]]:
    """Return the objects a call's arguments name."""
    return [found for value in args if isinstance(value, tuple) and (found := object_of(value)) is not None]
