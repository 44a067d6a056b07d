"""Commands, events and types of QEMU's schema (qapi/*.json, version 7.2) that we offer: net."""

from __future__ import annotations

from pyhyve.machine.monitor.types import Command, Part, Struct

PART = Part(
    enums={
        "NetClientDriver": ("user", "tap", "socket", "stream", "bridge"),
        "SocketAddressType": ("inet", "unix", "vsock", "fd"),
        "RxState": ("normal", "none", "all"),
    },
    structs={
        "Netdev": Struct(
            {"id": "str", "type": "NetClientDriver"},
            "type",
            {
                "user": "NetdevUserOptions",
                "tap": "NetdevTapOptions",
                "socket": "NetdevSocketOptions",
                "stream": "NetdevStreamOptions",
                "bridge": "NetdevBridgeOptions",
            },
        ),
        "NetdevUserOptions": Struct({"*net": "str", "*host": "str", "*hostfwd": ["String"]}),
        "String": Struct({"str": "str"}),
        "NetdevTapOptions": Struct(
            {
                "*ifname": "str",
                "*fd": "str",
                "*fds": "str",
                "*script": "str",
                "*downscript": "str",
                "*br": "str",
                "*helper": "str",
                "*vnet_hdr": "bool",
                "*vhost": "bool",
                "*vhostfd": "str",
            }
        ),
        "NetdevSocketOptions": Struct(
            {
                "*fd": "str",
                "*listen": "str",
                "*connect": "str",
                "*mcast": "str",
                "*localaddr": "str",
                "*udp": "str",
            }
        ),
        "NetdevStreamOptions": Struct({"addr": "SocketAddress", "*server": "bool"}),
        "SocketAddress": Struct(
            {"type": "SocketAddressType"},
            "type",
            {
                "inet": "InetSocketAddress",
                "unix": "UnixSocketAddress",
                "vsock": "VsockSocketAddress",
                "fd": "String",
            },
        ),
        "InetSocketAddress": Struct({"host": "str", "port": "str", "*to": "int"}),
        "UnixSocketAddress": Struct({"path": "str", "*abstract": "bool", "*tight": "bool"}),
        "VsockSocketAddress": Struct({"cid": "str", "port": "str"}),
        "NetdevBridgeOptions": Struct({"*br": "str", "*helper": "str"}),
        "RxFilterInfo": Struct(
            {
                "name": "str",
                "promiscuous": "bool",
                "multicast": "RxState",
                "unicast": "RxState",
                "broadcast-allowed": "bool",
                "multicast-overflow": "bool",
                "unicast-overflow": "bool",
                "main-mac": "str",
                "unicast-table": ["str"],
                "multicast-table": ["str"],
            }
        ),
    },
    commands={
        "netdev_add": Command(boxed="Netdev"),
        "netdev_del": Command({"id": "str"}),
        "set_link": Command({"name": "str", "up": "bool"}),
        "query-rx-filter": Command({"*name": "str"}, returns=["RxFilterInfo"]),
    },
    events={},
)
