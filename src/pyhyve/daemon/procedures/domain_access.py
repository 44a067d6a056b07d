"""What handlers of domains share: finding the domain a call is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.daemon.domains.registry import DomainRegistry
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorDomain

if TYPE_CHECKING:
    from pyhyve.daemon.dispatch import Call
    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.rpc.values import Domain

__all__ = ["domain_of", "registry_of", "visible"]


def registry_of(call: Call) -> DomainRegistry:
    """Return the domains of the driver a client is connected to. Raises LibvirtError where it has none."""
    found = call.driver.offers(DomainRegistry)
    if found is None:
        raise LibvirtError.no_support(call.function, ErrorDomain.DOMAIN)
    return found


def domain_of(call: Call, ref: Domain) -> ManagedDomain:
    """Return the domain a call is about. Raises LibvirtError where there is none, or the client may not."""
    registry = call.connection.driver.offers(DomainRegistry)
    if registry is None:
        raise LibvirtError.no_support(call.function, ErrorDomain.DOMAIN)
    found = registry.by_uuid.get(ref.uuid) or registry.find(ref)
    if call.connection.restricted:
        for permission in call.procedure.permissions:
            if permission.startswith("domain:"):
                call.require(permission, found.name, found.uuid)
    return found


def visible(call: Call, domain: ManagedDomain) -> bool:
    """Whether the client may know of a domain."""
    connection = call.connection
    return not connection.restricted or connection.allows("domain:getattr", domain.name, domain.uuid)
