"""Errors of domains, in libvirt's words."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pyhyve.daemon.faults import Faults
from pyhyve.rpc.errors import ErrorCode, ErrorDomain

if TYPE_CHECKING:
    from pyhyve.daemon.errors import LibvirtError

__all__ = [
    "failed",
    "internal",
    "invalid",
    "invalid_argument",
    "not_supported",
    "system_error",
    "unsupported",
    "xml_error",
]


def xml_error(detail: str, domain: ErrorDomain = ErrorDomain.DOMAIN) -> LibvirtError:
    """A document says something that cannot be."""
    return Faults(domain).xml(detail)


def unsupported(detail: str, domain: ErrorDomain = ErrorDomain.DOMAIN) -> LibvirtError:
    """A document asks for what this hypervisor has not."""
    return Faults(domain).unsupported(detail)


def invalid(detail: str, domain: ErrorDomain = ErrorDomain.QEMU) -> LibvirtError:
    """A call that makes no sense in the state the domain is in."""
    return Faults(domain).invalid(detail)


def invalid_argument(detail: str, domain: ErrorDomain = ErrorDomain.QEMU) -> LibvirtError:
    """An argument that makes no sense."""
    return Faults(domain).argument(detail)


def not_supported(detail: str, domain: ErrorDomain = ErrorDomain.QEMU) -> LibvirtError:
    """Something this machine cannot do."""
    return Faults(domain).not_supported(detail)


def failed(detail: str, domain: ErrorDomain = ErrorDomain.QEMU) -> LibvirtError:
    """Something went wrong."""
    return Faults(domain).failed(detail)


def internal(detail: str, domain: ErrorDomain = ErrorDomain.QEMU) -> LibvirtError:
    """Something that should not have gone wrong did."""
    return Faults(domain).internal(detail)


def system_error(detail: str, error: OSError, domain: ErrorDomain = ErrorDomain.QEMU) -> LibvirtError:
    """The host said no: the detail, and why."""
    why = os.strerror(error.errno) if error.errno else str(error)
    return Faults(domain).make(ErrorCode.SYSTEM_ERROR, f"{detail}: {why}")
