"""Finding and listing domains."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.domains import saving, snapshots
from pyhyve.daemon.domains.states import DomainState
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.procedures.domain_access import domain_of, registry_of, visible
from pyhyve.rpc.errors import ErrorCode, ErrorDomain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyhyve.daemon.dispatch import Call
    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.rpc.values import Domain


def _has_checkpoints(domain: ManagedDomain) -> bool:
    """No domain has: checkpoints are not kept here."""
    return False


_ACTIVE, _INACTIVE = 1, 2
_FILTERS: Final[tuple[tuple[int, int, Callable[[ManagedDomain], bool]], ...]] = (
    (_ACTIVE, _INACTIVE, lambda domain: domain.active),
    (4, 8, lambda domain: domain.persistent),
    (1 << 8, 1 << 9, saving.has_managed_save),
    (1 << 10, 1 << 11, lambda domain: domain.autostart),
    (1 << 12, 1 << 13, snapshots.has_snapshots),
    (1 << 14, 1 << 15, _has_checkpoints),
)
"""Of each pair of virConnectListAllDomainsFlags: the flag for those that are, for those that are not, and the test."""
_RUNNING, _PAUSED, _SHUTOFF, _OTHER = 1 << 4, 1 << 5, 1 << 6, 1 << 7
_ALL_FLAGS: Final = (1 << 16) - 1


def _not_found(detail: str) -> LibvirtError:
    return LibvirtError(ErrorCode.NO_DOMAIN, ErrorDomain.QEMU, detail)


def _checked(call: Call, found: ManagedDomain | None, detail: str) -> Domain:
    if found is None or not visible(call, found):
        raise _not_found(detail)
    return found.ref


@procedure("DOMAIN_LOOKUP_BY_NAME")
def lookup_by_name(call: Call, args: Any) -> Domain:
    """Find a domain by name."""
    found = registry_of(call).by_name.get(args.name)
    return _checked(call, found, f"no domain with matching name '{args.name}'")


@procedure("DOMAIN_LOOKUP_BY_UUID")
def lookup_by_uuid(call: Call, args: Any) -> Domain:
    """Find a domain by UUID."""
    found = registry_of(call).by_uuid.get(args.uuid)
    return _checked(call, found, f"no domain with matching uuid '{uuid.UUID(bytes=args.uuid)}'")


@procedure("DOMAIN_LOOKUP_BY_ID")
def lookup_by_id(call: Call, args: Any) -> Domain:
    """Find a running domain by its id."""
    found = registry_of(call).by_id.get(args.id)
    return _checked(call, found, f"no domain with matching id {args.id}")


def _state_flag(domain: ManagedDomain) -> int:
    if domain.state is DomainState.RUNNING:
        return _RUNNING
    if domain.state is DomainState.PAUSED:
        return _PAUSED
    return _SHUTOFF if domain.state is DomainState.SHUTOFF else _OTHER


def matches(domain: ManagedDomain, flags: int) -> bool:
    """Whether a domain is among those that flags (virConnectListAllDomainsFlags) ask for."""
    for positive, negative, test in _FILTERS:
        wanted = flags & (positive | negative)
        if wanted and not wanted & (positive if test(domain) else negative):
            return False
    states = flags & (_RUNNING | _PAUSED | _SHUTOFF | _OTHER)
    return not states or bool(states & _state_flag(domain))


@procedure("CONNECT_LIST_ALL_DOMAINS")
def list_all_domains(call: Call, args: Any) -> tuple[list[Domain], int]:
    """List domains."""
    call.check_flags(args.flags, _ALL_FLAGS)
    registry = registry_of(call)
    # In the order of definition, but for those that run: theirs is that of their ids.
    only_active = args.flags & (_ACTIVE | _INACTIVE) == _ACTIVE
    domains: Iterable[ManagedDomain] = registry.by_id.values() if only_active else registry.by_uuid.values()
    if filters := args.flags & ~_ACTIVE if only_active else args.flags:
        domains = [domain for domain in domains if matches(domain, filters)]
    if call.connection.restricted:
        domains = [domain for domain in domains if visible(call, domain)]
    found = [domain.ref for domain in domains]
    return found if args.need_results else [], len(found)


@procedure("CONNECT_NUM_OF_DOMAINS")
def num_of_domains(call: Call, args: Any) -> int:
    """Count running domains."""
    return sum(1 for domain in registry_of(call).by_id.values() if visible(call, domain))


@procedure("CONNECT_LIST_DOMAINS")
def list_domains(call: Call, args: Any) -> list[int]:
    """List the ids of running domains."""
    return [domain.id for domain in registry_of(call).by_id.values() if visible(call, domain)][: max(args.maxids, 0)]


@procedure("CONNECT_NUM_OF_DEFINED_DOMAINS")
def num_of_defined_domains(call: Call, args: Any) -> int:
    """Count domains that do not run."""
    return sum(1 for domain in registry_of(call) if not domain.active and visible(call, domain))


@procedure("CONNECT_LIST_DEFINED_DOMAINS")
def list_defined_domains(call: Call, args: Any) -> list[str]:
    """List the names of domains that do not run."""
    names = [domain.name for domain in registry_of(call) if not domain.active and visible(call, domain)]
    return names[: max(args.maxnames, 0)]


@procedure("DOMAIN_IS_ACTIVE")
def is_active(call: Call, args: Any) -> int:
    """Say whether a domain runs."""
    return int(domain_of(call, args.dom).active)


@procedure("DOMAIN_IS_PERSISTENT")
def is_persistent(call: Call, args: Any) -> int:
    """Say whether a domain stays when it does not run."""
    return int(domain_of(call, args.dom).persistent)


@procedure("DOMAIN_IS_UPDATED")
def is_updated(call: Call, args: Any) -> int:
    """Say whether a domain's definition was changed while it ran."""
    return int(domain_of(call, args.dom).updated)
