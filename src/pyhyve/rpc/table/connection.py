"""Connections, authentication and what a connection lists: rows of the procedure table."""

from __future__ import annotations

from typing import Final

from pyhyve.rpc.procedure import HIGH, READ, Procedure

PROCEDURES: Final = (
    Procedure(1, "CONNECT_OPEN", "name str?, flags uint", traits=HIGH | READ, acl="connect:getattr"),
    Procedure(2, "CONNECT_CLOSE", traits=HIGH | READ),
    Procedure(3, "CONNECT_GET_TYPE", ret="type str", traits=HIGH | READ, acl="connect:getattr"),
    Procedure(4, "CONNECT_GET_VERSION", ret="hv_ver ulong", traits=HIGH | READ, acl="connect:getattr"),
    Procedure(5, "CONNECT_GET_MAX_VCPUS", "type str?", ret="max_vcpus int", traits=HIGH | READ, acl="connect:read"),
    Procedure(7, "CONNECT_GET_CAPABILITIES", ret="capabilities str", traits=READ, acl="connect:read"),
    Procedure(
        21,
        "CONNECT_LIST_DEFINED_DOMAINS",
        "maxnames int",
        ret="names str[16384]",
        traits=HIGH | READ,
        acl="connect:search_domains",
    ),
    Procedure(25, "CONNECT_NUM_OF_DEFINED_DOMAINS", ret="num int", traits=HIGH | READ, acl="connect:search_domains"),
    Procedure(
        36,
        "CONNECT_LIST_DEFINED_NETWORKS",
        "maxnames int",
        ret="names str[16384]",
        traits=HIGH | READ,
        acl="connect:search_networks",
    ),
    Procedure(
        37, "CONNECT_LIST_DOMAINS", "maxids int", ret="ids int[16384]", traits=HIGH | READ, acl="connect:search_domains"
    ),
    Procedure(
        38,
        "CONNECT_LIST_NETWORKS",
        "maxnames int",
        ret="names str[16384]",
        traits=HIGH | READ,
        acl="connect:search_networks",
    ),
    Procedure(50, "CONNECT_NUM_OF_DEFINED_NETWORKS", ret="num int", traits=HIGH | READ, acl="connect:search_networks"),
    Procedure(51, "CONNECT_NUM_OF_DOMAINS", ret="num int", traits=HIGH | READ, acl="connect:search_domains"),
    Procedure(52, "CONNECT_NUM_OF_NETWORKS", ret="num int", traits=HIGH | READ, acl="connect:search_networks"),
    Procedure(59, "CONNECT_GET_HOSTNAME", ret="hostname str", traits=HIGH | READ, acl="connect:getattr"),
    Procedure(
        60, "CONNECT_SUPPORTS_FEATURE", "feature int", ret="supported int", traits=HIGH | READ, acl="connect:getattr"
    ),
    Procedure(66, "AUTH_LIST", ret="types int[20]", traits=HIGH | READ),
    Procedure(67, "AUTH_SASL_INIT", ret="mechlist str", traits=HIGH | READ),
    Procedure(
        68,
        "AUTH_SASL_START",
        "mech str, nil int, data int[65536]",
        ret="complete int, nil int, data int[65536]",
        traits=HIGH | READ,
    ),
    Procedure(
        69,
        "AUTH_SASL_STEP",
        "nil int, data int[65536]",
        ret="complete int, nil int, data int[65536]",
        traits=HIGH | READ,
    ),
    Procedure(70, "AUTH_POLKIT", ret="complete int", traits=HIGH | READ),
    Procedure(
        71, "CONNECT_NUM_OF_STORAGE_POOLS", ret="num int", traits=HIGH | READ, acl="connect:search_storage_pools"
    ),
    Procedure(
        72,
        "CONNECT_LIST_STORAGE_POOLS",
        "maxnames int",
        ret="names str[16384]",
        traits=HIGH | READ,
        acl="connect:search_storage_pools",
    ),
    Procedure(
        73,
        "CONNECT_NUM_OF_DEFINED_STORAGE_POOLS",
        ret="num int",
        traits=HIGH | READ,
        acl="connect:search_storage_pools",
    ),
    Procedure(
        74,
        "CONNECT_LIST_DEFINED_STORAGE_POOLS",
        "maxnames int",
        ret="names str[16384]",
        traits=HIGH | READ,
        acl="connect:search_storage_pools",
    ),
    Procedure(
        75,
        "CONNECT_FIND_STORAGE_POOL_SOURCES",
        "type str, src_spec str?, flags uint",
        ret="xml str",
        acl="connect:detect_storage_pools",
    ),
    Procedure(
        105, "CONNECT_DOMAIN_EVENT_REGISTER", ret="cb_registered int", traits=HIGH | READ, acl="connect:search_domains"
    ),
    Procedure(106, "CONNECT_DOMAIN_EVENT_DEREGISTER", ret="cb_registered int", traits=HIGH | READ, acl="connect:read"),
    Procedure(110, "CONNECT_GET_URI", ret="uri str", traits=HIGH | READ, acl="connect:getattr"),
    Procedure(126, "CONNECT_NUM_OF_INTERFACES", ret="num int", traits=HIGH | READ, acl="connect:search_interfaces"),
    Procedure(
        127,
        "CONNECT_LIST_INTERFACES",
        "maxnames int",
        ret="names str[16384]",
        traits=HIGH | READ,
        acl="connect:search_interfaces",
    ),
    Procedure(
        135,
        "CONNECT_DOMAIN_XML_FROM_NATIVE",
        "native_format str, native_config str, flags uint",
        ret="domain_xml str",
        acl="connect:write",
    ),
    Procedure(
        136,
        "CONNECT_DOMAIN_XML_TO_NATIVE",
        "native_format str, domain_xml str, flags uint",
        ret="native_config str",
        acl="connect:write",
    ),
    Procedure(
        137, "CONNECT_NUM_OF_DEFINED_INTERFACES", ret="num int", traits=HIGH | READ, acl="connect:search_interfaces"
    ),
    Procedure(
        138,
        "CONNECT_LIST_DEFINED_INTERFACES",
        "maxnames int",
        ret="names str[16384]",
        traits=HIGH | READ,
        acl="connect:search_interfaces",
    ),
    Procedure(139, "CONNECT_NUM_OF_SECRETS", ret="num int", traits=HIGH | READ, acl="connect:search_secrets"),
    Procedure(
        140,
        "CONNECT_LIST_SECRETS",
        "maxuuids int",
        ret="uuids str[16384]",
        traits=HIGH | READ,
        acl="connect:search_secrets",
    ),
    Procedure(149, "CONNECT_IS_SECURE", ret="secure int", traits=HIGH | READ),
    Procedure(157, "CONNECT_GET_LIB_VERSION", ret="lib_ver ulong", traits=HIGH | READ, acl="connect:getattr"),
    Procedure(
        158, "CONNECT_COMPARE_CPU", "xml str, flags uint", ret="result int", traits=HIGH | READ, acl="connect:read"
    ),
    Procedure(
        162, "CONNECT_BASELINE_CPU", "xml_cpus str[256], flags uint", ret="cpu str", traits=READ, acl="connect:read"
    ),
    Procedure(
        167, "CONNECT_DOMAIN_EVENT_REGISTER_ANY", "event_id int", traits=HIGH | READ, acl="connect:search_domains"
    ),
    Procedure(168, "CONNECT_DOMAIN_EVENT_DEREGISTER_ANY", "event_id int", traits=HIGH | READ, acl="connect:read"),
    Procedure(178, "CONNECT_NUM_OF_NWFILTERS", ret="num int", traits=HIGH | READ, acl="connect:search_nwfilters"),
    Procedure(
        179,
        "CONNECT_LIST_NWFILTERS",
        "maxnames int",
        ret="names str[16384]",
        traits=HIGH | READ,
        acl="connect:search_nwfilters",
    ),
    Procedure(203, "CONNECT_GET_SYSINFO", "flags uint", ret="sysinfo str", traits=HIGH | READ, acl="connect:read"),
    Procedure(
        273,
        "CONNECT_LIST_ALL_DOMAINS",
        "need_results int, flags uint",
        ret="domains domain[16384], ret uint",
        traits=HIGH | READ,
        acl="connect:search_domains",
    ),
    Procedure(
        281,
        "CONNECT_LIST_ALL_STORAGE_POOLS",
        "need_results int, flags uint",
        ret="pools storage_pool[16384], ret uint",
        traits=HIGH | READ,
        acl="connect:search_storage_pools",
    ),
    Procedure(
        283,
        "CONNECT_LIST_ALL_NETWORKS",
        "need_results int, flags uint",
        ret="nets network[16384], ret uint",
        traits=HIGH | READ,
        acl="connect:search_networks",
    ),
    Procedure(
        284,
        "CONNECT_LIST_ALL_INTERFACES",
        "need_results int, flags uint",
        ret="ifaces interface[16384], ret uint",
        traits=HIGH | READ,
        acl="connect:search_interfaces",
    ),
    Procedure(
        285,
        "CONNECT_LIST_ALL_NODE_DEVICES",
        "need_results int, flags uint",
        ret="devices node_device[65536], ret uint",
        traits=HIGH | READ,
        acl="connect:search_node_devices",
    ),
    Procedure(
        286,
        "CONNECT_LIST_ALL_NWFILTERS",
        "need_results int, flags uint",
        ret="filters nwfilter[16384], ret uint",
        traits=HIGH | READ,
        acl="connect:search_nwfilters",
    ),
    Procedure(
        287,
        "CONNECT_LIST_ALL_SECRETS",
        "need_results int, flags uint",
        ret="secrets secret[16384], ret uint",
        traits=HIGH | READ,
        acl="connect:search_secrets",
    ),
    Procedure(
        312,
        "CONNECT_GET_CPU_MODEL_NAMES",
        "arch str, need_results int, flags uint",
        ret="models str[8192], ret int",
        traits=READ,
        acl="connect:read",
    ),
    Procedure(
        313,
        "CONNECT_NETWORK_EVENT_REGISTER_ANY",
        "event_id int, net network?",
        ret="callback_id int",
        traits=HIGH | READ,
        acl="connect:search_networks",
    ),
    Procedure(314, "CONNECT_NETWORK_EVENT_DEREGISTER_ANY", "callback_id int", traits=HIGH | READ, acl="connect:read"),
    Procedure(
        316,
        "CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY",
        "event_id int, dom domain?",
        ret="callback_id int",
        traits=HIGH | READ,
        acl="connect:search_domains",
    ),
    Procedure(
        317, "CONNECT_DOMAIN_EVENT_CALLBACK_DEREGISTER_ANY", "callback_id int", traits=HIGH | READ, acl="connect:read"
    ),
    Procedure(
        342,
        "CONNECT_GET_DOMAIN_CAPABILITIES",
        "emulatorbin str?, arch str?, machine str?, virttype str?, flags uint",
        ret="capabilities str",
        acl="connect:write",
    ),
    Procedure(
        344,
        "CONNECT_GET_ALL_DOMAIN_STATS",
        "doms domain[16384], stats uint, flags uint",
        ret="ret_stats stats_record[16384]",
        traits=READ,
        acl="connect:search_domains",
    ),
    Procedure(360, "CONNECT_REGISTER_CLOSE_CALLBACK", traits=HIGH | READ, acl="connect:getattr"),
    Procedure(361, "CONNECT_UNREGISTER_CLOSE_CALLBACK", traits=HIGH | READ, acl="connect:getattr"),
    Procedure(
        368,
        "CONNECT_STORAGE_POOL_EVENT_REGISTER_ANY",
        "event_id int, pool storage_pool?",
        ret="callback_id int",
        traits=HIGH | READ,
        acl="connect:search_storage_pools",
    ),
    Procedure(
        369, "CONNECT_STORAGE_POOL_EVENT_DEREGISTER_ANY", "callback_id int", traits=HIGH | READ, acl="connect:read"
    ),
    Procedure(
        374,
        "CONNECT_NODE_DEVICE_EVENT_REGISTER_ANY",
        "event_id int, dev node_device?",
        ret="callback_id int",
        traits=HIGH | READ,
        acl="connect:search_node_devices",
    ),
    Procedure(
        375, "CONNECT_NODE_DEVICE_EVENT_DEREGISTER_ANY", "callback_id int", traits=HIGH | READ, acl="connect:read"
    ),
    Procedure(
        380,
        "CONNECT_SECRET_EVENT_REGISTER_ANY",
        "event_id int, secret secret?",
        ret="callback_id int",
        traits=HIGH | READ,
        acl="connect:search_secrets",
    ),
    Procedure(381, "CONNECT_SECRET_EVENT_DEREGISTER_ANY", "callback_id int", traits=HIGH | READ, acl="connect:read"),
    Procedure(
        393,
        "CONNECT_COMPARE_HYPERVISOR_CPU",
        "emulator str?, arch str?, machine str?, virttype str?, xml_cpu str, flags uint",
        ret="result int",
        acl="connect:write",
    ),
    Procedure(
        394,
        "CONNECT_BASELINE_HYPERVISOR_CPU",
        "emulator str?, arch str?, machine str?, virttype str?, xml_cpus str[256], flags uint",
        ret="cpu str",
        acl="connect:write",
    ),
    Procedure(
        401,
        "CONNECT_LIST_ALL_NWFILTER_BINDINGS",
        "need_results int, flags uint",
        ret="bindings nwfilter_binding[16384], ret uint",
        traits=HIGH | READ,
        acl="connect:search_nwfilter_bindings",
    ),
    Procedure(
        403,
        "CONNECT_GET_STORAGE_POOL_CAPABILITIES",
        "flags uint",
        ret="capabilities str",
        traits=READ,
        acl="connect:read",
    ),
    Procedure(419, "CONNECT_SET_IDENTITY", "params typed_param[20], flags uint", acl="connect:write"),
)
