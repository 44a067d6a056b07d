"""Commands, events and types of QEMU's schema (qapi/*.json, version 7.2) that we offer: jobs."""

from __future__ import annotations

from pyhyve.machine.monitor.types import Command, Event, Part, Struct

PART = Part(
    enums={
        "MirrorCopyMode": ("background", "write-blocking"),
        "JobStatus": (
            "undefined",
            "created",
            "running",
            "paused",
            "ready",
            "standby",
            "waiting",
            "pending",
            "aborting",
            "concluded",
            "null",
        ),
        "JobType": (
            "commit",
            "stream",
            "mirror",
            "backup",
            "create",
            "amend",
            "snapshot-load",
            "snapshot-save",
            "snapshot-delete",
        ),
    },
    structs={
        "BlockJobInfo": Struct(
            {
                "type": "str",
                "device": "str",
                "len": "int",
                "offset": "int",
                "busy": "bool",
                "paused": "bool",
                "speed": "int",
                "io-status": "BlockDeviceIoStatus",
                "ready": "bool",
                "status": "JobStatus",
                "auto-finalize": "bool",
                "auto-dismiss": "bool",
                "*error": "str",
            }
        ),
        "JobInfo": Struct(
            {
                "id": "str",
                "type": "JobType",
                "status": "JobStatus",
                "current-progress": "int",
                "total-progress": "int",
                "*error": "str",
            }
        ),
    },
    commands={
        "block-stream": Command(
            {
                "*job-id": "str",
                "device": "str",
                "*base": "str",
                "*base-node": "str",
                "*backing-file": "str",
                "*bottom": "str",
                "*speed": "int",
                "*on-error": "BlockdevOnError",
                "*auto-finalize": "bool",
                "*auto-dismiss": "bool",
            }
        ),
        "block-commit": Command(
            {
                "*job-id": "str",
                "device": "str",
                "*base-node": "str",
                "*base": "str",
                "*top-node": "str",
                "*top": "str",
                "*backing-file": "str",
                "*speed": "int",
                "*on-error": "BlockdevOnError",
                "*auto-finalize": "bool",
                "*auto-dismiss": "bool",
            }
        ),
        "blockdev-mirror": Command(
            {
                "*job-id": "str",
                "device": "str",
                "target": "str",
                "*replaces": "str",
                "sync": "MirrorSyncMode",
                "*speed": "int",
                "*granularity": "int",
                "*buf-size": "int",
                "*on-source-error": "BlockdevOnError",
                "*on-target-error": "BlockdevOnError",
                "*copy-mode": "MirrorCopyMode",
                "*auto-finalize": "bool",
                "*auto-dismiss": "bool",
            }
        ),
        "drive-mirror": Command(
            {
                "*job-id": "str",
                "device": "str",
                "target": "str",
                "*format": "str",
                "*node-name": "str",
                "*replaces": "str",
                "sync": "MirrorSyncMode",
                "*mode": "NewImageMode",
                "*speed": "int",
                "*granularity": "int",
                "*buf-size": "int",
                "*on-source-error": "BlockdevOnError",
                "*on-target-error": "BlockdevOnError",
                "*unmap": "bool",
                "*copy-mode": "MirrorCopyMode",
                "*auto-finalize": "bool",
                "*auto-dismiss": "bool",
            }
        ),
        "blockdev-backup": Command(
            {
                "*job-id": "str",
                "device": "str",
                "sync": "MirrorSyncMode",
                "*speed": "int",
                "*on-source-error": "BlockdevOnError",
                "*on-target-error": "BlockdevOnError",
                "*auto-finalize": "bool",
                "*auto-dismiss": "bool",
                "target": "str",
            }
        ),
        "drive-backup": Command(
            {
                "*job-id": "str",
                "device": "str",
                "sync": "MirrorSyncMode",
                "*speed": "int",
                "*on-source-error": "BlockdevOnError",
                "*on-target-error": "BlockdevOnError",
                "*auto-finalize": "bool",
                "*auto-dismiss": "bool",
                "target": "str",
                "*format": "str",
                "*mode": "NewImageMode",
            },
            features=("deprecated",),
        ),
        "query-block-jobs": Command(returns=["BlockJobInfo"]),
        "query-jobs": Command(returns=["JobInfo"]),
        "block-job-pause": Command({"device": "str"}),
        "block-job-resume": Command({"device": "str"}),
        "block-job-cancel": Command({"device": "str", "*force": "bool"}),
        "block-job-complete": Command({"device": "str"}),
        "block-job-set-speed": Command({"device": "str", "speed": "int"}),
        "block-job-dismiss": Command({"id": "str"}),
        "block-job-finalize": Command({"id": "str"}),
        "job-pause": Command({"id": "str"}),
        "job-resume": Command({"id": "str"}),
        "job-cancel": Command({"id": "str"}),
        "job-complete": Command({"id": "str"}),
        "job-dismiss": Command({"id": "str"}),
        "job-finalize": Command({"id": "str"}),
    },
    events={
        "BLOCK_JOB_COMPLETED": Event(
            {
                "type": "JobType",
                "device": "str",
                "len": "int",
                "offset": "int",
                "speed": "int",
                "*error": "str",
            }
        ),
        "BLOCK_JOB_CANCELLED": Event(
            {"type": "JobType", "device": "str", "len": "int", "offset": "int", "speed": "int"}
        ),
        "BLOCK_JOB_ERROR": Event({"device": "str", "operation": "IoOperationType", "action": "BlockErrorAction"}),
        "BLOCK_JOB_READY": Event({"type": "JobType", "device": "str", "len": "int", "offset": "int", "speed": "int"}),
        "BLOCK_JOB_PENDING": Event({"type": "JobType", "id": "str"}),
        "JOB_STATUS_CHANGE": Event({"id": "str", "status": "JobStatus"}),
    },
)
