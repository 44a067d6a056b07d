"""The host's ends of configured network cards. Imported only by machines that have some."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.backends.net import NetError
from pyhyve.backends.passt import Forward, open_passt
from pyhyve.backends.switch import connect_switch
from pyhyve.backends.tap import Tap
from pyhyve.machine.config import ConfigError, NetKind

if TYPE_CHECKING:
    from pyhyve.backends.net import NetBackend
    from pyhyve.machine.config import NetConfig


def open_net(net: NetConfig) -> NetBackend:
    """A card's backend. Raises NetError or ConfigError."""
    match net.kind:
        case NetKind.USER:
            forwards = [
                Forward(forward.protocol, forward.host_port, forward.guest_port, forward.host_address)
                for forward in net.forwards
            ]
            return open_passt(forwards)
        case NetKind.TAP:
            tap = Tap(net.target)
            tap.vhost = net.vhost
            return tap
        case NetKind.SWITCH:
            return connect_switch(net.target)
        case NetKind.BRIDGE:
            tap = tap_on_bridge(net.target)
            tap.vhost = net.vhost
            return tap
        case _:
            msg = f"net: a card of kind {net.kind} cannot be plugged in"
            raise ConfigError(msg)


def tap_on_bridge(bridge: str) -> Tap:
    """A tap of the machine's own on `bridge`; it vanishes with this process, however that ends."""
    from pyhyve.hostnet import links  # noqa: PLC0415 - netlink takes a fifth of a second to load

    links.check_bridge(bridge)
    try:
        tap = Tap(links.free_tap_name())
    except NetError as error:
        if not isinstance(error.__cause__, PermissionError):
            raise
        msg = f"net: bridge={bridge}: no permission (run as root, use a tap that an administrator made, or --net user)"
        raise NetError(msg) from error
    try:
        links.plug_into_bridge(tap.name, bridge)
    except BaseException:
        tap.close()
        raise
    return tap
