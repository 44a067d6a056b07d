"""The commands, events and types of our monitor: the part of QEMU's schema (qapi/*.json, version 7.2) that we offer."""

from __future__ import annotations

from pyhyve.machine.monitor.types import Command, Event, Schema, Struct
from pyhyve.machine.notices import ShutdownCause

ENUMS: dict[str, tuple[str, ...]] = {
    "BlockdevDetectZeroesOptions": ("off", "on", "unmap"),
    "BlockDeviceIoStatus": ("ok", "failed", "nospace"),
    "QMPCapability": ("oob",),
    "RebootAction": ("reset", "shutdown"),
    "RunState": ("internal-error", "paused", "prelaunch", "running", "shutdown"),
    "ShutdownAction": ("poweroff", "pause"),
    "ShutdownCause": tuple(ShutdownCause),
    "SysEmuTarget": ("x86_64",),
}

STRUCTS: dict[str, Struct] = {
    "BlockdevCacheInfo": Struct({"writeback": "bool", "direct": "bool", "no-flush": "bool"}),
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
    "ChardevInfo": Struct({"label": "str", "filename": "str", "frontend-open": "bool"}),
    "CommandInfo": Struct({"name": "str"}),
    "CpuInfoFast": Struct(
        {
            "cpu-index": "int",
            "qom-path": "str",
            "thread-id": "int",
            "*props": "CpuInstanceProperties",
            "target": "SysEmuTarget",
        }
    ),
    "CpuInstanceProperties": Struct({"*socket-id": "int", "*core-id": "int", "*thread-id": "int"}),
    "CurrentMachineParams": Struct({"wakeup-suspend-support": "bool"}),
    "ImageInfo": Struct(
        {
            "filename": "str",
            "format": "str",
            "*dirty-flag": "bool",
            "*actual-size": "int",
            "virtual-size": "int",
            "*cluster-size": "int",
            "*backing-filename": "str",
            "*full-backing-filename": "str",
            "*backing-filename-format": "str",
            "*backing-image": "ImageInfo",
        }
    ),
    "IOThreadInfo": Struct(
        {
            "id": "str",
            "thread-id": "int",
            "poll-max-ns": "int",
            "poll-grow": "int",
            "poll-shrink": "int",
            "aio-max-batch": "int",
        }
    ),
    "KvmInfo": Struct({"enabled": "bool", "present": "bool"}),
    "MachineInfo": Struct(
        {
            "name": "str",
            "*alias": "str",
            "*is-default": "bool",
            "cpu-max": "int",
            "hotpluggable-cpus": "bool",
            "numa-mem-supported": "bool",
            "deprecated": "bool",
            "*default-ram-id": "str",
        }
    ),
    "MemoryInfo": Struct({"base-memory": "size", "*plugged-memory": "size"}),
    "NameInfo": Struct({"*name": "str"}),
    "PciBusInfo": Struct({"bus": "int", "devices": ["PciDeviceInfo"]}),
    "PciDeviceClass": Struct({"*desc": "str", "class": "int"}),
    "PciDeviceId": Struct({"device": "int", "vendor": "int", "*subsystem": "int", "*subsystem-vendor": "int"}),
    "PciDeviceInfo": Struct(
        {
            "bus": "int",
            "slot": "int",
            "function": "int",
            "class_info": "PciDeviceClass",
            "id": "PciDeviceId",
            "*irq": "int",
            "irq_pin": "int",
            "qdev_id": "str",
            "regions": ["PciMemoryRegion"],
        }
    ),
    "PciMemoryRegion": Struct(
        {
            "bar": "int",
            "type": "str",
            "address": "int",
            "size": "int",
            "*prefetch": "bool",
            "*mem_type_64": "bool",
        }
    ),
    "SchemaInfo": Struct({"name": "str", "meta-type": "str"}),
    "StatusInfo": Struct({"running": "bool", "singlestep": "bool", "status": "RunState"}),
    "TargetInfo": Struct({"arch": "SysEmuTarget"}),
    "UuidInfo": Struct({"UUID": "str"}),
    "VersionInfo": Struct({"qemu": "VersionTriple", "package": "str"}),
    "VersionTriple": Struct({"major": "int", "minor": "int", "micro": "int"}),
}

COMMANDS: dict[str, Command] = {
    "cont": Command(),
    "human-monitor-command": Command({"command-line": "str", "*cpu-index": "int"}, "str"),
    "inject-nmi": Command(),
    "qmp_capabilities": Command({"*enable": ["QMPCapability"]}),
    "query-block": Command(returns=["BlockInfo"]),
    "query-chardev": Command(returns=["ChardevInfo"]),
    "query-commands": Command(returns=["CommandInfo"]),
    "query-cpus-fast": Command(returns=["CpuInfoFast"]),
    "query-current-machine": Command(returns="CurrentMachineParams"),
    "query-iothreads": Command(returns=["IOThreadInfo"]),
    "query-kvm": Command(returns="KvmInfo"),
    "query-machines": Command(returns=["MachineInfo"]),
    "query-memory-size-summary": Command(returns="MemoryInfo"),
    "query-name": Command(returns="NameInfo"),
    "query-named-block-nodes": Command({"*flat": "bool"}, ["BlockDeviceInfo"]),
    "query-pci": Command(returns=["PciBusInfo"]),
    "query-qmp-schema": Command(returns=["SchemaInfo"]),
    "query-status": Command(returns="StatusInfo"),
    "query-target": Command(returns="TargetInfo"),
    "query-uuid": Command(returns="UuidInfo"),
    "query-version": Command(returns="VersionInfo"),
    "quit": Command(),
    "set-action": Command({"*reboot": "RebootAction", "*shutdown": "ShutdownAction"}),
    "stop": Command(),
    "system_powerdown": Command(),
    "system_reset": Command(),
}

EVENTS: dict[str, Event] = {
    "POWERDOWN": Event(),
    "RESET": Event({"guest": "bool", "reason": "ShutdownCause"}),
    "RESUME": Event(),
    "SHUTDOWN": Event({"guest": "bool", "reason": "ShutdownCause"}),
    "STOP": Event(),
}

SCHEMA = Schema(ENUMS, STRUCTS, COMMANDS, EVENTS)
"""What the machine's monitor offers."""
