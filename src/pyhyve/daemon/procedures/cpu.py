"""CPUs: does a guest's fit this host, what do several hosts have in common, which models are there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.cpu.compare import Comparison, baseline, compare
from pyhyve.daemon.cpu.definition import parse_cpu
from pyhyve.daemon.cpu.guest import GuestCpus
from pyhyve.daemon.cpu.host import host_cpu
from pyhyve.daemon.cpu.model import ARCHITECTURES, OTHER_ARCHITECTURES, models
from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain

if TYPE_CHECKING:
    from pyhyve.daemon.cpu.guest import GuestCpu
    from pyhyve.daemon.dispatch import Call

_FAIL_INCOMPATIBLE: Final = 1  # VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE
_VALIDATE_XML: Final = 2  # VIR_CONNECT_COMPARE_CPU_VALIDATE_XML
_EXPAND_FEATURES: Final = 1  # VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES
_MIGRATABLE: Final = 2  # VIR_CONNECT_BASELINE_CPU_MIGRATABLE


def _has_real_host(call: Call) -> None:
    """Raise LibvirtError where the driver's host is not the one whose CPU we know."""
    if call.driver.host.info().model not in ARCHITECTURES or call.driver.error_domain is ErrorDomain.TEST:
        raise LibvirtError.no_support(call.function, ErrorDomain.DOMAIN)


@procedure("CONNECT_COMPARE_CPU")
async def connect_compare_cpu(call: Call, args: Any) -> int:
    """Compare a CPU with the host's."""
    call.check_flags(args.flags, _FAIL_INCOMPATIBLE | _VALIDATE_XML)
    _has_real_host(call)
    described = parse_cpu(args.xml)
    cpu = await call.daemon.run_blocking(host_cpu)
    if described.mode in {"host-passthrough", "maximum"}:
        return Comparison.SUPERSET
    result = compare(cpu.features, cpu.vendor, described)
    if isinstance(result, LibvirtError):
        if args.flags & _FAIL_INCOMPATIBLE:
            raise result
        return Comparison.INCOMPATIBLE
    return result


async def _guest_cpu(call: Call, args: Any) -> GuestCpu:
    """Return the CPU machines of a kind can have. Raises LibvirtError."""
    guests = call.driver.offers(GuestCpus)  # type: ignore[type-abstract] # drivers offer objects under contracts
    if guests is None:
        raise LibvirtError.no_support(call.function, ErrorDomain.DOMAIN)
    return await call.daemon.run_blocking(guests.guest_cpu, args.emulator, args.arch, args.machine, args.virttype)


@procedure("CONNECT_COMPARE_HYPERVISOR_CPU")
async def connect_compare_hypervisor_cpu(call: Call, args: Any) -> int:
    """Compare a CPU with the one machines of a kind can have."""
    call.check_flags(args.flags, _FAIL_INCOMPATIBLE | _VALIDATE_XML)
    cpu = await _guest_cpu(call, args)
    described = parse_cpu(args.xml_cpu)
    if described.mode in {"host-passthrough", "maximum"}:
        return Comparison.SUPERSET
    result = compare(cpu.features, cpu.vendor, described)
    if isinstance(result, LibvirtError):
        if args.flags & _FAIL_INCOMPATIBLE:
            raise result
        return Comparison.INCOMPATIBLE
    return result


@procedure("CONNECT_BASELINE_HYPERVISOR_CPU")
async def connect_baseline_hypervisor_cpu(call: Call, args: Any) -> str:
    """Return what CPUs have in common that machines of a kind can have."""
    call.check_flags(args.flags, _EXPAND_FEATURES | _MIGRATABLE)
    cpu = await _guest_cpu(call, args)
    if not args.xml_cpus:
        msg = f"ncpus in {call.function} must not be zero"
        raise LibvirtError(ErrorCode.INVALID_ARG, ErrorDomain.DOMAIN, msg)
    flags = args.flags
    return baseline(
        [parse_cpu(document) for document in args.xml_cpus],
        expand=bool(flags & _EXPAND_FEATURES),
        only_migratable=bool(flags & _MIGRATABLE),
        allowed=cpu.models or None,
        available=cpu.features,
        exact=True,
    )


@procedure("CONNECT_BASELINE_CPU")
def connect_baseline_cpu(call: Call, args: Any) -> str:
    """Return what CPUs have in common."""
    call.check_flags(args.flags, _EXPAND_FEATURES | _MIGRATABLE)
    _has_real_host(call)
    if not args.xml_cpus:
        msg = f"ncpus in {call.function} must not be zero"
        raise LibvirtError(ErrorCode.INVALID_ARG, ErrorDomain.DOMAIN, msg)
    cpus = [parse_cpu(document) for document in args.xml_cpus]
    flags = args.flags
    return baseline(cpus, expand=bool(flags & _EXPAND_FEATURES), only_migratable=bool(flags & _MIGRATABLE))


@procedure("CONNECT_GET_CPU_MODEL_NAMES")
def connect_get_cpu_model_names(call: Call, args: Any) -> tuple[list[str], int]:
    """List the models of an architecture; none where every name is taken."""
    call.check_flags(args.flags, 0)
    if args.arch not in ARCHITECTURES | OTHER_ARCHITECTURES:
        domain = call.driver.error_domain
        raise LibvirtError(ErrorCode.INVALID_ARG, domain, f"cannot find architecture {args.arch}")
    names = list(models) if args.arch in ARCHITECTURES else []
    return names if args.need_results else [], len(names)
