"""Commands, events and types of QEMU's schema (qapi/migration.json, version 7.2) that we offer."""

from __future__ import annotations

from pyhyve.machine.monitor.types import Command, Part, Struct

PART = Part(
    enums={"MigrationCapability": ("events",)},
    structs={"MigrationCapabilityStatus": Struct({"capability": "MigrationCapability", "state": "bool"})},
    commands={
        "query-migrate-capabilities": Command(returns=["MigrationCapabilityStatus"]),
        "migrate-set-capabilities": Command({"capabilities": ["MigrationCapabilityStatus"]}),
    },
    events={},
)
