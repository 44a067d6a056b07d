"""What a daemon is made of: the modules with handlers, and building one with its drivers and parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.daemon.daemon import Daemon
from pyhyve.daemon.drivers.test.driver import TestDriver
from pyhyve.daemon.procedures import authentication, connect, cpu, events, node

if TYPE_CHECKING:
    from pyhyve.daemon.access import Policy
    from pyhyve.daemon.paths import Paths

__all__ = ["HANDLERS", "build"]

HANDLERS = (authentication, connect, cpu, events, node)
"""Modules that register handlers when they are imported."""


def build(paths: Paths, policy: Policy | None = None) -> Daemon:
    """Return a daemon with everything in it, not started."""
    daemon = Daemon(paths, policy)
    daemon.add_driver(TestDriver())
    return daemon
