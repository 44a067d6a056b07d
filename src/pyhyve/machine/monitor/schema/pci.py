"""Commands, events and types of QEMU's schema (qapi/*.json, version 7.2) that we offer: pci."""

from __future__ import annotations

from pyhyve.machine.monitor.types import Command, Part, Struct

PART = Part(
    enums={},
    structs={
        "PciInfo": Struct({"bus": "int", "devices": ["PciInfoDevices"]}),
        "PciInfoDevices": Struct(
            {
                "bus": "int",
                "slot": "int",
                "function": "int",
                "class_info": "PciInfoDevicesClassInfo",
                "id": "PciInfoDevicesId",
                "*irq": "int",
                "irq_pin": "int",
                "qdev_id": "str",
                "*pci_bridge": "PciInfoDevicesPciBridge",
                "regions": ["PciInfoDevicesRegions"],
            }
        ),
        "PciInfoDevicesClassInfo": Struct({"*desc": "str", "class": "int"}),
        "PciInfoDevicesId": Struct({"device": "int", "vendor": "int", "*subsystem": "int", "*subsystem-vendor": "int"}),
        "PciInfoDevicesPciBridge": Struct({"bus": "PciInfoDevicesPciBridgeBus", "*devices": ["PciInfoDevices"]}),
        "PciInfoDevicesPciBridgeBus": Struct(
            {
                "number": "int",
                "secondary": "int",
                "subordinate": "int",
                "io_range": "PciInfoDevicesPciBridgeBusIoRange",
                "memory_range": "PciInfoDevicesPciBridgeBusIoRange",
                "prefetchable_range": "PciInfoDevicesPciBridgeBusIoRange",
            }
        ),
        "PciInfoDevicesPciBridgeBusIoRange": Struct({"base": "int", "limit": "int"}),
        "PciInfoDevicesRegions": Struct(
            {
                "bar": "int",
                "type": "str",
                "address": "int",
                "size": "int",
                "*prefetch": "bool",
                "*mem_type_64": "bool",
            }
        ),
    },
    commands={
        "query-pci": Command(returns=["PciInfo"]),
    },
    events={},
)
