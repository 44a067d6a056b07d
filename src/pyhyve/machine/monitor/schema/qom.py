"""Commands, events and types of QEMU's schema (qapi/*.json, version 7.2) that we offer: qom."""

from __future__ import annotations

from pyhyve.machine.monitor.types import Command, Event, Part, Struct

PART = Part(
    enums={
        "ObjectType": (
            "iothread",
            "memory-backend-file",
            "memory-backend-memfd",
            "memory-backend-ram",
            "rng-builtin",
            "rng-random",
            "secret",
        ),
        "HostMemPolicy": ("default", "preferred", "bind", "interleave"),
        "QCryptoSecretFormat": ("raw", "base64"),
    },
    structs={
        "ObjectTypeInfo": Struct({"name": "str", "*abstract": "bool", "*parent": "str"}),
        "ObjectPropertyInfo": Struct({"name": "str", "type": "str", "*description": "str", "*default-value": "any"}),
        "ObjectOptions": Struct(
            {"qom-type": "ObjectType", "id": "str"},
            "qom-type",
            {
                "iothread": "IothreadProperties",
                "memory-backend-file": "MemoryBackendFileProperties",
                "memory-backend-memfd": "MemoryBackendMemfdProperties",
                "memory-backend-ram": "MemoryBackendProperties",
                "rng-builtin": "RngProperties",
                "rng-random": "RngRandomProperties",
                "secret": "SecretProperties",
            },
        ),
        "IothreadProperties": Struct(
            {
                "*poll-max-ns": "int",
                "*poll-grow": "int",
                "*poll-shrink": "int",
            }
        ),
        "MemoryBackendFileProperties": Struct(
            {
                "*dump": "bool",
                "*merge": "bool",
                "*policy": "HostMemPolicy",
                "*prealloc": "bool",
                "*share": "bool",
                "*reserve": "bool",
                "size": "size",
                "mem-path": "str",
                "*readonly": "bool",
            }
        ),
        "MemoryBackendMemfdProperties": Struct(
            {
                "*dump": "bool",
                "*merge": "bool",
                "*policy": "HostMemPolicy",
                "*prealloc": "bool",
                "*share": "bool",
                "*reserve": "bool",
                "size": "size",
                "*hugetlb": "bool",
                "*hugetlbsize": "int",
                "*seal": "bool",
            }
        ),
        "MemoryBackendProperties": Struct(
            {
                "*dump": "bool",
                "*merge": "bool",
                "*policy": "HostMemPolicy",
                "*prealloc": "bool",
                "*share": "bool",
                "*reserve": "bool",
                "size": "size",
            }
        ),
        "RngProperties": Struct({"*opened": "bool"}),
        "RngRandomProperties": Struct({"*opened": "bool", "*filename": "str"}),
        "SecretProperties": Struct(
            {
                "*loaded": "bool",
                "*format": "QCryptoSecretFormat",
                "*keyid": "str",
                "*iv": "str",
                "*data": "str",
                "*file": "str",
            }
        ),
    },
    commands={
        "qom-list-types": Command({"*implements": "str", "*abstract": "bool"}, returns=["ObjectTypeInfo"]),
        "qom-list-properties": Command({"typename": "str"}, returns=["ObjectPropertyInfo"]),
        "qom-list": Command({"path": "str"}, returns=["ObjectPropertyInfo"]),
        "qom-get": Command({"path": "str", "property": "str"}, returns="any"),
        "qom-set": Command({"path": "str", "property": "str", "value": "any"}),
        "device-list-properties": Command({"typename": "str"}, returns=["ObjectPropertyInfo"]),
        "object-add": Command(boxed="ObjectOptions"),
        "object-del": Command({"id": "str"}),
        "device_add": Command(
            {"driver": "str", "*bus": "str", "*id": "str"},
            is_open=True,
            features=("json-cli", "json-cli-hotplug"),
        ),
        "device_del": Command({"id": "str"}),
    },
    events={
        "DEVICE_DELETED": Event({"*device": "str", "path": "str"}),
    },
)
