"""Commands, events and types of QEMU's schema (qapi/*.json, version 7.2) that we offer: chardev."""

from __future__ import annotations

from pyhyve.machine.monitor.types import Command, Event, Part, Struct

PART = Part(
    enums={
        "ChardevBackendKind": ("file", "pipe", "socket", "pty", "null", "stdio", "ringbuf"),
        "DataFormat": ("utf8", "base64"),
    },
    structs={
        "ChardevInfo": Struct({"label": "str", "filename": "str", "frontend-open": "bool"}),
        "ChardevBackendInfo": Struct({"name": "str"}),
        "ChardevBackend": Struct(
            {"type": "ChardevBackendKind"},
            "type",
            {
                "file": "ChardevFileWrapper",
                "pipe": "ChardevHostdevWrapper",
                "socket": "ChardevSocketWrapper",
                "pty": "ChardevCommonWrapper",
                "null": "ChardevCommonWrapper",
                "stdio": "ChardevStdioWrapper",
                "ringbuf": "ChardevRingbufWrapper",
            },
        ),
        "ChardevFileWrapper": Struct({"data": "ChardevFile"}),
        "ChardevFile": Struct(
            {
                "*logfile": "str",
                "*logappend": "bool",
                "*in": "str",
                "out": "str",
                "*append": "bool",
            }
        ),
        "ChardevHostdevWrapper": Struct({"data": "ChardevHostdev"}),
        "ChardevHostdev": Struct({"*logfile": "str", "*logappend": "bool", "device": "str"}),
        "ChardevSocketWrapper": Struct({"data": "ChardevSocket"}),
        "ChardevSocket": Struct(
            {
                "*logfile": "str",
                "*logappend": "bool",
                "addr": "SocketAddressLegacy",
                "*server": "bool",
                "*wait": "bool",
                "*nodelay": "bool",
            }
        ),
        "SocketAddressLegacy": Struct(
            {"type": "SocketAddressType"},
            "type",
            {
                "inet": "InetSocketAddressWrapper",
                "unix": "UnixSocketAddressWrapper",
                "vsock": "VsockSocketAddressWrapper",
                "fd": "StringWrapper",
            },
        ),
        "InetSocketAddressWrapper": Struct({"data": "InetSocketAddress"}),
        "UnixSocketAddressWrapper": Struct({"data": "UnixSocketAddress"}),
        "VsockSocketAddressWrapper": Struct({"data": "VsockSocketAddress"}),
        "StringWrapper": Struct({"data": "String"}),
        "ChardevCommonWrapper": Struct({"data": "ChardevCommon"}),
        "ChardevCommon": Struct({"*logfile": "str", "*logappend": "bool"}),
        "ChardevStdioWrapper": Struct({"data": "ChardevStdio"}),
        "ChardevStdio": Struct({"*logfile": "str", "*logappend": "bool", "*signal": "bool"}),
        "ChardevRingbufWrapper": Struct({"data": "ChardevRingbuf"}),
        "ChardevRingbuf": Struct({"*logfile": "str", "*logappend": "bool", "*size": "int"}),
        "ChardevReturn": Struct({"*pty": "str"}),
    },
    commands={
        "query-chardev": Command(returns=["ChardevInfo"]),
        "query-chardev-backends": Command(returns=["ChardevBackendInfo"]),
        "chardev-add": Command({"id": "str", "backend": "ChardevBackend"}, returns="ChardevReturn"),
        "chardev-change": Command({"id": "str", "backend": "ChardevBackend"}, returns="ChardevReturn"),
        "chardev-remove": Command({"id": "str"}),
        "chardev-send-break": Command({"id": "str"}),
        "ringbuf-read": Command({"device": "str", "size": "int", "*format": "DataFormat"}, returns="str"),
        "ringbuf-write": Command({"device": "str", "data": "str", "*format": "DataFormat"}),
    },
    events={
        "VSERPORT_CHANGE": Event({"id": "str", "open": "bool"}),
    },
)
