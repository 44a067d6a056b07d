"""Options of `pyhyve-system-x86_64` with parameters that QEMU lists too, as `query-command-line-options` tells them."""

from __future__ import annotations

_STR, _NUM, _BOOL, _SIZE = "string", "number", "boolean", "size"

OPTIONS: dict[str, dict[str, str]] = {
    "machine": {
        "type": _STR, "accel": _STR, "usb": _BOOL, "dump-guest-core": _BOOL, "mem-merge": _BOOL,
    },
    "accel": {},
    "boot-opts": {"order": _STR, "once": _STR, "menu": _BOOL, "strict": _BOOL},
    "memory": {"size": _SIZE},
    "smp-opts": {
        "cpus": _NUM, "sockets": _NUM, "dies": _NUM, "cores": _NUM, "threads": _NUM, "maxcpus": _NUM,
    },
    "name": {"guest": _STR, "debug-threads": _BOOL},
    "rtc": {"base": _STR, "clock": _STR, "driftfix": _STR},
    "msg": {"timestamp": _BOOL},
    "overcommit": {"mem-lock": _BOOL, "cpu-pm": _BOOL},
    "action": {"reboot": _STR, "shutdown": _STR},
    "sandbox": {
        "enable": _BOOL, "obsolete": _STR, "elevateprivileges": _STR, "spawn": _STR, "resourcecontrol": _STR,
    },
    "add-fd": {"fd": _NUM, "set": _NUM, "opaque": _STR},
    "chardev": {
        "backend": _STR, "path": _STR, "host": _STR, "port": _STR, "fd": _STR, "server": _BOOL,
        "wait": _BOOL, "append": _BOOL, "logfile": _STR, "logappend": _BOOL, "size": _SIZE, "signal": _BOOL,
    },
    "mon": {"mode": _STR, "chardev": _STR, "pretty": _BOOL},
    "netdev": {},
    "object": {},
    "device": {},
    "global": {"driver": _STR, "property": _STR, "value": _STR},
    "drive": {
        "file": _STR, "if": _STR, "index": _NUM, "media": _STR, "format": _STR, "snapshot": _BOOL,
        "werror": _STR, "rerror": _STR, "node-name": _STR,
    },
}  # fmt: skip
