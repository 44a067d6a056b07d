"""What is read and set of a domain: rows of the procedure table."""

from __future__ import annotations

from typing import Final

from pyhyve.rpc.procedure import HIGH, READ, Procedure

PROCEDURES: Final = (
    Procedure(14, "DOMAIN_GET_XML_DESC", "dom domain, flags uint", ret="xml str", acl="domain:read"),
    Procedure(15, "DOMAIN_GET_AUTOSTART", "dom domain", ret="autostart int", traits=HIGH | READ, acl="domain:read"),
    Procedure(
        16,
        "DOMAIN_GET_INFO",
        "dom domain",
        ret="state uint, max_mem ulong, memory ulong, nr_virt_cpu uint, cpu_time ulong",
        traits=READ,
        acl="domain:read",
    ),
    Procedure(17, "DOMAIN_GET_MAX_MEMORY", "dom domain", ret="memory ulong", traits=HIGH | READ, acl="domain:read"),
    Procedure(18, "DOMAIN_GET_MAX_VCPUS", "dom domain", ret="num int", traits=HIGH | READ, acl="domain:read"),
    Procedure(19, "DOMAIN_GET_OS_TYPE", "dom domain", ret="type str", traits=HIGH | READ, acl="domain:read"),
    Procedure(
        20,
        "DOMAIN_GET_VCPUS",
        "dom domain, maxinfo int, maplen int",
        ret="info vcpu_info[16384], cpumaps bytes[8388608]",
        traits=HIGH | READ,
        acl="domain:read",
    ),
    Procedure(26, "DOMAIN_PIN_VCPU", "dom domain, vcpu uint, cpumap bytes[2048]", acl="domain:write"),
    Procedure(29, "DOMAIN_SET_AUTOSTART", "dom domain, autostart int", traits=HIGH, acl="domain:write"),
    Procedure(30, "DOMAIN_SET_MAX_MEMORY", "dom domain, memory ulong", traits=HIGH, acl="domain:write"),
    Procedure(31, "DOMAIN_SET_MEMORY", "dom domain, memory ulong", acl="domain:write"),
    Procedure(32, "DOMAIN_SET_VCPUS", "dom domain, nvcpus uint", acl="domain:write"),
    Procedure(
        56, "DOMAIN_GET_SCHEDULER_TYPE", "dom domain", ret="type str, nparams int", traits=READ, acl="domain:read"
    ),
    Procedure(
        57,
        "DOMAIN_GET_SCHEDULER_PARAMETERS",
        "dom domain, nparams int",
        ret="params typed_param[16]",
        traits=READ,
        acl="domain:read",
    ),
    Procedure(
        58, "DOMAIN_SET_SCHEDULER_PARAMETERS", "dom domain, params typed_param[16]", traits=READ, acl="domain:read"
    ),
    Procedure(
        65,
        "DOMAIN_INTERFACE_STATS",
        "dom domain, device str",
        ret=(
            "rx_bytes long, rx_packets long, rx_errs long, rx_drop long, tx_bytes long, tx_packets long, "
            "tx_errs long, tx_drop long"
        ),
        traits=HIGH | READ,
        acl="domain:read",
    ),
    Procedure(
        121,
        "DOMAIN_GET_SECURITY_LABEL",
        "dom domain",
        ret="label int[4097], enforcing int",
        traits=HIGH | READ,
        acl="domain:read",
    ),
    Procedure(
        159,
        "DOMAIN_MEMORY_STATS",
        "dom domain, max_stats uint, flags uint",
        ret="stats memory_stat[1024]",
        traits=READ,
        acl="domain:read",
    ),
    Procedure(
        194,
        "DOMAIN_GET_BLOCK_INFO",
        "dom domain, path str, flags uint",
        ret="allocation ulong, capacity ulong, physical ulong",
        traits=READ,
        acl="domain:read",
    ),
    Procedure(
        197, "DOMAIN_SET_MEMORY_PARAMETERS", "dom domain, params typed_param[16], flags uint", acl="domain:write"
    ),
    Procedure(
        198,
        "DOMAIN_GET_MEMORY_PARAMETERS",
        "dom domain, nparams int, flags uint",
        ret="params typed_param[16], nparams int",
        traits=READ,
        acl="domain:read",
    ),
    Procedure(199, "DOMAIN_SET_VCPUS_FLAGS", "dom domain, nvcpus uint, flags uint", acl="domain:write"),
    Procedure(200, "DOMAIN_GET_VCPUS_FLAGS", "dom domain, flags uint", ret="num int", acl="domain:read"),
    Procedure(204, "DOMAIN_SET_MEMORY_FLAGS", "dom domain, memory ulong, flags uint", acl="domain:write"),
    Procedure(205, "DOMAIN_SET_BLKIO_PARAMETERS", "dom domain, params typed_param[16], flags uint", acl="domain:write"),
    Procedure(
        206,
        "DOMAIN_GET_BLKIO_PARAMETERS",
        "dom domain, nparams int, flags uint",
        ret="params typed_param[16], nparams int",
        traits=READ,
        acl="domain:read",
    ),
    Procedure(
        212,
        "DOMAIN_GET_STATE",
        "dom domain, flags uint",
        ret="state int, reason int",
        traits=HIGH | READ,
        acl="domain:read",
    ),
    Procedure(
        219,
        "DOMAIN_SET_SCHEDULER_PARAMETERS_FLAGS",
        "dom domain, params typed_param[16], flags uint",
        acl="domain:write",
    ),
    Procedure(
        223,
        "DOMAIN_GET_SCHEDULER_PARAMETERS_FLAGS",
        "dom domain, nparams int, flags uint",
        ret="params typed_param[16]",
        traits=READ,
        acl="domain:read",
    ),
    Procedure(
        225, "DOMAIN_PIN_VCPU_FLAGS", "dom domain, vcpu uint, cpumap bytes[2048], flags uint", acl="domain:write"
    ),
    Procedure(
        229,
        "DOMAIN_GET_CONTROL_INFO",
        "dom domain, flags uint",
        ret="state uint, details uint, state_time ulong",
        traits=HIGH | READ,
        acl="domain:read",
    ),
    Procedure(
        230,
        "DOMAIN_GET_VCPU_PIN_INFO",
        "dom domain, ncpumaps int, maplen int, flags uint",
        ret="cpumaps bytes[8388608], num int",
        traits=READ,
        acl="domain:read",
    ),
    Procedure(
        238,
        "DOMAIN_GET_BLOCK_JOB_INFO",
        "dom domain, path str, flags uint",
        ret="found int, type int, bandwidth ulong, cur ulong, end ulong",
        traits=READ,
        acl="domain:read",
    ),
    Procedure(
        252, "DOMAIN_SET_BLOCK_IO_TUNE", "dom domain, disk str, params typed_param[32], flags uint", acl="domain:write"
    ),
    Procedure(
        253,
        "DOMAIN_GET_BLOCK_IO_TUNE",
        "dom domain, disk str?, nparams int, flags uint",
        ret="params typed_param[32], nparams int",
        traits=READ,
        acl="domain:read",
    ),
    Procedure(254, "DOMAIN_SET_NUMA_PARAMETERS", "dom domain, params typed_param[16], flags uint", acl="domain:write"),
    Procedure(
        255,
        "DOMAIN_GET_NUMA_PARAMETERS",
        "dom domain, nparams int, flags uint",
        ret="params typed_param[16], nparams int",
        traits=READ,
        acl="domain:read",
    ),
    Procedure(
        256,
        "DOMAIN_SET_INTERFACE_PARAMETERS",
        "dom domain, device str, params typed_param[16], flags uint",
        acl="domain:write",
    ),
    Procedure(
        257,
        "DOMAIN_GET_INTERFACE_PARAMETERS",
        "dom domain, device str, nparams int, flags uint",
        ret="params typed_param[16], nparams int",
        traits=READ,
        acl="domain:read",
    ),
    Procedure(
        262,
        "DOMAIN_GET_CPU_STATS",
        "dom domain, nparams uint, start_cpu int, ncpus uint, flags uint",
        ret="params typed_param[2048], nparams int",
        traits=READ,
        acl="domain:read",
    ),
    Procedure(
        263,
        "DOMAIN_GET_DISK_ERRORS",
        "dom domain, maxerrors uint, flags uint",
        ret="errors disk_error[256], nerrors int",
        traits=READ,
        acl="domain:read",
    ),
    Procedure(
        264,
        "DOMAIN_SET_METADATA",
        "dom domain, type int, metadata str?, key str?, uri str?, flags uint",
        acl="domain:write",
    ),
    Procedure(
        265,
        "DOMAIN_GET_METADATA",
        "dom domain, type int, uri str?, flags uint",
        ret="metadata str",
        traits=READ,
        acl="domain:read",
    ),
    Procedure(277, "DOMAIN_GET_HOSTNAME", "dom domain, flags uint", ret="hostname str", acl="domain:write"),
    Procedure(
        278,
        "DOMAIN_GET_SECURITY_LABEL_LIST",
        "dom domain",
        ret="labels security_label[64], ret int",
        traits=HIGH | READ,
        acl="domain:read",
    ),
    Procedure(279, "DOMAIN_PIN_EMULATOR", "dom domain, cpumap bytes[2048], flags uint", acl="domain:write"),
    Procedure(
        280,
        "DOMAIN_GET_EMULATOR_PIN_INFO",
        "dom domain, maplen int, flags uint",
        ret="cpumaps bytes[8388608], ret int",
        traits=READ,
        acl="domain:read",
    ),
    Procedure(308, "DOMAIN_SET_MEMORY_STATS_PERIOD", "dom domain, period int, flags uint", acl="domain:write"),
    Procedure(337, "DOMAIN_GET_TIME", "dom domain, flags uint", ret="seconds long, nseconds uint", acl="domain:write"),
    Procedure(338, "DOMAIN_SET_TIME", "dom domain, seconds long, nseconds uint, flags uint", acl="domain:set_time"),
    Procedure(
        349, "DOMAIN_GET_FSINFO", "dom domain, flags uint", ret="info fsinfo[256], ret uint", acl="domain:fs_freeze"
    ),
    Procedure(
        351,
        "DOMAIN_GET_IOTHREAD_INFO",
        "dom domain, flags uint",
        ret="info iothread_info[16384], ret uint",
        traits=READ,
        acl="domain:read",
    ),
    Procedure(
        352, "DOMAIN_PIN_IOTHREAD", "dom domain, iothreads_id uint, cpumap bytes[2048], flags uint", acl="domain:write"
    ),
    Procedure(
        353,
        "DOMAIN_INTERFACE_ADDRESSES",
        "dom domain, source uint, flags uint",
        ret="ifaces domain_interface[2048]",
        acl="domain:read",
    ),
    Procedure(
        357, "DOMAIN_SET_USER_PASSWORD", "dom domain, user str?, password str?, flags uint", acl="domain:set_password"
    ),
    Procedure(
        365,
        "DOMAIN_GET_PERF_EVENTS",
        "dom domain, flags uint",
        ret="params typed_param[64]",
        traits=READ,
        acl="domain:read",
    ),
    Procedure(366, "DOMAIN_SET_PERF_EVENTS", "dom domain, params typed_param[64], flags uint", acl="domain:write"),
    Procedure(
        371, "DOMAIN_GET_GUEST_VCPUS", "dom domain, flags uint", ret="params typed_param[64]", acl="domain:write"
    ),
    Procedure(372, "DOMAIN_SET_GUEST_VCPUS", "dom domain, cpumap str, state int, flags uint", acl="domain:write"),
    Procedure(384, "DOMAIN_SET_VCPU", "dom domain, cpumap str, state int, flags uint", acl="domain:write"),
    Procedure(
        386, "DOMAIN_SET_BLOCK_THRESHOLD", "dom domain, dev str, threshold ulong, flags uint", acl="domain:write"
    ),
    Procedure(390, "DOMAIN_SET_LIFECYCLE_ACTION", "dom domain, type uint, action uint, flags uint", acl="domain:write"),
    Procedure(
        396,
        "DOMAIN_GET_LAUNCH_SECURITY_INFO",
        "dom domain, flags uint",
        ret="params typed_param[64]",
        traits=READ,
        acl="domain:read",
    ),
    Procedure(
        402,
        "DOMAIN_SET_IOTHREAD_PARAMS",
        "dom domain, iothread_id uint, params typed_param[64], flags uint",
        acl="domain:write",
    ),
    Procedure(
        418,
        "DOMAIN_GET_GUEST_INFO",
        "dom domain, types uint, flags uint",
        ret="params typed_param[2048]",
        acl="domain:write",
    ),
    Procedure(
        426, "DOMAIN_GET_MESSAGES", "dom domain, flags uint", ret="msgs str[2048]", traits=READ, acl="domain:read"
    ),
    Procedure(
        439, "DOMAIN_SET_LAUNCH_SECURITY_STATE", "dom domain, params typed_param[64], flags uint", acl="domain:write"
    ),
)
