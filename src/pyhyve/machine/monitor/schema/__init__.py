"""The commands, events and types of our monitor: the part of QEMU's schema (qapi/*.json, version 7.2) that we offer.

One module for each area; `SCHEMA` is all of them together.
"""

from __future__ import annotations

from pyhyve.machine.monitor.schema import block, chardev, control, jobs, machine, migration, net, pci, qom, ui
from pyhyve.machine.monitor.types import merge

SCHEMA = merge(part.PART for part in (control, machine, qom, chardev, net, pci, block, jobs, migration, ui))
"""What the machine's monitor offers."""
