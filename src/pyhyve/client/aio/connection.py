"""Connections to a libvirt daemon, for asyncio.

Made from :mod:`pyhyve.client.connection` by ``scripts/make_async_client.py``: change that one.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final
from uuid import UUID

from pyhyve.client.aio.authentication import authenticate
from pyhyve.client.aio.domain import Domain
from pyhyve.client.aio.network import Network
from pyhyve.client.aio.session import Session
from pyhyve.client.aio.storage import StoragePool, StorageVolume
from pyhyve.client.errors import LibvirtError
from pyhyve.client.uri import parse_uri
from pyhyve.client.values import NodeInfo, params_to_dict
from pyhyve.rpc.spec import Feature

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from pyhyve.rpc.client import Pushed
__all__ = ["Connection", "connect"]
_READ_ONLY: Final = 1


async def connect(
    uri: str,
    *,
    read_only: bool = False,
    timeout_s: float | None = None,
    user: str | None = None,
    password: str | None = None,
) -> Connection:
    """Open a connection to the daemon a URI names. Raises LibvirtError.

    ``user`` and ``password`` are for daemons that ask for them (SASL); the URI's user is taken where none is given.
    """
    target = parse_uri(uri, read_only=read_only)
    session = await Session.open(target, timeout_s)
    try:
        await authenticate(session, user or target.user, password)
        await session.call("CONNECT_SUPPORTS_FEATURE", Feature.PROGRAM_KEEPALIVE)
        await session.call("CONNECT_OPEN", target.name, _READ_ONLY if read_only else 0)
    except BaseException:
        session.close()
        raise
    return Connection(session)


class Connection:
    """An open connection, made by :func:`connect`.

    Every method asks the daemon and raises LibvirtError where it refuses.
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Say good-bye and close. Closing twice does nothing."""
        if self.session.alive:
            with contextlib.suppress(LibvirtError):
                await self.session.call("CONNECT_CLOSE")
            self.session.close()

    def is_alive(self) -> bool:
        """Tell whether the connection stands, as far as is known."""
        return self.session.alive

    async def type(self) -> str:
        """Return the driver's name ("QEMU")."""
        return str((await self.session.call("CONNECT_GET_TYPE")).type)

    async def version(self) -> int:
        """Return the hypervisor's version: 1,000,000 × major + 1,000 × minor + release."""
        return int((await self.session.call("CONNECT_GET_VERSION")).hv_ver)

    async def library_version(self) -> int:
        """Return the daemon's version, counted the same way."""
        return int((await self.session.call("CONNECT_GET_LIB_VERSION")).lib_ver)

    async def hostname(self) -> str:
        """Return the host's name."""
        return str((await self.session.call("CONNECT_GET_HOSTNAME")).hostname)

    async def uri(self) -> str:
        """Return the canonical URI of what is open."""
        return str((await self.session.call("CONNECT_GET_URI")).uri)

    async def capabilities(self) -> str:
        """Return the capabilities document."""
        return str((await self.session.call("CONNECT_GET_CAPABILITIES")).capabilities)

    async def domain_capabilities(
        self,
        emulator: str | None = None,
        arch: str | None = None,
        machine: str | None = None,
        virt_type: str | None = None,
    ) -> str:
        """Return what such a domain could have, as a document."""
        answer = await self.session.call("CONNECT_GET_DOMAIN_CAPABILITIES", emulator, arch, machine, virt_type, 0)
        return str(answer.capabilities)

    async def node_info(self) -> NodeInfo:
        """Return what the host is."""
        model, *rest = await self.session.call("NODE_GET_INFO")
        return NodeInfo(bytes(number & 255 for number in model).split(b"\x00")[0].decode("utf-8", "replace"), *rest)

    async def free_memory_bytes(self) -> int:
        """Return the host's free memory."""
        return int((await self.session.call("NODE_GET_FREE_MEMORY")).free_mem)

    async def cpu_stats(self, cpu: int = -1) -> dict[str, int]:
        """Return CPU time by kind in nanoseconds, of one host CPU or (-1) of all."""
        count = (await self.session.call("NODE_GET_CPU_STATS", cpu, 0, 0)).nparams
        return {
            stat.field: stat.value for stat in (await self.session.call("NODE_GET_CPU_STATS", cpu, count, 0)).params
        }

    async def list_all_domains(self, flags: int = 0) -> list[Domain]:
        """Return all domains; flags narrow it: 1 running, 2 not (virConnectListAllDomainsFlags)."""
        answer = await self.session.call("CONNECT_LIST_ALL_DOMAINS", 1, flags)
        return [Domain(self.session, ref) for ref in answer.domains]

    async def domain(self, name: str) -> Domain:
        """Return the domain of that name."""
        return Domain(self.session, (await self.session.call("DOMAIN_LOOKUP_BY_NAME", name)).dom)

    async def domain_by_uuid(self, uuid: UUID | str) -> Domain:
        """Return the domain of that UUID; ValueError where it is none."""
        raw = (uuid if isinstance(uuid, UUID) else UUID(uuid)).bytes
        return Domain(self.session, (await self.session.call("DOMAIN_LOOKUP_BY_UUID", raw)).dom)

    async def domain_by_id(self, number: int) -> Domain:
        """Return the running domain of that number."""
        return Domain(self.session, (await self.session.call("DOMAIN_LOOKUP_BY_ID", number)).dom)

    async def define_domain(self, xml: str, flags: int = 0) -> Domain:
        """Define a domain, or change its definition; flags 1 validates against the schema."""
        if flags:
            return Domain(self.session, (await self.session.call("DOMAIN_DEFINE_XML_FLAGS", xml, flags)).dom)
        return Domain(self.session, (await self.session.call("DOMAIN_DEFINE_XML", xml)).dom)

    async def create_domain(self, xml: str, flags: int = 0) -> Domain:
        """Start a domain that vanishes when it stops; flags 1 starts it paused."""
        return Domain(self.session, (await self.session.call("DOMAIN_CREATE_XML", xml, flags)).dom)

    async def restore_domain(self, path: str) -> None:
        """Start a domain from the file :meth:`Domain.save` wrote."""
        await self.session.call("DOMAIN_RESTORE", path)

    async def domain_stats(
        self, domains: Sequence[Domain] = (), stats: int = 0, flags: int = 0
    ) -> list[tuple[Domain, dict[str, int | float | str | bool]]]:
        """Return statistics of the domains given, or of all; stats choose groups (virDomainStatsTypes)."""
        answer = await self.session.call(
            "CONNECT_GET_ALL_DOMAIN_STATS", [domain.ref for domain in domains], stats, flags
        )
        return [(Domain(self.session, record.dom), params_to_dict(record.params)) for record in answer.ret_stats]

    async def list_all_networks(self, flags: int = 0) -> list[Network]:
        """Return all networks."""
        answer = await self.session.call("CONNECT_LIST_ALL_NETWORKS", 1, flags)
        return [Network(self.session, ref) for ref in answer.nets]

    async def network(self, name: str) -> Network:
        """Return the network of that name."""
        return Network(self.session, (await self.session.call("NETWORK_LOOKUP_BY_NAME", name)).net)

    async def define_network(self, xml: str) -> Network:
        """Define a network."""
        return Network(self.session, (await self.session.call("NETWORK_DEFINE_XML", xml)).net)

    async def create_network(self, xml: str) -> Network:
        """Bring up a network that vanishes when it goes down."""
        return Network(self.session, (await self.session.call("NETWORK_CREATE_XML", xml)).net)

    async def list_all_storage_pools(self, flags: int = 0) -> list[StoragePool]:
        """Return all storage pools."""
        answer = await self.session.call("CONNECT_LIST_ALL_STORAGE_POOLS", 1, flags)
        return [StoragePool(self.session, ref) for ref in answer.pools]

    async def storage_pool(self, name: str) -> StoragePool:
        """Return the pool of that name."""
        return StoragePool(self.session, (await self.session.call("STORAGE_POOL_LOOKUP_BY_NAME", name)).pool)

    async def define_storage_pool(self, xml: str) -> StoragePool:
        """Define a pool."""
        return StoragePool(self.session, (await self.session.call("STORAGE_POOL_DEFINE_XML", xml, 0)).pool)

    async def storage_volume_by_path(self, path: str) -> StorageVolume:
        """Return the volume at that path of the daemon's host."""
        return StorageVolume(self.session, (await self.session.call("STORAGE_VOL_LOOKUP_BY_PATH", path)).vol)

    async def list_all_node_devices(self, flags: int = 0) -> list[str]:
        """Return the names of the host's devices."""
        return [ref.name for ref in (await self.session.call("CONNECT_LIST_ALL_NODE_DEVICES", 1, flags)).devices]

    async def node_device_xml(self, name: str) -> str:
        """Return the document of one of them."""
        return str((await self.session.call("NODE_DEVICE_GET_XML_DESC", name, 0)).xml)

    async def watch_domains(self, event: int = 0, domain: Domain | None = None) -> int:
        """Ask for events of that number (0: life cycle) of all domains or one; return the watch's number."""
        ref = None if domain is None else domain.ref
        return int((await self.session.call("CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY", event, ref)).callback_id)

    async def unwatch_domains(self, number: int) -> None:
        """End a watch."""
        await self.session.call("CONNECT_DOMAIN_EVENT_CALLBACK_DEREGISTER_ANY", number)

    async def next_event(self, timeout_s: float | None = None) -> Pushed | None:
        """Return the next event, waiting so long for one (None: without end); None where none came."""
        return await self.session.next_event(timeout_s)
