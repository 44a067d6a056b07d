"""Virtual networks, host interfaces and network filters: rows of the procedure table."""

from __future__ import annotations

from typing import Final

from pyhyve.rpc.procedure import HIGH, READ, Procedure

PROCEDURES: Final = (
    Procedure(39, "NETWORK_CREATE", "net network", acl="network:start"),
    Procedure(40, "NETWORK_CREATE_XML", "xml str", ret="net network", acl="network:write network:start"),
    Procedure(41, "NETWORK_DEFINE_XML", "xml str", ret="net network", traits=HIGH, acl="network:write network:save"),
    Procedure(42, "NETWORK_DESTROY", "net network", traits=HIGH, acl="network:stop"),
    Procedure(
        43, "NETWORK_GET_XML_DESC", "net network, flags uint", ret="xml str", traits=HIGH | READ, acl="network:read"
    ),
    Procedure(44, "NETWORK_GET_AUTOSTART", "net network", ret="autostart int", traits=HIGH | READ, acl="network:read"),
    Procedure(45, "NETWORK_GET_BRIDGE_NAME", "net network", ret="name str", traits=HIGH | READ, acl="network:read"),
    Procedure(46, "NETWORK_LOOKUP_BY_NAME", "name str", ret="net network", traits=HIGH | READ, acl="network:getattr"),
    Procedure(47, "NETWORK_LOOKUP_BY_UUID", "uuid uuid", ret="net network", traits=HIGH | READ, acl="network:getattr"),
    Procedure(48, "NETWORK_SET_AUTOSTART", "net network, autostart int", traits=HIGH, acl="network:write"),
    Procedure(49, "NETWORK_UNDEFINE", "net network", traits=HIGH, acl="network:delete"),
    Procedure(
        128, "INTERFACE_LOOKUP_BY_NAME", "name str", ret="iface interface", traits=HIGH | READ, acl="interface:getattr"
    ),
    Procedure(
        129,
        "INTERFACE_LOOKUP_BY_MAC_STRING",
        "mac str",
        ret="iface interface",
        traits=HIGH | READ,
        acl="interface:getattr",
    ),
    Procedure(
        130, "INTERFACE_GET_XML_DESC", "iface interface, flags uint", ret="xml str", traits=READ, acl="interface:read"
    ),
    Procedure(
        131,
        "INTERFACE_DEFINE_XML",
        "xml str, flags uint",
        ret="iface interface",
        traits=HIGH,
        acl="interface:write interface:save",
    ),
    Procedure(132, "INTERFACE_UNDEFINE", "iface interface", traits=HIGH, acl="interface:delete"),
    Procedure(133, "INTERFACE_CREATE", "iface interface, flags uint", acl="interface:start"),
    Procedure(134, "INTERFACE_DESTROY", "iface interface, flags uint", traits=HIGH, acl="interface:stop"),
    Procedure(152, "NETWORK_IS_ACTIVE", "net network", ret="active int", traits=HIGH | READ, acl="network:read"),
    Procedure(
        153, "NETWORK_IS_PERSISTENT", "net network", ret="persistent int", traits=HIGH | READ, acl="network:read"
    ),
    Procedure(
        156, "INTERFACE_IS_ACTIVE", "iface interface", ret="active int", traits=HIGH | READ, acl="interface:read"
    ),
    Procedure(
        175, "NWFILTER_LOOKUP_BY_NAME", "name str", ret="nwfilter nwfilter", traits=HIGH | READ, acl="nwfilter:getattr"
    ),
    Procedure(
        176, "NWFILTER_LOOKUP_BY_UUID", "uuid uuid", ret="nwfilter nwfilter", traits=HIGH | READ, acl="nwfilter:getattr"
    ),
    Procedure(
        177,
        "NWFILTER_GET_XML_DESC",
        "nwfilter nwfilter, flags uint",
        ret="xml str",
        traits=HIGH | READ,
        acl="nwfilter:read",
    ),
    Procedure(
        180, "NWFILTER_DEFINE_XML", "xml str", ret="nwfilter nwfilter", traits=HIGH, acl="nwfilter:write nwfilter:save"
    ),
    Procedure(181, "NWFILTER_UNDEFINE", "nwfilter nwfilter", traits=HIGH, acl="nwfilter:delete"),
    Procedure(220, "INTERFACE_CHANGE_BEGIN", "flags uint", acl="connect:interface_transaction"),
    Procedure(221, "INTERFACE_CHANGE_COMMIT", "flags uint", acl="connect:interface_transaction"),
    Procedure(222, "INTERFACE_CHANGE_ROLLBACK", "flags uint", acl="connect:interface_transaction"),
    Procedure(
        291,
        "NETWORK_UPDATE",
        "net network, command uint, section uint, parent_index int, xml str, flags uint",
        traits=HIGH,
        acl="network:write",
    ),
    Procedure(
        341,
        "NETWORK_GET_DHCP_LEASES",
        "net network, mac str?, need_results int, flags uint",
        ret="leases dhcp_lease[65536], ret uint",
        traits=READ,
        acl="network:read",
    ),
    Procedure(
        397,
        "NWFILTER_BINDING_LOOKUP_BY_PORT_DEV",
        "name str",
        ret="nwfilter nwfilter_binding",
        traits=HIGH | READ,
        acl="nwfilter_binding:getattr",
    ),
    Procedure(
        398,
        "NWFILTER_BINDING_GET_XML_DESC",
        "nwfilter nwfilter_binding, flags uint",
        ret="xml str",
        traits=HIGH | READ,
        acl="nwfilter_binding:read",
    ),
    Procedure(
        399,
        "NWFILTER_BINDING_CREATE_XML",
        "xml str, flags uint",
        ret="nwfilter nwfilter_binding",
        traits=HIGH,
        acl="nwfilter_binding:create",
    ),
    Procedure(400, "NWFILTER_BINDING_DELETE", "nwfilter nwfilter_binding", traits=HIGH, acl="nwfilter_binding:delete"),
    Procedure(
        404,
        "NETWORK_LIST_ALL_PORTS",
        "network network, need_results int, flags uint",
        ret="ports network_port[16384], ret uint",
        traits=HIGH | READ,
        acl="network:search_ports",
    ),
    Procedure(
        405,
        "NETWORK_PORT_LOOKUP_BY_UUID",
        "network network, uuid uuid",
        ret="port network_port",
        traits=HIGH | READ,
        acl="network_port:getattr",
    ),
    Procedure(
        406,
        "NETWORK_PORT_CREATE_XML",
        "network network, xml str, flags uint",
        ret="port network_port",
        acl="network_port:create",
    ),
    Procedure(
        407,
        "NETWORK_PORT_GET_PARAMETERS",
        "port network_port, nparams int, flags uint",
        ret="params typed_param[16], nparams int",
        traits=READ,
        acl="network_port:read",
    ),
    Procedure(
        408,
        "NETWORK_PORT_SET_PARAMETERS",
        "port network_port, params typed_param[16], flags uint",
        acl="network_port:write",
    ),
    Procedure(
        409,
        "NETWORK_PORT_GET_XML_DESC",
        "port network_port, flags uint",
        ret="xml str",
        traits=READ,
        acl="network_port:read",
    ),
    Procedure(410, "NETWORK_PORT_DELETE", "port network_port, flags uint", acl="network_port:delete"),
    Procedure(
        431,
        "NWFILTER_DEFINE_XML_FLAGS",
        "xml str, flags uint",
        ret="nwfilter nwfilter",
        traits=HIGH,
        acl="nwfilter:write nwfilter:save",
    ),
    Procedure(
        432,
        "NETWORK_DEFINE_XML_FLAGS",
        "xml str, flags uint",
        ret="net network",
        traits=HIGH,
        acl="network:write network:save",
    ),
    Procedure(
        437,
        "NETWORK_CREATE_XML_FLAGS",
        "xml str, flags uint",
        ret="net network",
        traits=HIGH,
        acl="network:write network:start",
    ),
)
