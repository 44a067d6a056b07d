"""Messages a daemon sends of itself: rows of the procedure table."""

from __future__ import annotations

from typing import Final

from pyhyve.rpc.procedure import EVENT, READ, Procedure

PROCEDURES: Final = (
    Procedure(107, "DOMAIN_EVENT_LIFECYCLE", "dom domain, event int, detail int", traits=EVENT | READ),
    Procedure(169, "DOMAIN_EVENT_REBOOT", "dom domain", traits=EVENT | READ),
    Procedure(170, "DOMAIN_EVENT_RTC_CHANGE", "dom domain, offset long", traits=EVENT | READ),
    Procedure(171, "DOMAIN_EVENT_WATCHDOG", "dom domain, action int", traits=EVENT | READ),
    Procedure(172, "DOMAIN_EVENT_IO_ERROR", "dom domain, src_path str, dev_alias str, action int", traits=EVENT | READ),
    Procedure(
        173,
        "DOMAIN_EVENT_GRAPHICS",
        (
            "dom domain, phase int, local graphics_address, remote graphics_address, auth_scheme str, "
            "subject graphics_identity[20]"
        ),
        traits=EVENT | READ,
    ),
    Procedure(
        195,
        "DOMAIN_EVENT_IO_ERROR_REASON",
        "dom domain, src_path str, dev_alias str, action int, reason str",
        traits=EVENT | READ,
    ),
    Procedure(224, "DOMAIN_EVENT_CONTROL_ERROR", "dom domain", traits=EVENT | READ),
    Procedure(241, "DOMAIN_EVENT_BLOCK_JOB", "dom domain, path str, type int, status int", traits=EVENT | READ),
    Procedure(
        248,
        "DOMAIN_EVENT_DISK_CHANGE",
        "dom domain, old_src_path str?, new_src_path str?, dev_alias str, reason int",
        traits=EVENT | READ,
    ),
    Procedure(268, "DOMAIN_EVENT_TRAY_CHANGE", "dom domain, dev_alias str, reason int", traits=EVENT | READ),
    Procedure(269, "DOMAIN_EVENT_PMWAKEUP", "dom domain", traits=EVENT | READ),
    Procedure(270, "DOMAIN_EVENT_PMSUSPEND", "dom domain", traits=EVENT | READ),
    Procedure(276, "DOMAIN_EVENT_BALLOON_CHANGE", "dom domain, actual ulong", traits=EVENT | READ),
    Procedure(292, "DOMAIN_EVENT_PMSUSPEND_DISK", "dom domain", traits=EVENT | READ),
    Procedure(311, "DOMAIN_EVENT_DEVICE_REMOVED", "dom domain, dev_alias str", traits=EVENT | READ),
    Procedure(
        315, "NETWORK_EVENT_LIFECYCLE", "callback_id int, net network, event int, detail int", traits=EVENT | READ
    ),
    Procedure(
        318,
        "DOMAIN_EVENT_CALLBACK_LIFECYCLE",
        "callback_id int, dom domain, event int, detail int",
        traits=EVENT | READ,
    ),
    Procedure(319, "DOMAIN_EVENT_CALLBACK_REBOOT", "callback_id int, dom domain", traits=EVENT | READ),
    Procedure(320, "DOMAIN_EVENT_CALLBACK_RTC_CHANGE", "callback_id int, dom domain, offset long", traits=EVENT | READ),
    Procedure(321, "DOMAIN_EVENT_CALLBACK_WATCHDOG", "callback_id int, dom domain, action int", traits=EVENT | READ),
    Procedure(
        322,
        "DOMAIN_EVENT_CALLBACK_IO_ERROR",
        "callback_id int, dom domain, src_path str, dev_alias str, action int",
        traits=EVENT | READ,
    ),
    Procedure(
        323,
        "DOMAIN_EVENT_CALLBACK_GRAPHICS",
        (
            "callback_id int, dom domain, phase int, local graphics_address, remote graphics_address, "
            "auth_scheme str, subject graphics_identity[20]"
        ),
        traits=EVENT | READ,
    ),
    Procedure(
        324,
        "DOMAIN_EVENT_CALLBACK_IO_ERROR_REASON",
        "callback_id int, dom domain, src_path str, dev_alias str, action int, reason str",
        traits=EVENT | READ,
    ),
    Procedure(325, "DOMAIN_EVENT_CALLBACK_CONTROL_ERROR", "callback_id int, dom domain", traits=EVENT | READ),
    Procedure(
        326,
        "DOMAIN_EVENT_CALLBACK_BLOCK_JOB",
        "callback_id int, dom domain, path str, type int, status int",
        traits=EVENT | READ,
    ),
    Procedure(
        327,
        "DOMAIN_EVENT_CALLBACK_DISK_CHANGE",
        "callback_id int, dom domain, old_src_path str?, new_src_path str?, dev_alias str, reason int",
        traits=EVENT | READ,
    ),
    Procedure(
        328,
        "DOMAIN_EVENT_CALLBACK_TRAY_CHANGE",
        "callback_id int, dom domain, dev_alias str, reason int",
        traits=EVENT | READ,
    ),
    Procedure(329, "DOMAIN_EVENT_CALLBACK_PMWAKEUP", "callback_id int, reason int, dom domain", traits=EVENT | READ),
    Procedure(330, "DOMAIN_EVENT_CALLBACK_PMSUSPEND", "callback_id int, reason int, dom domain", traits=EVENT | READ),
    Procedure(
        331, "DOMAIN_EVENT_CALLBACK_BALLOON_CHANGE", "callback_id int, dom domain, actual ulong", traits=EVENT | READ
    ),
    Procedure(
        332, "DOMAIN_EVENT_CALLBACK_PMSUSPEND_DISK", "callback_id int, reason int, dom domain", traits=EVENT | READ
    ),
    Procedure(
        333, "DOMAIN_EVENT_CALLBACK_DEVICE_REMOVED", "callback_id int, dom domain, dev_alias str", traits=EVENT | READ
    ),
    Procedure(
        339,
        "DOMAIN_EVENT_BLOCK_JOB_2",
        "callback_id int, dom domain, dst str, type int, status int",
        traits=EVENT | READ,
    ),
    Procedure(
        346,
        "DOMAIN_EVENT_CALLBACK_TUNABLE",
        "callback_id int, dom domain, params typed_param[2048]",
        traits=EVENT | READ,
    ),
    Procedure(
        348,
        "DOMAIN_EVENT_CALLBACK_AGENT_LIFECYCLE",
        "callback_id int, dom domain, state int, reason int",
        traits=EVENT | READ,
    ),
    Procedure(
        354, "DOMAIN_EVENT_CALLBACK_DEVICE_ADDED", "callback_id int, dom domain, dev_alias str", traits=EVENT | READ
    ),
    Procedure(
        359,
        "DOMAIN_EVENT_CALLBACK_MIGRATION_ITERATION",
        "callback_id int, dom domain, iteration int",
        traits=EVENT | READ,
    ),
    Procedure(362, "CONNECT_EVENT_CONNECTION_CLOSED", "reason int", traits=EVENT | READ),
    Procedure(
        363,
        "DOMAIN_EVENT_CALLBACK_JOB_COMPLETED",
        "callback_id int, dom domain, params typed_param[64]",
        traits=EVENT | READ,
    ),
    Procedure(
        367,
        "DOMAIN_EVENT_CALLBACK_DEVICE_REMOVAL_FAILED",
        "callback_id int, dom domain, dev_alias str",
        traits=EVENT | READ,
    ),
    Procedure(
        370,
        "STORAGE_POOL_EVENT_LIFECYCLE",
        "callback_id int, pool storage_pool, event int, detail int",
        traits=EVENT | READ,
    ),
    Procedure(373, "STORAGE_POOL_EVENT_REFRESH", "callback_id int, pool storage_pool", traits=EVENT | READ),
    Procedure(
        376,
        "NODE_DEVICE_EVENT_LIFECYCLE",
        "callback_id int, dev node_device, event int, detail int",
        traits=EVENT | READ,
    ),
    Procedure(377, "NODE_DEVICE_EVENT_UPDATE", "callback_id int, dev node_device", traits=EVENT | READ),
    Procedure(
        379,
        "DOMAIN_EVENT_CALLBACK_METADATA_CHANGE",
        "callback_id int, dom domain, type int, nsuri str?",
        traits=EVENT | READ,
    ),
    Procedure(
        382, "SECRET_EVENT_LIFECYCLE", "callback_id int, secret secret, event int, detail int", traits=EVENT | READ
    ),
    Procedure(383, "SECRET_EVENT_VALUE_CHANGED", "callback_id int, secret secret", traits=EVENT | READ),
    Procedure(
        385,
        "DOMAIN_EVENT_BLOCK_THRESHOLD",
        "callback_id int, dom domain, dev str, path str?, threshold ulong, excess ulong",
        traits=EVENT | READ,
    ),
    Procedure(
        423,
        "DOMAIN_EVENT_MEMORY_FAILURE",
        "callback_id int, dom domain, recipient int, action int, flags uint",
        traits=EVENT | READ,
    ),
    Procedure(
        438,
        "DOMAIN_EVENT_MEMORY_DEVICE_SIZE_CHANGE",
        "callback_id int, dom domain, alias str, size ulong",
        traits=EVENT | READ,
    ),
)
