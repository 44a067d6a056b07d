"""Secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.resources.secrets import SecretRegistry, parse_secret, secret_document
from pyhyve.rpc.errors import ErrorDomain

if TYPE_CHECKING:
    from pyhyve.daemon.dispatch import Call
    from pyhyve.daemon.resources.secrets import Secret
    from pyhyve.rpc.values import Secret as SecretRef

_EPHEMERAL, _NO_EPHEMERAL, _PRIVATE, _NO_PRIVATE = 1, 2, 4, 8
_LIST_FLAGS: Final = 15


def _secrets(call: Call) -> SecretRegistry:
    found = call.driver.offers(SecretRegistry)
    if found is None:
        raise LibvirtError.no_support(call.function, ErrorDomain.SECRET)
    return found


def _visible(call: Call) -> list[Secret]:
    return [secret for secret in _secrets(call) if call.connection.allows("secret:getattr", "", secret.uuid)]


@procedure("CONNECT_LIST_ALL_SECRETS")
def list_all(call: Call, args: Any) -> tuple[list[SecretRef], int]:
    """Secrets that pass the filters."""
    call.check_flags(args.flags, _LIST_FLAGS)

    def wanted(secret: Secret) -> bool:
        groups = ((_EPHEMERAL, secret.ephemeral, _NO_EPHEMERAL), (_PRIVATE, secret.private, _NO_PRIVATE))
        return all(not args.flags & (yes | no) or args.flags & (yes if holds else no) for yes, holds, no in groups)

    found = [secret.ref for secret in _visible(call) if wanted(secret)]
    return (found if args.need_results else []), len(found)


@procedure("CONNECT_LIST_SECRETS")
def list_uuids(call: Call, args: Any) -> list[str]:
    """UUIDs of secrets."""
    return [secret.text for secret in _visible(call)][: max(args.maxuuids, 0)]


@procedure("CONNECT_NUM_OF_SECRETS")
def count(call: Call, args: Any) -> int:
    """How many there are."""
    return len(_visible(call))


@procedure("SECRET_LOOKUP_BY_UUID")
def look_up_uuid(call: Call, args: Any) -> SecretRef:
    """By UUID."""
    return _secrets(call).with_uuid(args.uuid).ref


@procedure("SECRET_LOOKUP_BY_USAGE")
def look_up_usage(call: Call, args: Any) -> SecretRef:
    """By what it is for."""
    return _secrets(call).for_usage(args.usage_type, args.usage_id).ref


@procedure("SECRET_DEFINE_XML")
async def define(call: Call, args: Any) -> SecretRef:
    """Add or change a secret's attributes."""
    call.check_flags(args.flags, 1)
    return (await _secrets(call).define(parse_secret(args.xml))).ref


@procedure("SECRET_GET_XML_DESC")
def get_xml(call: Call, args: Any) -> str:
    """The document."""
    call.check_flags(args.flags, 0)
    return secret_document(_secrets(call).with_uuid(args.secret.uuid))


@procedure("SECRET_SET_VALUE")
async def set_value(call: Call, args: Any) -> None:
    """Set a value."""
    call.check_flags(args.flags, 0)
    registry = _secrets(call)
    await registry.set_value(registry.with_uuid(args.secret.uuid), args.value)


@procedure("SECRET_GET_VALUE")
def get_value(call: Call, args: Any) -> bytes:
    """The value."""
    call.check_flags(args.flags, 0)
    registry = _secrets(call)
    return registry.value(registry.with_uuid(args.secret.uuid))


@procedure("SECRET_UNDEFINE")
async def undefine(call: Call, args: Any) -> None:
    """Remove a secret."""
    registry = _secrets(call)
    await registry.undefine(registry.with_uuid(args.secret.uuid))
