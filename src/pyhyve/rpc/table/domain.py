"""Domains: lookup, definition and life cycle: rows of the procedure table."""

from __future__ import annotations

from typing import Final

from pyhyve.rpc.procedure import DOWNLOAD, FDS_IN, FDS_OUT, HIGH, READ, Procedure

PROCEDURES: Final = (
    Procedure(8, "DOMAIN_ATTACH_DEVICE", "dom domain, xml str", acl="domain:write"),
    Procedure(9, "DOMAIN_CREATE", "dom domain", acl="domain:start"),
    Procedure(10, "DOMAIN_CREATE_XML", "xml_desc str, flags uint", ret="dom domain", acl="domain:write domain:start"),
    Procedure(11, "DOMAIN_DEFINE_XML", "xml str", ret="dom domain", traits=HIGH, acl="domain:write domain:save"),
    Procedure(12, "DOMAIN_DESTROY", "dom domain", traits=HIGH, acl="domain:stop"),
    Procedure(13, "DOMAIN_DETACH_DEVICE", "dom domain, xml str", acl="domain:write"),
    Procedure(22, "DOMAIN_LOOKUP_BY_ID", "id int", ret="dom domain", traits=HIGH | READ, acl="domain:getattr"),
    Procedure(23, "DOMAIN_LOOKUP_BY_NAME", "name str", ret="dom domain", traits=HIGH | READ, acl="domain:getattr"),
    Procedure(24, "DOMAIN_LOOKUP_BY_UUID", "uuid uuid", ret="dom domain", traits=HIGH | READ, acl="domain:getattr"),
    Procedure(27, "DOMAIN_REBOOT", "dom domain, flags uint", acl="domain:init_control"),
    Procedure(28, "DOMAIN_RESUME", "dom domain", acl="domain:suspend"),
    Procedure(33, "DOMAIN_SHUTDOWN", "dom domain", acl="domain:init_control"),
    Procedure(34, "DOMAIN_SUSPEND", "dom domain", acl="domain:suspend"),
    Procedure(35, "DOMAIN_UNDEFINE", "dom domain", traits=HIGH, acl="domain:delete"),
    Procedure(
        104,
        "DOMAIN_MEMORY_PEEK",
        "dom domain, offset ulong, size uint, flags uint",
        ret="buffer bytes[4194304]",
        acl="domain:mem_read",
    ),
    Procedure(150, "DOMAIN_IS_ACTIVE", "dom domain", ret="active int", traits=HIGH | READ, acl="domain:read"),
    Procedure(151, "DOMAIN_IS_PERSISTENT", "dom domain", ret="persistent int", traits=HIGH | READ, acl="domain:read"),
    Procedure(160, "DOMAIN_ATTACH_DEVICE_FLAGS", "dom domain, xml str, flags uint", acl="domain:write"),
    Procedure(161, "DOMAIN_DETACH_DEVICE_FLAGS", "dom domain, xml str, flags uint", acl="domain:write"),
    Procedure(174, "DOMAIN_UPDATE_DEVICE_FLAGS", "dom domain, xml str, flags uint", acl="domain:write"),
    Procedure(196, "DOMAIN_CREATE_WITH_FLAGS", "dom domain, flags uint", ret="dom domain", acl="domain:start"),
    Procedure(
        201, "DOMAIN_OPEN_CONSOLE", "dom domain, dev_name str?, flags uint", traits=DOWNLOAD, acl="domain:open_device"
    ),
    Procedure(202, "DOMAIN_IS_UPDATED", "dom domain", ret="updated int", traits=HIGH | READ, acl="domain:read"),
    Procedure(210, "DOMAIN_INJECT_NMI", "dom domain, flags uint", acl="domain:inject_nmi"),
    Procedure(
        211,
        "DOMAIN_SCREENSHOT",
        "dom domain, screen uint, flags uint",
        ret="mime str?",
        traits=DOWNLOAD,
        acl="domain:screenshot",
    ),
    Procedure(
        226,
        "DOMAIN_SEND_KEY",
        "dom domain, codeset uint, holdtime uint, keycodes uint[16], flags uint",
        acl="domain:send_input",
    ),
    Procedure(231, "DOMAIN_UNDEFINE_FLAGS", "dom domain, flags uint", traits=HIGH, acl="domain:delete"),
    Procedure(234, "DOMAIN_DESTROY_FLAGS", "dom domain, flags uint", traits=HIGH, acl="domain:stop"),
    Procedure(245, "DOMAIN_RESET", "dom domain, flags uint", acl="domain:reset"),
    Procedure(
        249, "DOMAIN_OPEN_GRAPHICS", "dom domain, idx uint, flags uint", traits=FDS_IN, acl="domain:open_graphics"
    ),
    Procedure(258, "DOMAIN_SHUTDOWN_FLAGS", "dom domain, flags uint", acl="domain:init_control"),
    Procedure(
        261,
        "DOMAIN_PM_SUSPEND_FOR_DURATION",
        "dom domain, target uint, duration ulong, flags uint",
        acl="domain:pm_control",
    ),
    Procedure(267, "DOMAIN_PM_WAKEUP", "dom domain, flags uint", acl="domain:pm_control"),
    Procedure(
        295,
        "DOMAIN_SEND_PROCESS_SIGNAL",
        "dom domain, pid_value long, signum uint, flags uint",
        acl="domain:send_signal",
    ),
    Procedure(
        296, "DOMAIN_OPEN_CHANNEL", "dom domain, name str?, flags uint", traits=DOWNLOAD, acl="domain:open_device"
    ),
    Procedure(
        309,
        "DOMAIN_CREATE_XML_WITH_FILES",
        "xml_desc str, flags uint",
        ret="dom domain",
        traits=FDS_IN,
        acl="domain:write domain:start",
    ),
    Procedure(
        310, "DOMAIN_CREATE_WITH_FILES", "dom domain, flags uint", ret="dom domain", traits=FDS_IN, acl="domain:start"
    ),
    Procedure(
        343, "DOMAIN_OPEN_GRAPHICS_FD", "dom domain, idx uint, flags uint", traits=FDS_OUT, acl="domain:open_graphics"
    ),
    Procedure(
        350,
        "DOMAIN_DEFINE_XML_FLAGS",
        "xml str, flags uint",
        ret="dom domain",
        traits=HIGH,
        acl="domain:write domain:save",
    ),
    Procedure(355, "DOMAIN_ADD_IOTHREAD", "dom domain, iothread_id uint, flags uint", acl="domain:write"),
    Procedure(356, "DOMAIN_DEL_IOTHREAD", "dom domain, iothread_id uint, flags uint", acl="domain:write"),
    Procedure(
        358, "DOMAIN_RENAME", "dom domain, new_name str?, flags uint", ret="retcode int", acl="domain:write domain:save"
    ),
    Procedure(392, "DOMAIN_DETACH_DEVICE_ALIAS", "dom domain, alias str, flags uint", acl="domain:write"),
    Procedure(
        420,
        "DOMAIN_AGENT_SET_RESPONSE_TIMEOUT",
        "dom domain, timeout int, flags uint",
        ret="result int",
        acl="domain:write",
    ),
    Procedure(
        424,
        "DOMAIN_AUTHORIZED_SSH_KEYS_GET",
        "dom domain, user str, flags uint",
        ret="keys str[2048]",
        acl="domain:write",
    ),
    Procedure(
        425, "DOMAIN_AUTHORIZED_SSH_KEYS_SET", "dom domain, user str, keys str[2048], flags uint", acl="domain:write"
    ),
    Procedure(427, "DOMAIN_START_DIRTY_RATE_CALC", "dom domain, seconds int, flags uint", acl="domain:write"),
    Procedure(443, "DOMAIN_FD_ASSOCIATE", "dom domain, name str, flags uint", traits=FDS_IN, acl="domain:write"),
)
