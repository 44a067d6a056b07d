"""What machines are told before one of them moves: capabilities and parameters of QEMU's migration."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains.migration.spec import BANDWIDTH_MAX_MIB, MigrateFlags
from pyhyve.daemon.domains.migration.wish import unsupported_argument
from pyhyve.daemon.errors import LibvirtError

if TYPE_CHECKING:
    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.daemon.domains.migration.wish import MigrationWish

__all__ = ["apply", "reset"]

_TLS_ID: Final = "objlibvirt_migrate_tls0"
_TLS_DIRECTORY: Final = "/etc/pki/qemu"
_BY_FLAG: Final = (
    (MigrateFlags.AUTO_CONVERGE, "auto-converge", False),
    (MigrateFlags.POSTCOPY, "postcopy-ram", True),
    (MigrateFlags.PARALLEL, "multifd", True),
    (MigrateFlags.RDMA_PIN_ALL, "rdma-pin-all", True),
)
"""A flag, the capability it switches on, and whether the destination has to have it too."""


def _wanted(wish: MigrationWish, *, incoming: bool) -> list[str]:
    names = [name for flag, name, both in _BY_FLAG if wish.has(flag) and (both or not incoming)]
    if wish.xbzrle:
        names.append("xbzrle")
    if wish.multi_threaded:
        names.append("compress")
    return names


async def _capabilities(domain: ManagedDomain) -> dict[str, bool]:
    answer = await domain.monitor("query-migrate-capabilities")
    return {item["capability"]: item["state"] for item in answer}


async def apply(domain: ManagedDomain, wish: MigrationWish, *, incoming: bool, peer: str | None = None) -> None:
    """Have a machine ready for a migration with these options. ``peer`` is the other host's name, for its certificate.

    Raises LibvirtError.
    """
    known = await _capabilities(domain)
    wanted = _wanted(wish, incoming=incoming)
    for name in wanted:
        if name not in known:
            raise unsupported_argument(f"Migration option '{name}' is not supported by QEMU binary")
    states = [{"capability": name, "state": name in wanted} for name in _all_names() if name in known]
    states.append({"capability": "events", "state": True})
    await domain.monitor("migrate-set-capabilities", {"capabilities": states})
    parameters: dict[str, Any] = dict(wish.numbers)
    if not incoming:
        mib = wish.bandwidth_mib or domain.migration_speed_mib
        parameters["max-bandwidth"] = mib << 20 if mib < BANDWIDTH_MAX_MIB else (1 << 63) - 1
    parameters |= await _encryption(domain, wish, incoming=incoming, peer=peer)
    if parameters:
        await domain.monitor("migrate-set-parameters", parameters)


def _all_names() -> tuple[str, ...]:
    return (*(name for _, name, _ in _BY_FLAG), "xbzrle", "compress", "pause-before-switchover")


async def _encryption(
    domain: ManagedDomain, wish: MigrationWish, *, incoming: bool, peer: str | None
) -> dict[str, str]:
    if not wish.has(MigrateFlags.TLS):
        known = await domain.monitor("query-migrate-parameters")
        return {"tls-creds": "", "tls-hostname": ""} if known.get("tls-creds") else {}
    if not domain.has_command("object-add"):
        raise unsupported_argument("TLS migration is not supported with this QEMU binary")
    with contextlib.suppress(LibvirtError):
        await domain.monitor("object-del", {"id": _TLS_ID})
    side = "server" if incoming else "client"
    credentials = {"qom-type": "tls-creds-x509", "id": _TLS_ID, "dir": _TLS_DIRECTORY, "endpoint": side}
    await domain.monitor("object-add", {**credentials, "verify-peer": True})
    return {"tls-creds": _TLS_ID, "tls-hostname": "" if incoming else wish.tls_destination or peer or ""}


async def reset(domain: ManagedDomain) -> None:
    """Forget the options of a migration that is over: the next one, or a save, has its own. Never raises."""
    with contextlib.suppress(LibvirtError):
        known = await _capabilities(domain)
        names = [name for name in _all_names() if known.get(name)]
        if names:
            states = [{"capability": name, "state": False} for name in names]
            await domain.monitor("migrate-set-capabilities", {"capabilities": states})
        parameters = await domain.monitor("query-migrate-parameters")
        if parameters.get("tls-creds"):
            await domain.monitor("migrate-set-parameters", {"tls-creds": "", "tls-hostname": ""})
            await domain.monitor("object-del", {"id": _TLS_ID})
