"""How fast interfaces are: what the host sends into one waits its turn, what arrives beyond its rate is dropped.

What is sent passes a hierarchy token bucket (tc-htb(8)). What arrives passes a limit of nftables where it comes in
(nft(8), family netdev): a token bucket as a policer has it, without the kernel's ``act_police``. A bridge may promise
rates to single ports: each has a class of its own, which nftables puts their frames into by the address they go to.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from pyhyve.hostnet import nft
from pyhyve.hostnet.errors import explain
from pyhyve.hostnet.links import link_exists

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pyhyve.hostnet.errors import HostNetError

__all__ = [
    "Promise",
    "Rate",
    "clear",
    "first_free",
    "keep_promises",
    "limit",
    "limit_bridge",
    "table_name",
    "table_script",
]

_ROOT: Final = 0x10000
"""Handle ``1:`` (<linux/pkt_sched.h>)."""
_TOP, _REST, _FIRST_PROMISE = 1, 2, 3
"""Classes of a bridge: all of it, what nobody was promised, and the first of those who were."""
_QUANTUM: Final = (1500, 200_000)
"""Bytes a class may send in its turn: a frame at least, what the kernel finds large at most."""
_PACKET_BYTES: Final = 65_600
"""A packet that was not cut into frames yet: a bucket that holds less would never let it through."""
_BURST_MOST_S: Final = 250
"""The kernel counts a burst as time, in 64 ns of 32 bits."""
_GONE: Final = frozenset({errno.ENOENT, errno.EINVAL, errno.ENODEV})


@dataclass(frozen=True, slots=True)
class Rate:
    """Bytes per second, on average and at most for a moment; how many bytes that moment is. 0: not said."""

    average: int
    peak: int = 0
    burst_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Promise:
    """What a bridge keeps for the guest with a hardware address: bytes per second, and the number of its class."""

    number: int
    mac: str
    rate: int


def table_name(name: str) -> str:
    """Name of the table of an interface's limits."""
    return nft.table_name("pyhyve_limit_", name)


def limit(name: str, sent: Rate | None, received: Rate | None) -> None:
    """Limit what the host sends into interface ``name``, and what comes out of it. Raises HostNetError. Blocks."""
    with IPRoute() as route:
        index = _index(name)
        if sent is None:
            _clear_sent(route, name, index)
        else:  # what waits already goes on waiting
            new = not _has_buckets(route, name, index)
            if new:
                _call(route, name, "add", "htb", index, _ROOT, default=_TOP)
            _class(route, name, "replace-class", (index, _TOP, _ROOT), sent)
            if new:
                _fair(route, index, _ROOT + _TOP, 0x20000)
    _apply_table(name, received, ())


def limit_bridge(name: str, sent: Rate | None, received: Rate | None) -> None:
    """Limit a bridge, so that :func:`keep_promises` can follow. Raises HostNetError. Blocks."""
    with IPRoute() as route:
        index = _index(name)
        _clear_sent(route, name, index)
        if sent is not None:
            _call(route, name, "add", "htb", index, _ROOT, default=_REST)
            _class(route, name, "add-class", (index, _TOP, _ROOT), Rate(sent.average, sent.peak))
            _class(route, name, "add-class", (index, _REST, _ROOT + _TOP), sent)
            _fair(route, index, _ROOT + _REST, 0x20000)
    _apply_table(name, received, ())


def keep_promises(name: str, sent: Rate, received: Rate | None, promises: Sequence[Promise]) -> None:
    """Give those on a bridge what they were promised, and the others the rest. Raises HostNetError. Blocks."""
    wanted = {promise.number for promise in promises}
    with IPRoute() as route:
        index = _index(name)
        for promise in promises:
            rate = Rate(promise.rate, sent.peak or sent.average)
            _class(route, name, "replace-class", (index, promise.number, _ROOT + _TOP), rate)
        rest = max(sent.average - sum(promise.rate for promise in promises), 1000)
        _class(
            route,
            name,
            "replace-class",
            (index, _REST, _ROOT + _TOP),
            Rate(rest, sent.peak or sent.average, sent.burst_bytes),
        )
        _apply_table(name, received, promises)
        for held in route.get_classes(index):
            number = held["handle"] - _ROOT
            if number >= _FIRST_PROMISE and number not in wanted:
                with suppress(NetlinkError):  # frames may wait in it; it goes with the bridge then
                    route.tc("del-class", index=index, handle=held["handle"])


def clear(name: str) -> None:
    """Take every limit away; an interface that is gone, or has none, is no error. Raises HostNetError. Blocks."""
    if link_exists(name):
        with IPRoute() as route:
            _clear_sent(route, name, _index(name))
    _apply_table(name, None, ())


def first_free(taken: Iterable[int]) -> int:
    """Return the number of a class for another promise."""
    number, held = _FIRST_PROMISE, set(taken)
    while number in held:
        number += 1
    return number


def _refused(name: str, code: int, hint: str = "") -> HostNetError:
    what = f"limits of {name}"
    return explain(what, code, os.strerror(code) + (hint if code == errno.ENOENT else ""))


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError as error:
        raise _refused(name, errno.ENODEV) from error


def _has_buckets(route: IPRoute, name: str, index: int) -> bool:
    try:
        return any(held["handle"] == _ROOT and held.get_attr("TCA_KIND") == "htb" for held in route.get_qdiscs(index))
    except NetlinkError as error:
        raise _refused(name, error.code) from error


def _clear_sent(route: IPRoute, name: str, index: int) -> None:
    if not _has_buckets(route, name, index):
        return
    try:
        route.tc("del", index=index, handle=_ROOT, root=True)
    except NetlinkError as error:
        if error.code not in _GONE:
            raise _refused(name, error.code) from error


def _call(route: IPRoute, name: str, *words: Any, **options: Any) -> None:  # noqa: ANN401 - netlink attributes
    try:
        route.tc(*words, **options)
    except NetlinkError as error:
        raise _refused(name, error.code, " (does this kernel have the scheduler htb?)") from error


def _class(route: IPRoute, name: str, command: str, place: tuple[int, int, int], rate: Rate) -> None:
    index, number, parent = place
    options: dict[str, int] = {"rate": rate.average, "quantum": min(max(rate.average // 10, _QUANTUM[0]), _QUANTUM[1])}
    if rate.peak:
        options["ceil"] = rate.peak
    if rate.burst_bytes:
        options["burst"] = min(rate.burst_bytes, rate.average * _BURST_MOST_S)
    _call(route, name, command, "htb", index, _ROOT + number, parent=parent, **options)


def _fair(route: IPRoute, index: int, parent: int, handle: int) -> None:
    """Have the connections within a class take turns, where the kernel can do that."""
    with suppress(NetlinkError):
        route.tc("add", "sfq", index, handle, parent=parent, perturb=10)


def _apply_table(name: str, received: Rate | None, promises: Sequence[Promise]) -> None:
    if received is not None or promises or nft.installed():
        nft.apply(table_script(name, received, promises))


def table_script(name: str, received: Rate | None, promises: Sequence[Promise] = ()) -> str:
    """Return the script that replaces an interface's table of limits, by none where nothing is limited."""
    table = table_name(name)
    lines = [f"table netdev {table}", f"delete table netdev {table}"]
    if received is not None or promises:
        lines.append(f"table netdev {table} {{")
        if received is not None:
            # The bucket of nftables holds a second's worth and what it calls the burst.
            burst = max(received.burst_bytes, _PACKET_BYTES) - received.average
            lines += [
                "chain receive {",
                f'type filter hook ingress device "{name}" priority 0; policy accept;',
                f"limit rate over {received.average} bytes/second burst {max(burst, 1)} bytes drop",
                "}",
            ]
        if promises:
            lines += ["chain send {", f'type filter hook egress device "{name}" priority 0; policy accept;']
            lines += [f"ether daddr {each.mac} meta priority set {_ROOT + each.number:#010x}" for each in promises]
            lines.append("}")
        lines.append("}")
    return "\n".join(lines) + "\n"
