"""Commands, events and types of QEMU's schema (qapi/*.json, version 7.2) that we offer: machine."""

from __future__ import annotations

from pyhyve.machine.monitor.types import Command, Event, Part, Struct

PART = Part(
    enums={
        "RunState": (
            "inmigrate",
            "internal-error",
            "io-error",
            "paused",
            "postmigrate",
            "prelaunch",
            "restore-vm",
            "running",
            "save-vm",
            "shutdown",
        ),
        "SysEmuTarget": ("x86_64",),
        "MemoryDeviceInfoKind": ("dimm", "nvdimm", "virtio-pmem", "virtio-mem", "sgx-epc"),
        "CpuModelExpansionType": ("static", "full"),
        "TpmModel": ("tpm-tis", "tpm-crb", "tpm-spapr"),
        "TpmType": ("passthrough", "emulator"),
        "StatsTarget": ("vm", "vcpu"),
        "StatsProvider": ("kvm",),
        "StatsType": ("cumulative", "instant", "peak", "linear-histogram", "log2-histogram"),
        "StatsUnit": ("bytes", "seconds", "cycles", "boolean"),
        "RebootAction": ("reset", "shutdown"),
        "ShutdownAction": ("poweroff", "pause"),
        "DumpGuestMemoryFormat": ("elf",),
        "DumpStatus": ("none", "active", "completed", "failed"),
        "ShutdownCause": (
            "none",
            "host-error",
            "host-qmp-quit",
            "host-qmp-system-reset",
            "host-signal",
            "host-ui",
            "guest-shutdown",
            "guest-reset",
            "guest-panic",
            "subsystem-reset",
            "snapshot-load",
        ),
    },
    structs={
        "StatusInfo": Struct({"running": "bool", "singlestep": "bool", "status": "RunState"}),
        "NameInfo": Struct({"*name": "str"}),
        "UuidInfo": Struct({"UUID": "str"}),
        "GuidInfo": Struct({"guid": "str"}),
        "KvmInfo": Struct({"enabled": "bool", "present": "bool"}),
        "TargetInfo": Struct({"arch": "SysEmuTarget"}),
        "MachineInfo": Struct(
            {
                "name": "str",
                "*alias": "str",
                "*is-default": "bool",
                "cpu-max": "int",
                "hotpluggable-cpus": "bool",
                "numa-mem-supported": "bool",
                "deprecated": "bool",
                "*default-cpu-type": "str",
                "*default-ram-id": "str",
            }
        ),
        "CurrentMachineParams": Struct({"wakeup-suspend-support": "bool"}),
        "CpuInfoFast": Struct(
            {
                "cpu-index": "int",
                "qom-path": "str",
                "thread-id": "int",
                "*props": "CpuInstanceProperties",
                "target": "SysEmuTarget",
            },
        ),
        "CpuInstanceProperties": Struct(
            {
                "*node-id": "int",
                "*socket-id": "int",
                "*die-id": "int",
                "*cluster-id": "int",
                "*core-id": "int",
                "*thread-id": "int",
            }
        ),
        "HotpluggableCPU": Struct(
            {"type": "str", "vcpus-count": "int", "props": "CpuInstanceProperties", "*qom-path": "str"}
        ),
        "MemoryInfo": Struct({"base-memory": "int", "*plugged-memory": "int"}),
        "MemoryDeviceInfo": Struct({"type": "MemoryDeviceInfoKind"}),
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
        "CpuDefinitionInfo": Struct(
            {
                "name": "str",
                "*migration-safe": "bool",
                "static": "bool",
                "*unavailable-features": ["str"],
                "typename": "str",
                "*alias-of": "str",
                "deprecated": "bool",
            }
        ),
        "CpuModelInfo": Struct({"name": "str", "*props": "any"}),
        "CpuModelExpansionInfo": Struct({"model": "CpuModelInfo"}),
        "StatsFilter": Struct(
            {"target": "StatsTarget", "*providers": ["StatsRequest"]},
            "target",
            {"vcpu": "StatsVCPUFilter"},
        ),
        "StatsRequest": Struct({"provider": "StatsProvider", "*names": ["str"]}),
        "StatsVCPUFilter": Struct({"*vcpus": ["str"]}),
        "StatsResult": Struct(
            {
                "provider": "StatsProvider",
                "*qom-path": "str",
                "stats": ["Stats"],
            }
        ),
        "Stats": Struct({"name": "str", "value": "StatsValue"}),
        "StatsSchema": Struct(
            {
                "provider": "StatsProvider",
                "target": "StatsTarget",
                "stats": ["StatsSchemaValue"],
            }
        ),
        "StatsSchemaValue": Struct(
            {
                "name": "str",
                "type": "StatsType",
                "*unit": "StatsUnit",
                "*base": "int",
                "exponent": "int",
                "*bucket-size": "int",
            }
        ),
        "BalloonInfo": Struct({"actual": "int"}),
        "DumpQueryResult": Struct({"status": "DumpStatus", "completed": "int", "total": "int"}),
        "DumpGuestMemoryCapability": Struct({"formats": ["DumpGuestMemoryFormat"]}),
    },
    alternates={
        "StatsValue": ("int", "bool", ["int"]),
    },
    commands={
        "query-status": Command(returns="StatusInfo"),
        "query-name": Command(returns="NameInfo"),
        "query-uuid": Command(returns="UuidInfo"),
        "query-vm-generation-id": Command(returns="GuidInfo"),
        "query-kvm": Command(returns="KvmInfo"),
        "query-target": Command(returns="TargetInfo"),
        "query-machines": Command(returns=["MachineInfo"]),
        "query-current-machine": Command(returns="CurrentMachineParams"),
        "query-cpus-fast": Command(returns=["CpuInfoFast"]),
        "query-hotpluggable-cpus": Command(returns=["HotpluggableCPU"]),
        "query-memory-size-summary": Command(returns="MemoryInfo"),
        "query-memory-devices": Command(returns=["MemoryDeviceInfo"]),
        "query-iothreads": Command(returns=["IOThreadInfo"]),
        "query-cpu-definitions": Command(returns=["CpuDefinitionInfo"]),
        "query-cpu-model-expansion": Command(
            {"type": "CpuModelExpansionType", "model": "CpuModelInfo"}, returns="CpuModelExpansionInfo"
        ),
        "query-tpm-models": Command(returns=["TpmModel"]),
        "query-tpm-types": Command(returns=["TpmType"]),
        "query-stats": Command(boxed="StatsFilter", returns=["StatsResult"]),
        "query-stats-schemas": Command({"*provider": "StatsProvider"}, returns=["StatsSchema"]),
        "balloon": Command({"value": "int"}),
        "query-balloon": Command(returns="BalloonInfo"),
        "stop": Command(),
        "cont": Command(),
        "system_reset": Command(),
        "system_powerdown": Command(),
        "inject-nmi": Command(),
        "set-action": Command(
            {
                "*reboot": "RebootAction",
                "*shutdown": "ShutdownAction",
            }
        ),
        "rtc-reset-reinjection": Command(),
        "dump-guest-memory": Command(
            {
                "paging": "bool",
                "protocol": "str",
                "*detach": "bool",
                "*begin": "int",
                "*length": "int",
                "*format": "DumpGuestMemoryFormat",
            }
        ),
        "query-dump": Command(returns="DumpQueryResult"),
        "query-dump-guest-memory-capability": Command(returns="DumpGuestMemoryCapability"),
        "memsave": Command({"val": "int", "size": "int", "filename": "str", "*cpu-index": "int"}),
        "pmemsave": Command({"val": "int", "size": "int", "filename": "str"}),
    },
    events={
        "STOP": Event(),
        "RESUME": Event(),
        "RESET": Event({"guest": "bool", "reason": "ShutdownCause"}),
        "POWERDOWN": Event(),
        "SHUTDOWN": Event({"guest": "bool", "reason": "ShutdownCause"}),
        "BALLOON_CHANGE": Event({"actual": "int"}),
        "DUMP_COMPLETED": Event({"result": "DumpQueryResult", "*error": "str"}),
    },
)
