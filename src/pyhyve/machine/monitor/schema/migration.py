"""Commands, events and types of QEMU's schema (qapi/migration.json, version 7.2) that we offer."""

from __future__ import annotations

from pyhyve.machine.monitor.types import Command, Event, Part, Struct

_PARAMETERS = {
    "*throttle-trigger-threshold": "int",
    "*cpu-throttle-initial": "int",
    "*cpu-throttle-increment": "int",
    "*max-cpu-throttle": "int",
    "*max-bandwidth": "size",
    "*downtime-limit": "int",
}

PART = Part(
    enums={
        "DirtyRateMeasureMode": ("page-sampling", "dirty-ring", "dirty-bitmap"),
        "DirtyRateStatus": ("unstarted", "measuring", "measured"),
        "MigrationCapability": ("auto-converge", "events", "return-path"),
        "MigrationStatus": (
            "none",
            "setup",
            "cancelling",
            "cancelled",
            "active",
            "completed",
            "failed",
            "device",
        ),
    },
    structs={
        "DirtyRateInfo": Struct(
            {
                "*dirty-rate": "int",
                "status": "DirtyRateStatus",
                "start-time": "int",
                "calc-time": "int",
                "sample-pages": "uint64",
                "mode": "DirtyRateMeasureMode",
            }
        ),
        "MigrationCapabilityStatus": Struct({"capability": "MigrationCapability", "state": "bool"}),
        "MigrationParameters": Struct(dict(_PARAMETERS)),
        "MigrationInfo": Struct(
            {
                "*status": "MigrationStatus",
                "*ram": "MigrationStats",
                "*total-time": "int",
                "*expected-downtime": "int",
                "*downtime": "int",
                "*setup-time": "int",
                "*cpu-throttle-percentage": "int",
                "*error-desc": "str",
            }
        ),
        "MigrationStats": Struct(
            {
                "transferred": "int",
                "remaining": "int",
                "total": "int",
                "duplicate": "int",
                "skipped": "int",
                "normal": "int",
                "normal-bytes": "int",
                "dirty-pages-rate": "int",
                "mbps": "number",
                "dirty-sync-count": "int",
                "postcopy-requests": "int",
                "page-size": "int",
                "multifd-bytes": "int",
                "pages-per-second": "int",
                "precopy-bytes": "int",
                "downtime-bytes": "int",
                "postcopy-bytes": "int",
                "dirty-sync-missed-zero-copy": "int",
            }
        ),
    },
    commands={
        "query-migrate": Command(returns="MigrationInfo"),
        "query-migrate-capabilities": Command(returns=["MigrationCapabilityStatus"]),
        "migrate-set-capabilities": Command({"capabilities": ["MigrationCapabilityStatus"]}),
        "query-migrate-parameters": Command(returns="MigrationParameters"),
        "migrate-set-parameters": Command(dict(_PARAMETERS)),
        "migrate": Command({"uri": "str", "*blk": "bool", "*inc": "bool", "*detach": "bool", "*resume": "bool"}),
        "migrate-incoming": Command({"uri": "str"}),
        "migrate_cancel": Command(),
        "calc-dirty-rate": Command({"calc-time": "int", "*sample-pages": "int", "*mode": "DirtyRateMeasureMode"}),
        "query-dirty-rate": Command(returns="DirtyRateInfo"),
        "snapshot-delete": Command({"job-id": "str", "tag": "str", "devices": ["str"]}),
        "snapshot-load": Command({"job-id": "str", "tag": "str", "vmstate": "str", "devices": ["str"]}),
        "snapshot-save": Command({"job-id": "str", "tag": "str", "vmstate": "str", "devices": ["str"]}),
    },
    events={"MIGRATION": Event({"status": "MigrationStatus"}), "MIGRATION_PASS": Event({"pass": "int"})},
)
