"""Giving a driver what is managed beside its domains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from pyhyve.daemon.drivers.api import Driver
from pyhyve.daemon.networks.registry import NetworkRegistry
from pyhyve.daemon.resources.filter_bindings import FilterBindings
from pyhyve.daemon.resources.filters import FilterRegistry
from pyhyve.daemon.resources.host_devices import HostDevices
from pyhyve.daemon.resources.secrets import SecretRegistry
from pyhyve.daemon.storage.registry import PoolRegistry

if TYPE_CHECKING:
    from pyhyve.daemon.daemon import Daemon

_Offer = TypeVar("_Offer")

__all__ = ["HostLook", "Owner", "add"]


class Owner(Driver, Protocol):
    """A driver that takes in what is managed beside its domains."""

    def add(self, contract: type[_Offer], offer: _Offer) -> None:
        """Offer an object under its contract."""


class HostLook:
    """Offered by drivers whose machines run on this very host: its interfaces are theirs to show."""


def add(daemon: Daemon, driver: Owner, name: str) -> None:
    """Give a driver networks, pools, secrets and filters of its own, kept under ``name``, and the host's devices."""
    networks, pools = NetworkRegistry(daemon, driver, name), PoolRegistry(daemon, driver, name)
    secrets, filters = SecretRegistry(daemon, driver, name), FilterRegistry(daemon, name)
    driver.add(NetworkRegistry, networks)
    driver.add(PoolRegistry, pools)
    driver.add(SecretRegistry, secrets)
    driver.add(FilterRegistry, filters)
    driver.add(FilterBindings, FilterBindings(daemon, filters))
    driver.add(HostLook, HostLook())
    devices = HostDevices(daemon, driver, name)
    driver.add(HostDevices, devices)
    for part in (networks, pools, secrets, filters, devices):
        daemon.add_part(part)
