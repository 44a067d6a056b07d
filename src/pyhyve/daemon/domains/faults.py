"""Errors of domains, in libvirt's words."""

from __future__ import annotations

import os

from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain

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
    return LibvirtError(ErrorCode.XML_ERROR, domain, detail)


def unsupported(detail: str, domain: ErrorDomain = ErrorDomain.DOMAIN) -> LibvirtError:
    """A document asks for what this hypervisor has not."""
    return LibvirtError(ErrorCode.CONFIG_UNSUPPORTED, domain, detail)


def invalid(detail: str, domain: ErrorDomain = ErrorDomain.QEMU) -> LibvirtError:
    """A call that makes no sense in the state the domain is in."""
    return LibvirtError(ErrorCode.OPERATION_INVALID, domain, detail)


def invalid_argument(detail: str, domain: ErrorDomain = ErrorDomain.QEMU) -> LibvirtError:
    """An argument that makes no sense."""
    return LibvirtError(ErrorCode.INVALID_ARG, domain, detail)


def not_supported(detail: str, domain: ErrorDomain = ErrorDomain.QEMU) -> LibvirtError:
    """Something this machine cannot do."""
    return LibvirtError(ErrorCode.OPERATION_UNSUPPORTED, domain, detail)


def failed(detail: str, domain: ErrorDomain = ErrorDomain.QEMU) -> LibvirtError:
    """Something went wrong."""
    return LibvirtError(ErrorCode.OPERATION_FAILED, domain, detail)


def internal(detail: str, domain: ErrorDomain = ErrorDomain.QEMU) -> LibvirtError:
    """Something that should not have gone wrong did."""
    return LibvirtError(ErrorCode.INTERNAL_ERROR, domain, detail)


def system_error(detail: str, error: OSError, domain: ErrorDomain = ErrorDomain.QEMU) -> LibvirtError:
    """The host said no: the detail, and why."""
    why = os.strerror(error.errno) if error.errno else str(error)
    return LibvirtError(ErrorCode.SYSTEM_ERROR, domain, f"{detail}: {why}")
