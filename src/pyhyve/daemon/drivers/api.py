"""What a hypervisor driver is.

A :class:`Driver` answers for a set of URIs and for the host as its guests see it; connections are opened to it, events
belong to it. What it manages (domains and their machines) hangs on it: the procedures of domains ask the driver for
capabilities by type (:meth:`Driver.offers`), so that a driver without, say, snapshots needs no line about them and its
clients are told "not supported". Contracts of such capabilities are in the packages that use them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import SplitResult, urlsplit

from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.daemon.host.api import Host

__all__ = ["Driver", "DriverBase", "find_driver", "version_number"]

_Offer = TypeVar("_Offer")


def version_number(major: int, minor: int, release: int = 0) -> int:
    """Return a version as libvirt writes it."""
    return major * 1_000_000 + minor * 1_000 + release


class Driver(Protocol):
    """A hypervisor, as connections see it. Methods raise LibvirtError."""

    type_name: str
    """CONNECT_GET_TYPE's answer: what clients know the driver as ("QEMU")."""
    error_domain: ErrorDomain
    """The subsystem in this driver's errors."""
    function_prefix: str
    """What takes the place of "vir" in the names of the driver's functions, in messages ("qemu")."""
    uri: str
    """The URI that leads here, as CONNECT_GET_URI gives it."""
    host: Host
    """The host its machines run on."""

    def accepts(self, uri: SplitResult) -> bool:
        """Whether a connection to this URI is one to this driver."""

    def version(self) -> int:
        """Version of the hypervisor (:func:`version_number`)."""

    def max_vcpus(self, type_name: str | None) -> int:
        """Most vCPUs a domain of a type may have."""

    async def capabilities(self) -> str:
        """The ``<capabilities>`` document."""

    async def domain_capabilities(
        self, emulator: str | None, arch: str | None, machine: str | None, virt_type: str | None
    ) -> str:
        """The ``<domainCapabilities>`` document."""

    def supports_feature(self, feature: int) -> bool:
        """Whether the driver has one of :class:`pyhyve.rpc.spec.Feature` of its own (migration and the like)."""

    def offers(self, contract: type[_Offer]) -> _Offer | None:
        """Return the driver's object that keeps a contract, or None where it has none."""

    async def start(self) -> None:
        """Come up: load definitions, find machines that still run. Called once, before any client."""

    async def stop(self) -> None:
        """Go down. Machines go on."""


class DriverBase:
    """What most drivers do about the rest of the contract."""

    error_domain: ErrorDomain = ErrorDomain.NONE
    type_name: str = ""
    function_prefix: str = "vir"

    def __init__(self, host: Host) -> None:
        self.host = host
        self._offers: dict[type, object] = {}

    def add(self, contract: type[_Offer], offer: _Offer) -> None:
        """Keep a contract with an object."""
        self._offers[contract] = offer

    def offers(self, contract: type[_Offer]) -> _Offer | None:
        """Return what was added for a contract."""
        offer: _Offer | None = self._offers.get(contract)  # type: ignore[assignment] # keyed by its type in add()
        return offer

    def supports_feature(self, feature: int) -> bool:
        """No feature of its own."""
        return False

    async def domain_capabilities(
        self, emulator: str | None, arch: str | None, machine: str | None, virt_type: str | None
    ) -> str:
        """Not known to this driver."""
        function = "virConnectGetDomainCapabilities"
        raise LibvirtError.no_support(function, self.error_domain)

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Nothing to do."""


def find_driver(drivers: Sequence[Driver], uri: str | None) -> Driver:
    """Return the driver for the URI a client opens (none or an empty one: the first). Raises LibvirtError."""
    if not uri:
        if drivers:
            return drivers[0]
        raise LibvirtError(ErrorCode.NO_CONNECT, ErrorDomain.NONE, "'(null)'")
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise LibvirtError(ErrorCode.INTERNAL_ERROR, ErrorDomain.URI, f"Unable to parse URI {uri}") from error
    for driver in drivers:
        if driver.accepts(parts):
            return driver
    raise LibvirtError(ErrorCode.NO_CONNECT, ErrorDomain.NONE, f"'{uri}'")
