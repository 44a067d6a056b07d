"""Opening and closing, and what a connection says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.drivers.api import find_driver, version_number
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.rpc.spec import Feature

if TYPE_CHECKING:
    from pyhyve.daemon.dispatch import Call

LIBRARY_VERSION: Final = version_number(9, 0, 0)
"""Version of libvirt whose protocol and behaviour this is; clients ask it for what they may use (Nova: 8.0.0)."""
_DAEMON_FEATURES: Final = frozenset(
    {
        Feature.FD_PASSING,
        Feature.TYPED_PARAM_STRING,
        Feature.PROGRAM_KEEPALIVE,
        Feature.REMOTE_EVENT_CALLBACK,
        Feature.REMOTE_CLOSE_CALLBACK,
        Feature.NETWORK_UPDATE_HAS_CORRECT_ORDER,
        Feature.REMOTE,
    }
)
_OPEN_FLAGS: Final = 1 | 2  # VIR_CONNECT_RO, VIR_CONNECT_NO_ALIASES


@procedure("CONNECT_OPEN")
def connect_open(call: Call, args: Any) -> None:
    """Open the connection to a driver."""
    if call.connection.opened:
        raise LibvirtError(ErrorCode.INTERNAL_ERROR, ErrorDomain.RPC, "connection already open")
    call.check_flags(args.flags, _OPEN_FLAGS)
    call.connection.open(find_driver(call.daemon.drivers, args.name), args.flags)


@procedure("CONNECT_CLOSE")
def connect_close(call: Call, args: Any) -> None:
    """Close it; the client hangs up by itself afterwards."""
    call.connection.close_driver()


@procedure("CONNECT_GET_TYPE")
def connect_get_type(call: Call, args: Any) -> str:
    """Name the driver."""
    return call.driver.type_name


@procedure("CONNECT_GET_VERSION")
def connect_get_version(call: Call, args: Any) -> int:
    """Give the hypervisor's version."""
    return call.driver.version()


@procedure("CONNECT_GET_LIB_VERSION")
def connect_get_lib_version(call: Call, args: Any) -> int:
    """Give the version of libvirt this behaves as."""
    return LIBRARY_VERSION


@procedure("CONNECT_GET_URI")
def connect_get_uri(call: Call, args: Any) -> str:
    """Give the driver's URI."""
    return call.driver.uri


@procedure("CONNECT_SUPPORTS_FEATURE")
def connect_supports_feature(call: Call, args: Any) -> int:
    """Say whether the daemon or the driver has a feature."""
    if args.feature == Feature.PROGRAM_KEEPALIVE:
        call.connection.keepalive = True  # the client asks because it can
    if args.feature in _DAEMON_FEATURES:
        return 1
    return int(call.connection.opened and call.driver.supports_feature(args.feature))


@procedure("CONNECT_GET_MAX_VCPUS")
def connect_get_max_vcpus(call: Call, args: Any) -> int:
    """Give the most vCPUs a domain may have."""
    return call.driver.max_vcpus(args.type)


@procedure("CONNECT_GET_CAPABILITIES")
async def connect_get_capabilities(call: Call, args: Any) -> str:
    """Describe the host and its guests."""
    return await call.driver.capabilities()


@procedure("CONNECT_GET_DOMAIN_CAPABILITIES")
async def connect_get_domain_capabilities(call: Call, args: Any) -> str:
    """Describe what a domain on an emulator may have."""
    call.check_flags(args.flags, 0)
    return await call.driver.domain_capabilities(args.emulatorbin, args.arch, args.machine, args.virttype)


@procedure("CONNECT_IS_SECURE")
def connect_is_secure(call: Call, args: Any) -> int:
    """Say whether nobody can listen."""
    return int(call.connection.secure)


@procedure("CONNECT_REGISTER_CLOSE_CALLBACK")
def connect_register_close_callback(call: Call, args: Any) -> None:
    """Note that the client wants to be told when the driver's connection closes."""
    if call.connection.watches_close:
        msg = "A close callback is already registered"
        raise LibvirtError(ErrorCode.OPERATION_FAILED, ErrorDomain.REMOTE, msg)
    call.connection.watches_close = True


@procedure("CONNECT_UNREGISTER_CLOSE_CALLBACK")
def connect_unregister_close_callback(call: Call, args: Any) -> None:
    """Forget that."""
    if not call.connection.watches_close:
        msg = "A close callback is not registered"
        raise LibvirtError(ErrorCode.OPERATION_FAILED, ErrorDomain.REMOTE, msg)
    call.connection.watches_close = False


@procedure("CONNECT_SET_IDENTITY")
def connect_set_identity(call: Call, args: Any) -> None:
    """Refuse: only libvirt's own proxy daemon may speak for others, and there is none before this one."""
    raise LibvirtError(ErrorCode.ACCESS_DENIED, ErrorDomain.ACCESS, "only a trusted proxy may set an identity")
