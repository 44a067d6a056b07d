"""What a daemon is made of: the modules with handlers, and building one with its drivers and parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.daemon.daemon import Daemon
from pyhyve.daemon.drivers.qemu.driver import QemuDriver
from pyhyve.daemon.drivers.test.driver import TestDriver
from pyhyve.daemon.host.linux import LinuxHost
from pyhyve.daemon.procedures import (
    authentication,
    connect,
    cpu,
    domain_block,
    domain_checkpoints,
    domain_define,
    domain_devices,
    domain_guest,
    domain_info,
    domain_jobs,
    domain_lifecycle,
    domain_lookup,
    domain_migration,
    domain_more,
    domain_snapshots,
    domain_tuning,
    events,
    interface,
    network,
    node,
    node_device,
    nwfilter,
    qemu,
    secret,
    storage_pool,
    storage_volume,
)
from pyhyve.daemon.resources import wiring

if TYPE_CHECKING:
    from pyhyve.daemon.access import Policy
    from pyhyve.daemon.paths import Paths

__all__ = ["HANDLERS", "build"]

HANDLERS = (
    authentication,
    connect,
    cpu,
    domain_block,
    domain_checkpoints,
    domain_define,
    domain_devices,
    domain_guest,
    domain_info,
    domain_jobs,
    domain_lifecycle,
    domain_lookup,
    domain_migration,
    domain_more,
    domain_snapshots,
    domain_tuning,
    events,
    interface,
    network,
    node,
    node_device,
    nwfilter,
    qemu,
    secret,
    storage_pool,
    storage_volume,
)
"""Modules that register handlers when they are imported."""


def build(paths: Paths, policy: Policy | None = None) -> Daemon:
    """Return a daemon with everything in it, not started."""
    daemon = Daemon(paths, policy)
    driver = QemuDriver(daemon, LinuxHost())
    daemon.add_driver(driver)
    wiring.add(daemon, driver, "qemu")
    daemon.add_driver(TestDriver(daemon))
    return daemon
