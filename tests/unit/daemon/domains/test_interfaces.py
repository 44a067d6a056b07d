"""Limits of interfaces, as clients are told of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pyhyve.daemon.domains.definition.parse import parse_domain
from pyhyve.daemon.domains.interfaces import get_limits
from pyhyve.rpc.procedures import procedure
from pyhyve.rpc.values import ParamType

_MAC = "52:54:00:11:22:33"


def test_limits_are_of_32_bits_unless_they_do_not_fit() -> None:
    held = parse_domain(
        "<domain type='qemu'><name>d</name><memory>65536</memory><os><type arch='x86_64'>hvm</type></os><devices>"
        f"<interface type='network'><mac address='{_MAC}'/><source network='default'/>"
        "<bandwidth><inbound average='4294967296' peak='4294967295'/></bandwidth></interface></devices></domain>"
    )
    domain: Any = SimpleNamespace(looked_at=lambda _flags: held)
    assert get_limits(domain, _MAC, 0, 0) == ([], 7)
    params, count = get_limits(domain, _MAC, 7, 0)
    assert [param.type for param in params] == [ParamType.ULLONG] + [ParamType.UINT] * 6
    assert [param.value for param in params] == [(1 << 32), (1 << 32) - 1, 0, 0, 0, 0, 0]
    assert procedure("DOMAIN_GET_INTERFACE_PARAMETERS").ret_codec.encode(params, count)
