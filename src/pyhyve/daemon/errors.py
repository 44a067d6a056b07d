"""The error a handler raises, worded as libvirt words it.

Clients print the message as it stands and branch on the code. Source of the wording: what libvirt 9.0's library answers
for each code (tests/conformance/daemon compares every one).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyhyve.rpc.errors import ErrorCode, ErrorDomain, ErrorMessage

if TYPE_CHECKING:
    from pyhyve.rpc.values import Domain

__all__ = ["LibvirtError", "api_name", "message_template"]

_AS_IT_STANDS: Final = "%s"
_TEMPLATES: Final = {
    ErrorCode.INTERNAL_ERROR: "internal error",
    ErrorCode.NO_MEMORY: "out of memory",
    ErrorCode.NO_SUPPORT: "this function is not supported by the connection driver",
    ErrorCode.UNKNOWN_HOST: "unknown host %s",
    ErrorCode.NO_CONNECT: "no connection driver available for %s",
    ErrorCode.INVALID_CONN: "invalid connection pointer in %s",
    ErrorCode.INVALID_DOMAIN: "invalid domain pointer in %s",
    ErrorCode.INVALID_ARG: "invalid argument",
    ErrorCode.OPERATION_FAILED: "operation failed",
    ErrorCode.OS_TYPE: "unknown OS type %s",
    ErrorCode.NO_KERNEL: "missing kernel information",
    ErrorCode.NO_ROOT: "missing root device information in %s",
    ErrorCode.NO_SOURCE: "missing source information for device %s",
    ErrorCode.NO_TARGET: "missing target information for device %s",
    ErrorCode.NO_NAME: "missing name information in %s",
    ErrorCode.NO_OS: "missing operating system information for %s",
    ErrorCode.NO_DEVICE: "missing devices information for %s",
    ErrorCode.CALL_FAILED: "library call failed",
    ErrorCode.XML_ERROR: "XML error: %s",
    ErrorCode.DOM_EXIST: "domain %s exists already",
    ErrorCode.OPERATION_DENIED: "operation forbidden: %s",
    ErrorCode.OPEN_FAILED: "failed to open configuration file %s",
    ErrorCode.READ_FAILED: "failed to read configuration file %s",
    ErrorCode.PARSE_FAILED: "failed to parse configuration file %s",
    ErrorCode.CONF_SYNTAX: "configuration file syntax error",
    ErrorCode.WRITE_FAILED: "failed to write configuration file",
    ErrorCode.XML_DETAIL: _AS_IT_STANDS,
    ErrorCode.INVALID_NETWORK: "invalid network pointer in %s",
    ErrorCode.NETWORK_EXIST: "network %s exists already",
    ErrorCode.SYSTEM_ERROR: _AS_IT_STANDS,
    ErrorCode.RPC: _AS_IT_STANDS,
    ErrorCode.GNUTLS_ERROR: _AS_IT_STANDS,
    ErrorCode.NO_DOMAIN: "Domain not found",
    ErrorCode.NO_NETWORK: "Network not found",
    ErrorCode.INVALID_MAC: "invalid MAC address",
    ErrorCode.AUTH_FAILED: "authentication failed",
    ErrorCode.INVALID_STORAGE_POOL: "invalid storage pool pointer in %s",
    ErrorCode.INVALID_STORAGE_VOL: "invalid storage volume pointer in %s",
    ErrorCode.NO_STORAGE_POOL: "Storage pool not found",
    ErrorCode.NO_STORAGE_VOL: "Storage volume not found",
    ErrorCode.INVALID_NODE_DEVICE: "invalid node device pointer in %s",
    ErrorCode.NO_NODE_DEVICE: "Node device not found",
    ErrorCode.NO_SECURITY_MODEL: "Security model not found",
    ErrorCode.OPERATION_INVALID: "Requested operation is not valid",
    ErrorCode.NO_INTERFACE: "Interface not found",
    ErrorCode.INVALID_INTERFACE: "invalid interface pointer in %s",
    ErrorCode.MULTIPLE_INTERFACES: "multiple matching interfaces found",
    ErrorCode.INVALID_NWFILTER: "Invalid network filter",
    ErrorCode.NO_NWFILTER: "Network filter not found",
    ErrorCode.BUILD_FIREWALL: "Error while building firewall",
    ErrorCode.INVALID_SECRET: "Invalid secret",
    ErrorCode.NO_SECRET: "Secret not found",
    ErrorCode.CONFIG_UNSUPPORTED: "unsupported configuration",
    ErrorCode.OPERATION_TIMEOUT: "Timed out during operation",
    ErrorCode.MIGRATE_PERSIST_FAILED: "Failed to make domain persistent after migration",
    ErrorCode.HOOK_SCRIPT_FAILED: "Hook script execution failed",
    ErrorCode.INVALID_DOMAIN_SNAPSHOT: "Invalid domain snapshot",
    ErrorCode.NO_DOMAIN_SNAPSHOT: "Domain snapshot not found",
    ErrorCode.INVALID_STREAM: "invalid stream pointer in %s",
    ErrorCode.ARGUMENT_UNSUPPORTED: "argument unsupported",
    ErrorCode.STORAGE_PROBE_FAILED: "Storage pool probe failed",
    ErrorCode.STORAGE_POOL_BUILT: "Storage pool already built",
    ErrorCode.SNAPSHOT_REVERT_RISKY: "revert requires force",
    ErrorCode.OPERATION_ABORTED: "operation aborted",
    ErrorCode.AUTH_CANCELLED: "authentication cancelled",
    ErrorCode.NO_DOMAIN_METADATA: "metadata not found",
    ErrorCode.MIGRATE_UNSAFE: "Unsafe migration",
    ErrorCode.OVERFLOW: "numerical overflow",
    ErrorCode.BLOCK_COPY_ACTIVE: "block copy still active",
    ErrorCode.OPERATION_UNSUPPORTED: "Operation not supported",
    ErrorCode.AGENT_UNRESPONSIVE: "Guest agent is not responding",
    ErrorCode.RESOURCE_BUSY: "resource busy",
    ErrorCode.ACCESS_DENIED: "access denied",
    ErrorCode.DBUS_SERVICE: "error from service",
    ErrorCode.STORAGE_VOL_EXIST: "storage volume %s exists already",
    ErrorCode.CPU_INCOMPATIBLE: "the CPU is incompatible with host CPU",
    ErrorCode.XML_INVALID_SCHEMA: "XML document failed to validate against schema",
    ErrorCode.MIGRATE_FINISH_OK: "migration successfully aborted",
    ErrorCode.AUTH_UNAVAILABLE: "authentication unavailable",
    ErrorCode.AGENT_UNSYNCED: "guest agent replied with wrong id to guest-sync command",
    ErrorCode.DEVICE_MISSING: "device not found",
    ErrorCode.INVALID_NWFILTER_BINDING: "Invalid network filter binding",
    ErrorCode.NO_NWFILTER_BINDING: "Network filter binding not found",
    ErrorCode.INVALID_DOMAIN_CHECKPOINT: "Invalid domain checkpoint",
    ErrorCode.NO_DOMAIN_CHECKPOINT: "Domain checkpoint not found",
    ErrorCode.NO_DOMAIN_BACKUP: "Domain backup job id not found",
    ErrorCode.INVALID_NETWORK_PORT: "Invalid network port pointer",
    ErrorCode.NETWORK_PORT_EXIST: "network port %s exists already",
    ErrorCode.NO_NETWORK_PORT: "network port not found",
    ErrorCode.NO_HOSTNAME: "no hostname found",
    ErrorCode.CHECKPOINT_INCONSISTENT: "checkpoint inconsistent",
    ErrorCode.MULTIPLE_DOMAINS: "multiple matching domains found",
}
_WORDS: Final = {
    **{word: word for word in ("CPU", "DHCP", "FD", "ID", "MAC", "NMI", "OS", "PM", "SCSI", "SEV", "SSH", "URI")},
    **{word: word for word in ("UUID", "WWN", "XML")},
    "FSFREEZE": "FSFreeze",
    "FSINFO": "FSInfo",
    "FSTHAW": "FSThaw",
    "FSTRIM": "FSTrim",
    "IOTHREAD": "IOThread",
    "NWFILTER": "NWFilter",
    "NWFILTERS": "NWFilters",
}


def message_template(code: ErrorCode) -> str:
    """Return the message of a code, with ``%s`` where the detail goes."""
    template = _TEMPLATES.get(code, code.name.replace("_", " ").lower())
    return template if "%s" in template else f"{template}: %s"


def api_name(procedure: str) -> str:
    """Return the name of libvirt's public function for a procedure: DOMAIN_GET_INFO is virDomainGetInfo.

    Messages and logs speak of functions, not of procedures.
    """
    for program in ("QEMU_", "LXC_"):
        if procedure.startswith(program):
            subject, _, rest = procedure.removeprefix(program).partition("_")
            return api_name(f"{subject}_{program}{rest}")
    return "vir" + "".join(_WORDS.get(word, word.capitalize()) for word in procedure.split("_"))


class LibvirtError(Exception):
    """A call failed: code, the subsystem that says so, and the detail behind the code's own words.

    ``str(error)`` is the whole message: "Domain not found: no domain with matching name 'x'".
    """

    def __init__(self, code: ErrorCode, domain: ErrorDomain, detail: str, *, about: Domain | None = None) -> None:
        self.code = code
        self.domain = domain
        self.detail = detail
        self.about = about
        super().__init__(message_template(code).replace("%s", detail))

    def message(self) -> ErrorMessage:
        """Return the error as it travels."""
        template = message_template(self.code)
        return ErrorMessage(
            self.code, self.domain, str(self), dom=self.about, text1=template, text2=self.detail, number1=-1, number2=-1
        )

    @classmethod
    def no_support(cls, function: str, domain: ErrorDomain = ErrorDomain.NONE) -> LibvirtError:
        """The driver has no such function."""
        return cls(ErrorCode.NO_SUPPORT, domain, function)

    @classmethod
    def unsupported_flags(cls, flags: int, function: str, domain: ErrorDomain = ErrorDomain.NONE) -> LibvirtError:
        """Flags this function does not know; libvirt words this one error without the code's own words."""
        error = cls(ErrorCode.INVALID_ARG, domain, f"unsupported flags (0x{flags:x}) in function {function}")
        error.args = (error.detail,)
        return error
