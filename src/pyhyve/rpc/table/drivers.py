"""Programs of single drivers: QEMU and LXC: rows of the procedure table."""

from __future__ import annotations

from typing import Final

from pyhyve.rpc.procedure import FDS_IN, FDS_OUT, HIGH, LXC, QEMU, READ, Procedure

PROCEDURES: Final = (
    Procedure(
        1,
        "DOMAIN_MONITOR_COMMAND",
        "dom domain, cmd str, flags uint",
        ret="result str",
        acl="domain:write",
        program=QEMU,
    ),
    Procedure(
        2,
        "DOMAIN_ATTACH",
        "pid_value uint, flags uint",
        ret="dom domain",
        acl="domain:start domain:write",
        program=QEMU,
    ),
    Procedure(
        3,
        "DOMAIN_AGENT_COMMAND",
        "dom domain, cmd str, timeout int, flags uint",
        ret="result str?",
        acl="domain:write",
        program=QEMU,
    ),
    Procedure(
        4,
        "CONNECT_DOMAIN_MONITOR_EVENT_REGISTER",
        "dom domain?, event str?, flags uint",
        ret="callback_id int",
        traits=HIGH,
        acl="connect:search_domains connect:write",
        program=QEMU,
    ),
    Procedure(
        5, "CONNECT_DOMAIN_MONITOR_EVENT_DEREGISTER", "callback_id int", traits=HIGH, acl="connect:write", program=QEMU
    ),
    Procedure(
        6,
        "DOMAIN_MONITOR_EVENT",
        "callback_id int, dom domain, event str, seconds long, micros uint, details str?",
        traits=READ,
        program=QEMU,
    ),
    Procedure(
        7,
        "DOMAIN_MONITOR_COMMAND_WITH_FILES",
        "dom domain, cmd str, flags uint",
        ret="result str",
        traits=FDS_IN | FDS_OUT,
        acl="domain:write",
        program=QEMU,
    ),
    Procedure(
        1, "DOMAIN_OPEN_NAMESPACE", "dom domain, flags uint", traits=FDS_OUT, acl="domain:open_namespace", program=LXC
    ),
)
