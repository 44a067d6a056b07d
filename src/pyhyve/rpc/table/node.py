"""The host, its devices, and secrets: rows of the procedure table."""

from __future__ import annotations

from typing import Final

from pyhyve.rpc.procedure import HIGH, READ, Procedure

PROCEDURES: Final = (
    Procedure(
        6,
        "NODE_GET_INFO",
        ret="model int{32}, memory ulong, cpus int, mhz int, nodes int, sockets int, cores int, threads int",
        traits=HIGH | READ,
        acl="connect:read",
    ),
    Procedure(
        101,
        "NODE_GET_CELLS_FREE_MEMORY",
        "start_cell int, maxcells int",
        ret="cells ulong[1024]",
        traits=HIGH | READ,
        acl="connect:read",
    ),
    Procedure(102, "NODE_GET_FREE_MEMORY", ret="free_mem ulong", traits=HIGH | READ, acl="connect:read"),
    Procedure(
        111,
        "NODE_NUM_OF_DEVICES",
        "cap str?, flags uint",
        ret="num int",
        traits=HIGH | READ,
        acl="connect:search_node_devices",
    ),
    Procedure(
        112,
        "NODE_LIST_DEVICES",
        "cap str?, maxnames int, flags uint",
        ret="names str[65536]",
        traits=HIGH | READ,
        acl="connect:search_node_devices",
    ),
    Procedure(
        113,
        "NODE_DEVICE_LOOKUP_BY_NAME",
        "name str",
        ret="dev node_device",
        traits=HIGH | READ,
        acl="node_device:getattr",
    ),
    Procedure(
        114, "NODE_DEVICE_GET_XML_DESC", "name str, flags uint", ret="xml str", traits=READ, acl="node_device:read"
    ),
    Procedure(
        115, "NODE_DEVICE_GET_PARENT", "name str", ret="parent_name str?", traits=HIGH | READ, acl="node_device:read"
    ),
    Procedure(116, "NODE_DEVICE_NUM_OF_CAPS", "name str", ret="num int", traits=HIGH | READ, acl="node_device:read"),
    Procedure(
        117,
        "NODE_DEVICE_LIST_CAPS",
        "name str, maxnames int",
        ret="names str[65536]",
        traits=HIGH | READ,
        acl="node_device:read",
    ),
    Procedure(118, "NODE_DEVICE_DETTACH", "name str", acl="node_device:detach"),
    Procedure(119, "NODE_DEVICE_RE_ATTACH", "name str", acl="node_device:detach"),
    Procedure(120, "NODE_DEVICE_RESET", "name str", acl="node_device:detach"),
    Procedure(
        122, "NODE_GET_SECURITY_MODEL", ret="model int[257], doi int[257]", traits=HIGH | READ, acl="connect:read"
    ),
    Procedure(
        123,
        "NODE_DEVICE_CREATE_XML",
        "xml_desc str, flags uint",
        ret="dev node_device",
        acl="node_device:write node_device:start",
    ),
    Procedure(124, "NODE_DEVICE_DESTROY", "name str", traits=HIGH, acl="node_device:stop"),
    Procedure(141, "SECRET_LOOKUP_BY_UUID", "uuid uuid", ret="secret secret", traits=HIGH | READ, acl="secret:getattr"),
    Procedure(
        142,
        "SECRET_DEFINE_XML",
        "xml str, flags uint",
        ret="secret secret",
        traits=HIGH,
        acl="secret:write secret:save",
    ),
    Procedure(
        143, "SECRET_GET_XML_DESC", "secret secret, flags uint", ret="xml str", traits=HIGH | READ, acl="secret:read"
    ),
    Procedure(
        144, "SECRET_SET_VALUE", "secret secret, value bytes[65536], flags uint", traits=HIGH, acl="secret:write"
    ),
    Procedure(
        145,
        "SECRET_GET_VALUE",
        "secret secret, flags uint",
        ret="value bytes[65536]",
        traits=HIGH,
        acl="secret:read_secure",
    ),
    Procedure(146, "SECRET_UNDEFINE", "secret secret", traits=HIGH, acl="secret:delete"),
    Procedure(
        147,
        "SECRET_LOOKUP_BY_USAGE",
        "usage_type int, usage_id str",
        ret="secret secret",
        traits=HIGH | READ,
        acl="secret:getattr",
    ),
    Procedure(
        227,
        "NODE_GET_CPU_STATS",
        "cpu_num int, nparams int, flags uint",
        ret="params node_stat[16], nparams int",
        traits=HIGH | READ,
        acl="connect:read",
    ),
    Procedure(
        228,
        "NODE_GET_MEMORY_STATS",
        "nparams int, cell_num int, flags uint",
        ret="params node_stat[16], nparams int",
        traits=HIGH | READ,
        acl="connect:read",
    ),
    Procedure(250, "NODE_SUSPEND_FOR_DURATION", "target uint, duration ulong, flags uint", acl="connect:pm_control"),
    Procedure(288, "NODE_SET_MEMORY_PARAMETERS", "params typed_param[64], flags uint", acl="connect:write"),
    Procedure(
        289,
        "NODE_GET_MEMORY_PARAMETERS",
        "nparams int, flags uint",
        ret="params typed_param[64], nparams int",
        traits=READ,
        acl="connect:read",
    ),
    Procedure(
        293,
        "NODE_GET_CPU_MAP",
        "need_map int, need_online int, flags uint",
        ret="cpumap bytes[2048], online uint, ret int",
        traits=READ,
        acl="connect:read",
    ),
    Procedure(
        297,
        "NODE_DEVICE_LOOKUP_SCSI_HOST_BY_WWN",
        "wwnn str, wwpn str, flags uint",
        ret="dev node_device",
        traits=HIGH | READ,
        acl="node_device:getattr",
    ),
    Procedure(301, "NODE_DEVICE_DETACH_FLAGS", "name str, driver_name str?, flags uint", acl="node_device:detach"),
    Procedure(
        340,
        "NODE_GET_FREE_PAGES",
        "pages uint[1024], start_cell int, cell_count uint, flags uint",
        ret="counts ulong[1024]",
        traits=HIGH | READ,
        acl="connect:read",
    ),
    Procedure(
        347,
        "NODE_ALLOC_PAGES",
        "page_sizes uint[1024], page_counts ulong[1024], start_cell int, cell_count uint, flags uint",
        ret="ret int",
        acl="connect:write",
    ),
    Procedure(
        395,
        "NODE_GET_SEV_INFO",
        "nparams int, flags uint",
        ret="params typed_param[64], nparams int",
        traits=READ,
        acl="connect:read",
    ),
    Procedure(
        428, "NODE_DEVICE_DEFINE_XML", "xml_desc str, flags uint", ret="dev node_device", acl="node_device:write"
    ),
    Procedure(429, "NODE_DEVICE_UNDEFINE", "name str, flags uint", traits=HIGH, acl="node_device:delete"),
    Procedure(430, "NODE_DEVICE_CREATE", "name str, flags uint", traits=HIGH, acl="node_device:start"),
    Procedure(
        433, "NODE_DEVICE_GET_AUTOSTART", "name str", ret="autostart int", traits=HIGH | READ, acl="node_device:read"
    ),
    Procedure(434, "NODE_DEVICE_SET_AUTOSTART", "name str, autostart int", traits=HIGH, acl="node_device:write"),
    Procedure(
        435, "NODE_DEVICE_IS_PERSISTENT", "name str", ret="persistent int", traits=HIGH | READ, acl="node_device:read"
    ),
    Procedure(436, "NODE_DEVICE_IS_ACTIVE", "name str", ret="active int", traits=HIGH | READ, acl="node_device:read"),
)
