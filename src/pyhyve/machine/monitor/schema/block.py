"""Commands, events and types of QEMU's schema (qapi/*.json, version 7.2) that we offer: block."""

from __future__ import annotations

from pyhyve.machine.monitor.types import Command, Event, Part, Struct

PART = Part(
    enums={
        "ImageInfoSpecificKind": ("qcow2",),
        "BlockdevDetectZeroesOptions": ("off", "on", "unmap"),
        "BlockDeviceIoStatus": ("ok", "failed", "nospace"),
        "BlockdevDriver": (
            "cloop",
            "dmg",
            "file",
            "host_device",
            "nbd",
            "parallels",
            "qcow",
            "qcow2",
            "raw",
            "vdi",
            "vhdx",
            "vmdk",
            "vpc",
        ),
        "BlockdevDiscardOptions": ("ignore", "unmap"),
        "OnOffAuto": ("auto", "on", "off"),
        "BlockdevAioOptions": ("threads", "native", "io_uring"),
        "PreallocMode": ("off", "metadata", "falloc", "full"),
        "BlockdevQcow2Version": ("v2", "v3"),
        "Qcow2CompressionType": ("zlib", "zstd"),
        "BlockdevVhdxSubformat": ("dynamic", "fixed"),
        "BlockdevVmdkSubformat": (
            "monolithicSparse",
            "monolithicFlat",
            "twoGbMaxExtentSparse",
            "twoGbMaxExtentFlat",
            "streamOptimized",
        ),
        "BlockdevVmdkAdapterType": ("ide", "buslogic", "lsilogic", "legacyESX"),
        "BlockdevVpcSubformat": ("dynamic", "fixed"),
        "BlockdevChangeReadOnlyMode": ("retain", "read-only", "read-write"),
        "NewImageMode": ("existing", "absolute-paths"),
        "TransactionActionKind": (
            "abort",
            "blockdev-backup",
            "blockdev-snapshot",
            "blockdev-snapshot-internal-sync",
            "blockdev-snapshot-sync",
            "drive-backup",
        ),
        "MirrorSyncMode": ("top", "full", "none", "incremental", "bitmap"),
        "BlockdevOnError": ("report", "ignore", "enospc", "stop", "auto"),
        "ActionCompletionMode": ("individual", "grouped"),
        "IoOperationType": ("read", "write"),
        "BlockErrorAction": ("ignore", "report", "stop"),
    },
    structs={
        "BlockInfo": Struct(
            {
                "device": "str",
                "*qdev": "str",
                "type": "str",
                "removable": "bool",
                "locked": "bool",
                "*inserted": "BlockDeviceInfo",
                "*tray_open": "bool",
                "*io-status": "BlockDeviceIoStatus",
            }
        ),
        "BlockDeviceInfo": Struct(
            {
                "file": "str",
                "*node-name": "str",
                "ro": "bool",
                "drv": "str",
                "*backing_file": "str",
                "backing_file_depth": "int",
                "encrypted": "bool",
                "detect_zeroes": "BlockdevDetectZeroesOptions",
                "bps": "int",
                "bps_rd": "int",
                "bps_wr": "int",
                "iops": "int",
                "iops_rd": "int",
                "iops_wr": "int",
                "image": "ImageInfo",
                "cache": "BlockdevCacheInfo",
                "write_threshold": "int",
            }
        ),
        "ImageInfo": Struct(
            {
                "filename": "str",
                "format": "str",
                "*dirty-flag": "bool",
                "*actual-size": "int",
                "virtual-size": "int",
                "*cluster-size": "int",
                "*encrypted": "bool",
                "*compressed": "bool",
                "*backing-filename": "str",
                "*full-backing-filename": "str",
                "*backing-filename-format": "str",
                "*snapshots": ["SnapshotInfo"],
                "*backing-image": "ImageInfo",
                "*format-specific": "ImageInfoSpecific",
            }
        ),
        "ImageInfoSpecific": Struct(
            {"type": "ImageInfoSpecificKind"}, tag="type", variants={"qcow2": "ImageInfoSpecificQCow2Wrapper"}
        ),
        "ImageInfoSpecificQCow2Wrapper": Struct({"data": "ImageInfoSpecificQCow2"}),
        "ImageInfoSpecificQCow2": Struct(
            {
                "compat": "str",
                "*data-file": "str",
                "*data-file-raw": "bool",
                "*extended-l2": "bool",
                "*lazy-refcounts": "bool",
                "*corrupt": "bool",
                "refcount-bits": "int",
                "compression-type": "Qcow2CompressionType",
            }
        ),
        "SnapshotInfo": Struct(
            {
                "id": "str",
                "name": "str",
                "vm-state-size": "int",
                "date-sec": "int",
                "date-nsec": "int",
                "vm-clock-sec": "int",
                "vm-clock-nsec": "int",
                "*icount": "int",
            }
        ),
        "BlockdevCacheInfo": Struct({"writeback": "bool", "direct": "bool", "no-flush": "bool"}),
        "BlockStats": Struct(
            {
                "*device": "str",
                "*qdev": "str",
                "*node-name": "str",
                "stats": "BlockDeviceStats",
                "*parent": "BlockStats",
                "*backing": "BlockStats",
            }
        ),
        "BlockDeviceStats": Struct(
            {
                "rd_bytes": "int",
                "wr_bytes": "int",
                "unmap_bytes": "int",
                "rd_operations": "int",
                "wr_operations": "int",
                "flush_operations": "int",
                "unmap_operations": "int",
                "rd_total_time_ns": "int",
                "wr_total_time_ns": "int",
                "flush_total_time_ns": "int",
                "unmap_total_time_ns": "int",
                "wr_highest_offset": "int",
                "rd_merged": "int",
                "wr_merged": "int",
                "unmap_merged": "int",
                "*idle_time_ns": "int",
                "failed_rd_operations": "int",
                "failed_wr_operations": "int",
                "failed_flush_operations": "int",
                "failed_unmap_operations": "int",
                "invalid_rd_operations": "int",
                "invalid_wr_operations": "int",
                "invalid_flush_operations": "int",
                "invalid_unmap_operations": "int",
                "account_invalid": "bool",
                "account_failed": "bool",
                "timed_stats": ["BlockDeviceTimedStats"],
            }
        ),
        "BlockDeviceTimedStats": Struct(
            {
                "interval_length": "int",
                "min_rd_latency_ns": "int",
                "max_rd_latency_ns": "int",
                "avg_rd_latency_ns": "int",
                "min_wr_latency_ns": "int",
                "max_wr_latency_ns": "int",
                "avg_wr_latency_ns": "int",
                "min_flush_latency_ns": "int",
                "max_flush_latency_ns": "int",
                "avg_flush_latency_ns": "int",
                "avg_rd_queue_depth": "number",
                "avg_wr_queue_depth": "number",
            }
        ),
        "BlockdevOptions": Struct(
            {
                "driver": "BlockdevDriver",
                "*node-name": "str",
                "*discard": "BlockdevDiscardOptions",
                "*cache": "BlockdevCacheOptions",
                "*read-only": "bool",
                "*auto-read-only": "bool",
            },
            "driver",
            {
                "cloop": "BlockdevOptionsGenericFormat",
                "dmg": "BlockdevOptionsGenericFormat",
                "file": "BlockdevOptionsFile",
                "host_device": "BlockdevOptionsFile",
                "nbd": "BlockdevOptionsNbd",
                "parallels": "BlockdevOptionsGenericFormat",
                "qcow2": "BlockdevOptionsQcow2",
                "qcow": "BlockdevOptionsQcow",
                "raw": "BlockdevOptionsRaw",
                "vdi": "BlockdevOptionsGenericFormat",
                "vhdx": "BlockdevOptionsGenericFormat",
                "vmdk": "BlockdevOptionsGenericCOWFormat",
                "vpc": "BlockdevOptionsGenericFormat",
            },
        ),
        "BlockdevCacheOptions": Struct({"*direct": "bool", "*no-flush": "bool"}),
        "BlockdevOptionsGenericFormat": Struct({"file": "BlockdevRef"}),
        "BlockdevOptionsFile": Struct(
            {
                "filename": "str",
                "*locking": "OnOffAuto",
                "*aio": "BlockdevAioOptions",
            }
        ),
        "BlockdevOptionsNbd": Struct({"server": "SocketAddress", "*export": "str"}),
        "BlockdevOptionsQcow2": Struct({"file": "BlockdevRef", "*backing": "BlockdevRefOrNull"}),
        "BlockdevOptionsQcow": Struct({"file": "BlockdevRef", "*backing": "BlockdevRefOrNull"}),
        "BlockdevOptionsRaw": Struct({"file": "BlockdevRef", "*offset": "int", "*size": "int"}),
        "BlockdevOptionsGenericCOWFormat": Struct({"file": "BlockdevRef", "*backing": "BlockdevRefOrNull"}),
        "BlockdevCreateOptions": Struct(
            {"driver": "BlockdevDriver"},
            "driver",
            {
                "file": "BlockdevCreateOptionsFile",
                "parallels": "BlockdevCreateOptionsParallels",
                "qcow": "BlockdevCreateOptionsQcow",
                "qcow2": "BlockdevCreateOptionsQcow2",
                "vdi": "BlockdevCreateOptionsVdi",
                "vhdx": "BlockdevCreateOptionsVhdx",
                "vmdk": "BlockdevCreateOptionsVmdk",
                "vpc": "BlockdevCreateOptionsVpc",
            },
        ),
        "BlockdevCreateOptionsFile": Struct({"filename": "str", "size": "int", "*preallocation": "PreallocMode"}),
        "BlockdevCreateOptionsParallels": Struct({"file": "BlockdevRef", "size": "int", "*cluster-size": "int"}),
        "BlockdevCreateOptionsQcow": Struct({"file": "BlockdevRef", "size": "int", "*backing-file": "str"}),
        "BlockdevCreateOptionsQcow2": Struct(
            {
                "file": "BlockdevRef",
                "size": "int",
                "*version": "BlockdevQcow2Version",
                "*backing-file": "str",
                "*backing-fmt": "BlockdevDriver",
                "*cluster-size": "int",
                "*preallocation": "PreallocMode",
                "*refcount-bits": "int",
                "*compression-type": "Qcow2CompressionType",
            }
        ),
        "BlockdevCreateOptionsVdi": Struct({"file": "BlockdevRef", "size": "int", "*preallocation": "PreallocMode"}),
        "BlockdevCreateOptionsVhdx": Struct(
            {
                "file": "BlockdevRef",
                "size": "int",
                "*log-size": "int",
                "*block-size": "int",
                "*subformat": "BlockdevVhdxSubformat",
                "*block-state-zero": "bool",
            }
        ),
        "BlockdevCreateOptionsVmdk": Struct(
            {
                "file": "BlockdevRef",
                "size": "int",
                "*subformat": "BlockdevVmdkSubformat",
                "*backing-file": "str",
                "*adapter-type": "BlockdevVmdkAdapterType",
            }
        ),
        "BlockdevCreateOptionsVpc": Struct(
            {
                "file": "BlockdevRef",
                "size": "int",
                "*subformat": "BlockdevVpcSubformat",
                "*force-size": "bool",
            }
        ),
        "TransactionAction": Struct(
            {"type": "TransactionActionKind"},
            "type",
            {
                "abort": "AbortWrapper",
                "blockdev-backup": "BlockdevBackupWrapper",
                "blockdev-snapshot": "BlockdevSnapshotWrapper",
                "blockdev-snapshot-internal-sync": "BlockdevSnapshotInternalWrapper",
                "blockdev-snapshot-sync": "BlockdevSnapshotSyncWrapper",
                "drive-backup": "DriveBackupWrapper",
            },
        ),
        "AbortWrapper": Struct({"data": "Abort"}),
        "Abort": Struct({}),
        "BlockdevBackupWrapper": Struct({"data": "BlockdevBackup"}),
        "BlockdevBackup": Struct(
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
        "BlockdevSnapshotWrapper": Struct({"data": "BlockdevSnapshot"}),
        "BlockdevSnapshot": Struct({"node": "str", "overlay": "str"}),
        "BlockdevSnapshotInternalWrapper": Struct({"data": "BlockdevSnapshotInternal"}),
        "BlockdevSnapshotInternal": Struct({"device": "str", "name": "str"}),
        "BlockdevSnapshotSyncWrapper": Struct({"data": "BlockdevSnapshotSync"}),
        "BlockdevSnapshotSync": Struct(
            {
                "*device": "str",
                "*node-name": "str",
                "snapshot-file": "str",
                "*snapshot-node-name": "str",
                "*format": "str",
                "*mode": "NewImageMode",
            }
        ),
        "DriveBackupWrapper": Struct({"data": "DriveBackup"}),
        "DriveBackup": Struct(
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
            }
        ),
        "TransactionProperties": Struct({"*completion-mode": "ActionCompletionMode"}),
    },
    alternates={
        "BlockdevRef": ("BlockdevOptions", "str"),
        "BlockdevRefOrNull": ("BlockdevOptions", "str", "null"),
    },
    commands={
        "query-block": Command(returns=["BlockInfo"]),
        "query-blockstats": Command({"*query-nodes": "bool"}, returns=["BlockStats"]),
        "query-named-block-nodes": Command({"*flat": "bool"}, returns=["BlockDeviceInfo"]),
        "blockdev-add": Command(boxed="BlockdevOptions"),
        "blockdev-del": Command({"node-name": "str"}),
        "blockdev-reopen": Command({"options": ["BlockdevOptions"]}),
        "blockdev-create": Command({"job-id": "str", "options": "BlockdevCreateOptions"}),
        "block_resize": Command({"*device": "str", "*node-name": "str", "size": "int"}),
        "blockdev-change-medium": Command(
            {
                "*device": "str",
                "*id": "str",
                "filename": "str",
                "*format": "str",
                "*force": "bool",
                "*read-only-mode": "BlockdevChangeReadOnlyMode",
            }
        ),
        "blockdev-insert-medium": Command({"id": "str", "node-name": "str"}),
        "blockdev-remove-medium": Command({"id": "str"}),
        "blockdev-open-tray": Command({"*device": "str", "*id": "str", "*force": "bool"}),
        "blockdev-close-tray": Command({"*device": "str", "*id": "str"}),
        "eject": Command({"*device": "str", "*id": "str", "*force": "bool"}),
        "blockdev-snapshot": Command({"node": "str", "overlay": "str"}, features=("allow-write-only-overlay",)),
        "blockdev-snapshot-sync": Command(
            {
                "*device": "str",
                "*node-name": "str",
                "snapshot-file": "str",
                "*snapshot-node-name": "str",
                "*format": "str",
                "*mode": "NewImageMode",
            }
        ),
        "blockdev-snapshot-internal-sync": Command({"device": "str", "name": "str"}),
        "blockdev-snapshot-delete-internal-sync": Command(
            {"device": "str", "*id": "str", "*name": "str"}, returns="SnapshotInfo"
        ),
        "change-backing-file": Command({"device": "str", "image-node-name": "str", "backing-file": "str"}),
        "transaction": Command({"actions": ["TransactionAction"], "*properties": "TransactionProperties"}),
    },
    events={
        "DEVICE_TRAY_MOVED": Event({"device": "str", "id": "str", "tray-open": "bool"}),
        "BLOCK_IO_ERROR": Event(
            {
                "device": "str",
                "*node-name": "str",
                "operation": "IoOperationType",
                "action": "BlockErrorAction",
                "*nospace": "bool",
                "reason": "str",
            }
        ),
    },
)
