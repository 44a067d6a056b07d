"""Work that takes its time: migration, saving, snapshots, checkpoints, block jobs: rows of the procedure table."""

from __future__ import annotations

from typing import Final

from pyhyve.rpc.procedure import HIGH, READ, UPLOAD, Procedure

PROCEDURES: Final = (
    Procedure(53, "DOMAIN_CORE_DUMP", "dom domain, to str, flags uint", acl="domain:core_dump"),
    Procedure(54, "DOMAIN_RESTORE", "from str", acl="domain:start domain:write"),
    Procedure(55, "DOMAIN_SAVE", "dom domain, to str", acl="domain:hibernate"),
    Procedure(
        61,
        "DOMAIN_MIGRATE_PREPARE",
        "uri_in str?, flags ulong, dname str?, resource ulong",
        ret="cookie bytes[4194304], uri_out str?",
        acl="domain:migrate domain:start domain:write",
    ),
    Procedure(
        62,
        "DOMAIN_MIGRATE_PERFORM",
        "dom domain, cookie bytes[4194304], uri str, flags ulong, dname str?, resource ulong",
        acl="domain:migrate",
    ),
    Procedure(
        63,
        "DOMAIN_MIGRATE_FINISH",
        "dname str, cookie bytes[4194304], uri str, flags ulong",
        ret="ddom domain",
        acl="domain:migrate",
    ),
    Procedure(
        64,
        "DOMAIN_BLOCK_STATS",
        "dom domain, path str",
        ret="rd_req long, rd_bytes long, wr_req long, wr_bytes long, errs long",
        traits=READ,
        acl="domain:read",
    ),
    Procedure(
        103,
        "DOMAIN_BLOCK_PEEK",
        "dom domain, path str, offset ulong, size uint, flags uint",
        ret="buffer bytes[4194304]",
        acl="domain:block_read",
    ),
    Procedure(
        108,
        "DOMAIN_MIGRATE_PREPARE2",
        "uri_in str?, flags ulong, dname str?, resource ulong, dom_xml str",
        ret="cookie bytes[4194304], uri_out str?",
        acl="domain:migrate domain:start domain:write",
    ),
    Procedure(
        109,
        "DOMAIN_MIGRATE_FINISH2",
        "dname str, cookie bytes[4194304], uri str, flags ulong, retcode int",
        ret="ddom domain",
        acl="domain:migrate",
    ),
    Procedure(
        148,
        "DOMAIN_MIGRATE_PREPARE_TUNNEL",
        "flags ulong, dname str?, resource ulong, dom_xml str",
        traits=UPLOAD,
        acl="domain:migrate domain:start domain:write",
    ),
    Procedure(
        163,
        "DOMAIN_GET_JOB_INFO",
        "dom domain",
        ret=(
            "type int, time_elapsed ulong, time_remaining ulong, data_total ulong, data_processed ulong, "
            "data_remaining ulong, mem_total ulong, mem_processed ulong, mem_remaining ulong, file_total ulong, "
            "file_processed ulong, file_remaining ulong"
        ),
        traits=READ,
        acl="domain:read",
    ),
    Procedure(164, "DOMAIN_ABORT_JOB", "dom domain", acl="domain:write"),
    Procedure(166, "DOMAIN_MIGRATE_SET_MAX_DOWNTIME", "dom domain, downtime ulong, flags uint", acl="domain:migrate"),
    Procedure(182, "DOMAIN_MANAGED_SAVE", "dom domain, flags uint", acl="domain:hibernate"),
    Procedure(
        183, "DOMAIN_HAS_MANAGED_SAVE_IMAGE", "dom domain, flags uint", ret="result int", traits=READ, acl="domain:read"
    ),
    Procedure(184, "DOMAIN_MANAGED_SAVE_REMOVE", "dom domain, flags uint", acl="domain:hibernate"),
    Procedure(
        185,
        "DOMAIN_SNAPSHOT_CREATE_XML",
        "dom domain, xml_desc str, flags uint",
        ret="snap domain_snapshot",
        acl="domain:snapshot",
    ),
    Procedure(
        186,
        "DOMAIN_SNAPSHOT_GET_XML_DESC",
        "snap domain_snapshot, flags uint",
        ret="xml str",
        traits=HIGH,
        acl="domain:read",
    ),
    Procedure(
        187, "DOMAIN_SNAPSHOT_NUM", "dom domain, flags uint", ret="num int", traits=HIGH | READ, acl="domain:read"
    ),
    Procedure(
        188,
        "DOMAIN_SNAPSHOT_LIST_NAMES",
        "dom domain, maxnames int, flags uint",
        ret="names str[16384]",
        traits=HIGH | READ,
        acl="domain:read",
    ),
    Procedure(
        189,
        "DOMAIN_SNAPSHOT_LOOKUP_BY_NAME",
        "dom domain, name str, flags uint",
        ret="snap domain_snapshot",
        traits=HIGH | READ,
        acl="domain:read",
    ),
    Procedure(
        190, "DOMAIN_HAS_CURRENT_SNAPSHOT", "dom domain, flags uint", ret="result int", traits=READ, acl="domain:read"
    ),
    Procedure(
        191,
        "DOMAIN_SNAPSHOT_CURRENT",
        "dom domain, flags uint",
        ret="snap domain_snapshot",
        traits=READ,
        acl="domain:read",
    ),
    Procedure(192, "DOMAIN_REVERT_TO_SNAPSHOT", "snap domain_snapshot, flags uint", acl="domain:snapshot"),
    Procedure(193, "DOMAIN_SNAPSHOT_DELETE", "snap domain_snapshot, flags uint", acl="domain:snapshot"),
    Procedure(207, "DOMAIN_MIGRATE_SET_MAX_SPEED", "dom domain, bandwidth ulong, flags uint", acl="domain:migrate"),
    Procedure(
        213,
        "DOMAIN_MIGRATE_BEGIN3",
        "dom domain, xmlin str?, flags ulong, dname str?, resource ulong",
        ret="cookie_out bytes[4194304], xml str",
        acl="domain:migrate",
    ),
    Procedure(
        214,
        "DOMAIN_MIGRATE_PREPARE3",
        "cookie_in bytes[4194304], uri_in str?, flags ulong, dname str?, resource ulong, dom_xml str",
        ret="cookie_out bytes[4194304], uri_out str?",
        acl="domain:migrate domain:start domain:write",
    ),
    Procedure(
        215,
        "DOMAIN_MIGRATE_PREPARE_TUNNEL3",
        "cookie_in bytes[4194304], flags ulong, dname str?, resource ulong, dom_xml str",
        ret="cookie_out bytes[4194304]",
        traits=UPLOAD,
        acl="domain:migrate domain:start domain:write",
    ),
    Procedure(
        216,
        "DOMAIN_MIGRATE_PERFORM3",
        (
            "dom domain, xmlin str?, cookie_in bytes[4194304], dconnuri str?, uri str?, flags ulong, dname str?, "
            "resource ulong"
        ),
        ret="cookie_out bytes[4194304]",
        acl="domain:migrate",
    ),
    Procedure(
        217,
        "DOMAIN_MIGRATE_FINISH3",
        "dname str, cookie_in bytes[4194304], dconnuri str?, uri str?, flags ulong, cancelled int",
        ret="dom domain, cookie_out bytes[4194304]",
        acl="domain:migrate",
    ),
    Procedure(
        218,
        "DOMAIN_MIGRATE_CONFIRM3",
        "dom domain, cookie_in bytes[4194304], flags ulong, cancelled int",
        acl="domain:migrate",
    ),
    Procedure(232, "DOMAIN_SAVE_FLAGS", "dom domain, to str, dxml str?, flags uint", acl="domain:hibernate"),
    Procedure(233, "DOMAIN_RESTORE_FLAGS", "from str, dxml str?, flags uint", acl="domain:start domain:write"),
    Procedure(
        235, "DOMAIN_SAVE_IMAGE_GET_XML_DESC", "file str, flags uint", ret="xml str", traits=HIGH, acl="domain:write"
    ),
    Procedure(
        236,
        "DOMAIN_SAVE_IMAGE_DEFINE_XML",
        "file str, dxml str, flags uint",
        traits=HIGH,
        acl="domain:write domain:hibernate",
    ),
    Procedure(237, "DOMAIN_BLOCK_JOB_ABORT", "dom domain, path str, flags uint", acl="domain:write"),
    Procedure(
        239, "DOMAIN_BLOCK_JOB_SET_SPEED", "dom domain, path str, bandwidth ulong, flags uint", acl="domain:write"
    ),
    Procedure(240, "DOMAIN_BLOCK_PULL", "dom domain, path str, bandwidth ulong, flags uint", acl="domain:block_write"),
    Procedure(
        242, "DOMAIN_MIGRATE_GET_MAX_SPEED", "dom domain, flags uint", ret="bandwidth ulong", acl="domain:migrate"
    ),
    Procedure(
        243,
        "DOMAIN_BLOCK_STATS_FLAGS",
        "dom domain, path str, nparams int, flags uint",
        ret="params typed_param[16], nparams int",
        traits=READ,
        acl="domain:read",
    ),
    Procedure(
        244,
        "DOMAIN_SNAPSHOT_GET_PARENT",
        "snap domain_snapshot, flags uint",
        ret="snap domain_snapshot",
        traits=HIGH | READ,
        acl="domain:read",
    ),
    Procedure(
        246,
        "DOMAIN_SNAPSHOT_NUM_CHILDREN",
        "snap domain_snapshot, flags uint",
        ret="num int",
        traits=HIGH | READ,
        acl="domain:read",
    ),
    Procedure(
        247,
        "DOMAIN_SNAPSHOT_LIST_CHILDREN_NAMES",
        "snap domain_snapshot, maxnames int, flags uint",
        ret="names str[16384]",
        traits=HIGH | READ,
        acl="domain:read",
    ),
    Procedure(251, "DOMAIN_BLOCK_RESIZE", "dom domain, disk str, size ulong, flags uint", acl="domain:block_write"),
    Procedure(
        266,
        "DOMAIN_BLOCK_REBASE",
        "dom domain, path str, base str?, bandwidth ulong, flags uint",
        acl="domain:block_write",
    ),
    Procedure(
        271,
        "DOMAIN_SNAPSHOT_IS_CURRENT",
        "snap domain_snapshot, flags uint",
        ret="current int",
        traits=READ,
        acl="domain:read",
    ),
    Procedure(
        272,
        "DOMAIN_SNAPSHOT_HAS_METADATA",
        "snap domain_snapshot, flags uint",
        ret="metadata int",
        traits=READ,
        acl="domain:read",
    ),
    Procedure(
        274,
        "DOMAIN_LIST_ALL_SNAPSHOTS",
        "dom domain, need_results int, flags uint",
        ret="snapshots domain_snapshot[16384], ret int",
        traits=HIGH | READ,
        acl="domain:read",
    ),
    Procedure(
        275,
        "DOMAIN_SNAPSHOT_LIST_ALL_CHILDREN",
        "snapshot domain_snapshot, need_results int, flags uint",
        ret="snapshots domain_snapshot[16384], ret int",
        traits=HIGH | READ,
        acl="domain:read",
    ),
    Procedure(
        290,
        "DOMAIN_BLOCK_COMMIT",
        "dom domain, disk str, base str?, top str?, bandwidth ulong, flags uint",
        acl="domain:block_write",
    ),
    Procedure(294, "DOMAIN_FSTRIM", "dom domain, mount_point str?, minimum ulong, flags uint", acl="domain:fs_trim"),
    Procedure(
        298,
        "DOMAIN_GET_JOB_STATS",
        "dom domain, flags uint",
        ret="type int, params typed_param[64]",
        traits=READ,
        acl="domain:read",
    ),
    Procedure(
        299,
        "DOMAIN_MIGRATE_GET_COMPRESSION_CACHE",
        "dom domain, flags uint",
        ret="cache_size ulong",
        acl="domain:migrate",
    ),
    Procedure(
        300, "DOMAIN_MIGRATE_SET_COMPRESSION_CACHE", "dom domain, cache_size ulong, flags uint", acl="domain:migrate"
    ),
    Procedure(
        302,
        "DOMAIN_MIGRATE_BEGIN3_PARAMS",
        "dom domain, params typed_param[64], flags uint",
        ret="cookie_out bytes[4194304], xml str",
        acl="domain:migrate",
    ),
    Procedure(
        303,
        "DOMAIN_MIGRATE_PREPARE3_PARAMS",
        "params typed_param[64], cookie_in bytes[4194304], flags uint",
        ret="cookie_out bytes[4194304], uri_out str?",
        acl="domain:migrate domain:start domain:write",
    ),
    Procedure(
        304,
        "DOMAIN_MIGRATE_PREPARE_TUNNEL3_PARAMS",
        "params typed_param[64], cookie_in bytes[4194304], flags uint",
        ret="cookie_out bytes[4194304]",
        traits=UPLOAD,
        acl="domain:migrate domain:start domain:write",
    ),
    Procedure(
        305,
        "DOMAIN_MIGRATE_PERFORM3_PARAMS",
        "dom domain, dconnuri str?, params typed_param[64], cookie_in bytes[4194304], flags uint",
        ret="cookie_out bytes[4194304]",
        acl="domain:migrate",
    ),
    Procedure(
        306,
        "DOMAIN_MIGRATE_FINISH3_PARAMS",
        "params typed_param[64], cookie_in bytes[4194304], flags uint, cancelled int",
        ret="dom domain, cookie_out bytes[4194304]",
        acl="domain:migrate",
    ),
    Procedure(
        307,
        "DOMAIN_MIGRATE_CONFIRM3_PARAMS",
        "dom domain, params typed_param[64], cookie_in bytes[4194304], flags uint, cancelled int",
        acl="domain:migrate",
    ),
    Procedure(
        334, "DOMAIN_CORE_DUMP_WITH_FORMAT", "dom domain, to str, dumpformat uint, flags uint", acl="domain:core_dump"
    ),
    Procedure(
        335,
        "DOMAIN_FSFREEZE",
        "dom domain, mountpoints str[256], flags uint",
        ret="filesystems int",
        acl="domain:fs_freeze",
    ),
    Procedure(
        336,
        "DOMAIN_FSTHAW",
        "dom domain, mountpoints str[256], flags uint",
        ret="filesystems int",
        acl="domain:fs_freeze",
    ),
    Procedure(
        345,
        "DOMAIN_BLOCK_COPY",
        "dom domain, path str, destxml str, params typed_param[16], flags uint",
        acl="domain:block_write",
    ),
    Procedure(364, "DOMAIN_MIGRATE_START_POST_COPY", "dom domain, flags uint", acl="domain:migrate"),
    Procedure(
        387, "DOMAIN_MIGRATE_GET_MAX_DOWNTIME", "dom domain, flags uint", ret="downtime ulong", acl="domain:migrate"
    ),
    Procedure(388, "DOMAIN_MANAGED_SAVE_GET_XML_DESC", "dom domain, flags uint", ret="xml str", acl="domain:read"),
    Procedure(
        389, "DOMAIN_MANAGED_SAVE_DEFINE_XML", "dom domain, dxml str?, flags uint", acl="domain:write domain:hibernate"
    ),
    Procedure(
        411,
        "DOMAIN_CHECKPOINT_CREATE_XML",
        "dom domain, xml_desc str, flags uint",
        ret="checkpoint domain_checkpoint",
        acl="domain:checkpoint",
    ),
    Procedure(
        412,
        "DOMAIN_CHECKPOINT_GET_XML_DESC",
        "checkpoint domain_checkpoint, flags uint",
        ret="xml str",
        acl="domain:read",
    ),
    Procedure(
        413,
        "DOMAIN_LIST_ALL_CHECKPOINTS",
        "dom domain, need_results int, flags uint",
        ret="checkpoints domain_checkpoint[16384], ret int",
        traits=HIGH | READ,
        acl="domain:read",
    ),
    Procedure(
        414,
        "DOMAIN_CHECKPOINT_LIST_ALL_CHILDREN",
        "checkpoint domain_checkpoint, need_results int, flags uint",
        ret="checkpoints domain_checkpoint[16384], ret int",
        traits=HIGH | READ,
        acl="domain:read",
    ),
    Procedure(
        415,
        "DOMAIN_CHECKPOINT_LOOKUP_BY_NAME",
        "dom domain, name str, flags uint",
        ret="checkpoint domain_checkpoint",
        traits=HIGH | READ,
        acl="domain:read",
    ),
    Procedure(
        416,
        "DOMAIN_CHECKPOINT_GET_PARENT",
        "checkpoint domain_checkpoint, flags uint",
        ret="parent domain_checkpoint",
        traits=HIGH | READ,
        acl="domain:read",
    ),
    Procedure(417, "DOMAIN_CHECKPOINT_DELETE", "checkpoint domain_checkpoint, flags uint", acl="domain:checkpoint"),
    Procedure(
        421,
        "DOMAIN_BACKUP_BEGIN",
        "dom domain, backup_xml str, checkpoint_xml str?, flags uint",
        acl="domain:checkpoint domain:block_write",
    ),
    Procedure(
        422,
        "DOMAIN_BACKUP_GET_XML_DESC",
        "dom domain, flags uint",
        ret="xml str",
        traits=HIGH | READ,
        acl="domain:read",
    ),
    Procedure(440, "DOMAIN_SAVE_PARAMS", "dom domain, params typed_param[64], flags uint", acl="domain:hibernate"),
    Procedure(441, "DOMAIN_RESTORE_PARAMS", "params typed_param[64], flags uint", acl="domain:start domain:write"),
    Procedure(442, "DOMAIN_ABORT_JOB_FLAGS", "dom domain, flags uint", acl="domain:write"),
)
