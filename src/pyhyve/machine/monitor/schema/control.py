"""Commands, events and types of QEMU's schema (qapi/*.json, version 7.2) that we offer: control."""

from __future__ import annotations

from pyhyve.machine.monitor.types import Command, Part, Struct

PART = Part(
    enums={
        "QMPCapability": ("oob",),
        "SchemaMetaType": ("builtin", "enum", "array", "object", "alternate", "command", "event"),
        "JSONType": ("string", "number", "int", "boolean", "null", "object", "array", "value"),
        "CommandLineParameterType": ("string", "boolean", "number", "size"),
    },
    structs={
        "VersionInfo": Struct({"qemu": "VersionTriple", "package": "str"}),
        "VersionTriple": Struct({"major": "int", "minor": "int", "micro": "int"}),
        "CommandInfo": Struct({"name": "str"}),
        "SchemaInfo": Struct(
            {"name": "str", "meta-type": "SchemaMetaType", "*features": ["str"]},
            "meta-type",
            {
                "builtin": "SchemaInfoBuiltin",
                "enum": "SchemaInfoEnum",
                "array": "SchemaInfoArray",
                "object": "SchemaInfoObject",
                "alternate": "SchemaInfoAlternate",
                "command": "SchemaInfoCommand",
                "event": "SchemaInfoEvent",
            },
        ),
        "SchemaInfoBuiltin": Struct({"json-type": "JSONType"}),
        "SchemaInfoEnum": Struct({"members": ["SchemaInfoEnumMembers"], "values": ["str"]}),
        "SchemaInfoEnumMembers": Struct({"name": "str", "*features": ["str"]}),
        "SchemaInfoArray": Struct({"element-type": "str"}),
        "SchemaInfoObject": Struct(
            {
                "members": ["SchemaInfoObjectMembers"],
                "*tag": "str",
                "*variants": ["SchemaInfoObjectVariants"],
            }
        ),
        "SchemaInfoObjectMembers": Struct({"name": "str", "type": "str", "*default": "any", "*features": ["str"]}),
        "SchemaInfoObjectVariants": Struct({"case": "str", "type": "str"}),
        "SchemaInfoAlternate": Struct({"members": ["SchemaInfoAlternateMembers"]}),
        "SchemaInfoAlternateMembers": Struct({"type": "str"}),
        "SchemaInfoCommand": Struct({"arg-type": "str", "ret-type": "str", "*allow-oob": "bool"}),
        "SchemaInfoEvent": Struct({"arg-type": "str"}),
        "AddfdInfo": Struct({"fdset-id": "int", "fd": "int"}),
        "FdsetInfo": Struct({"fdset-id": "int", "fds": ["FdsetFdInfo"]}),
        "FdsetFdInfo": Struct({"fd": "int", "*opaque": "str"}),
        "CommandLineOptionInfo": Struct({"option": "str", "parameters": ["CommandLineParameterInfo"]}),
        "CommandLineParameterInfo": Struct(
            {
                "name": "str",
                "type": "CommandLineParameterType",
                "*help": "str",
                "*default": "str",
            }
        ),
    },
    commands={
        "qmp_capabilities": Command({"*enable": ["QMPCapability"]}),
        "query-version": Command(returns="VersionInfo"),
        "query-commands": Command(returns=["CommandInfo"]),
        "query-qmp-schema": Command(returns=["SchemaInfo"]),
        "quit": Command(),
        "human-monitor-command": Command({"command-line": "str", "*cpu-index": "int"}, returns="str"),
        "getfd": Command({"fdname": "str"}),
        "closefd": Command({"fdname": "str"}),
        "add-fd": Command({"*fdset-id": "int", "*opaque": "str"}, returns="AddfdInfo"),
        "remove-fd": Command({"fdset-id": "int", "*fd": "int"}),
        "query-fdsets": Command(returns=["FdsetInfo"]),
        "query-command-line-options": Command({"*option": "str"}, returns=["CommandLineOptionInfo"]),
    },
    events={},
)
