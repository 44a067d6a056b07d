"""Control commands of the network device (VIRTIO 1.2, 5.1.6.5) and the receive filter they set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from pyhyve.devices.virtio.spec import (
    NET_CTRL_ANNOUNCE_ACK,
    NET_CTRL_GUEST_OFFLOADS_SET,
    NET_CTRL_MQ_VQ_PAIRS_SET,
    NET_ERR,
    NET_OK,
    NetCtrlClass,
    NetCtrlMac,
    NetCtrlRx,
    NetCtrlVlan,
    NetFeature,
)
from pyhyve.state.record import U16, U32, record

if TYPE_CHECKING:
    from pyhyve.devices.virtio.chain import DescriptorChain

_MAC_BYTES = 6
_MAX_TABLE_ENTRIES = 64
"""Longer tables make the filter accept everything of their kind."""
_MAX_COMMAND_BYTES = 4096
_BROADCAST = b"\xff" * _MAC_BYTES
_VLAN_TAG = b"\x81\x00"
_MAX_VLAN = 4095
_GUEST_OFFLOADS = int(
    NetFeature.GUEST_CSUM | NetFeature.GUEST_TSO4 | NetFeature.GUEST_TSO6 | NetFeature.GUEST_ECN | NetFeature.GUEST_UFO
)


@record
class ReceiveFilterState:
    """Modes as a bit for each command of class RX; addresses and VLANs strung together, None for all."""

    modes: U32
    unicast: bytes | None
    multicast: bytes | None
    vlans: tuple[U16, ...] | None


class ReceiveFilter:
    """Which frames the card takes (5.1.6.5.1 to .3). Until the driver sets a mode, everything."""

    def __init__(self, mac: bytes) -> None:
        self.mac = mac
        self.modes: dict[int, bool] = dict.fromkeys(NetCtrlRx, False)
        self.modes[NetCtrlRx.PROMISC] = True
        self.unicast: frozenset[bytes] | None = frozenset()
        """Further addresses; None is too many to keep, so all."""
        self.multicast: frozenset[bytes] | None = frozenset()
        self.vlans: set[int] | None = None
        """Wanted VLANs; None while the driver does not filter them."""
        self.active = False
        """Whether any frame might be refused."""
        self.own = b""
        """A destination that is accepted without a further look; empty when there is none."""

    def save(self) -> ReceiveFilterState:
        """Modes and tables; the address is the card's."""
        return ReceiveFilterState(
            modes=sum(1 << mode for mode, is_on in self.modes.items() if is_on),
            unicast=None if self.unicast is None else b"".join(sorted(self.unicast)),
            multicast=None if self.multicast is None else b"".join(sorted(self.multicast)),
            vlans=None if self.vlans is None else tuple(sorted(self.vlans)),
        )

    def load(self, state: ReceiveFilterState) -> None:
        """Take over modes and tables."""
        self.modes = {int(mode): bool(state.modes >> mode & 1) for mode in NetCtrlRx}
        self.unicast, self.multicast = _addresses(state.unicast), _addresses(state.multicast)
        self.vlans = None if state.vlans is None else set(state.vlans)
        self.changed()

    def changed(self) -> None:
        """Modes or addresses were set: see whether frames must be looked at."""
        self.active = self.vlans is not None or not self.modes[NetCtrlRx.PROMISC]
        self.own = self.mac if self.vlans is None and not self.modes[NetCtrlRx.NOUNI] else b""

    def describe(self) -> dict[str, Any]:
        """`RxFilterInfo` of QEMU's schema, without the card's name."""
        modes = self.modes
        unicast = "none" if modes[NetCtrlRx.NOUNI] else "all" if modes[NetCtrlRx.ALLUNI] else "normal"
        multicast = "none" if modes[NetCtrlRx.NOMULTI] else "all" if modes[NetCtrlRx.ALLMULTI] else "normal"
        return {
            "promiscuous": modes[NetCtrlRx.PROMISC],
            "multicast": multicast,
            "unicast": unicast,
            "broadcast-allowed": not modes[NetCtrlRx.NOBCAST],
            "multicast-overflow": self.multicast is None,
            "unicast-overflow": self.unicast is None,
            "main-mac": self.mac.hex(":"),
            "unicast-table": sorted(address.hex(":") for address in self.unicast or ()),
            "multicast-table": sorted(address.hex(":") for address in self.multicast or ()),
        }

    def accepts(self, start: bytes) -> bool:
        """Whether a frame with these first 18 bytes (or all, when fewer) is for the guest."""
        modes = self.modes
        if (
            self.vlans is not None
            and start[12:14] == _VLAN_TAG
            and int.from_bytes(start[14:16], "big") & 0xFFF not in self.vlans
        ):
            return False
        if modes[NetCtrlRx.PROMISC]:
            return True
        destination = start[:_MAC_BYTES]
        if destination == _BROADCAST:
            return not modes[NetCtrlRx.NOBCAST]
        if destination[:1] and destination[0] & 1:
            if modes[NetCtrlRx.NOMULTI]:
                return False
            return modes[NetCtrlRx.ALLMULTI] or self.multicast is None or destination in self.multicast
        if modes[NetCtrlRx.NOUNI]:
            return False
        return modes[NetCtrlRx.ALLUNI] or destination == self.mac or self.unicast is None or destination in self.unicast


def _addresses(data: bytes | None) -> frozenset[bytes] | None:
    if data is None or len(data) > _MAX_TABLE_ENTRIES * _MAC_BYTES:
        return None
    return frozenset(data[at : at + _MAC_BYTES] for at in range(0, len(data) - _MAC_BYTES + 1, _MAC_BYTES))


class ControlTarget(Protocol):
    """The device as commands change it."""

    filter: ReceiveFilter

    def has_feature(self, bit: int) -> bool:
        """Whether a feature was negotiated."""

    def set_pairs(self, count: int) -> bool:
        """Change the number of queue pairs in use."""

    def apply_guest_offloads(self, bits: int) -> None:
        """Change what the guest takes over."""

    def acknowledge_announce(self) -> None:
        """The announcement was made."""


def run_command(target: ControlTarget, chain: DescriptorChain) -> int:
    """Run the command in `chain` and store its result; the bytes written (0 when there is no room for it)."""
    if not chain.writable:
        return 0
    data = bytearray()
    for view in chain.readable:
        data += view[: _MAX_COMMAND_BYTES - len(data)]
        if len(data) >= _MAX_COMMAND_BYTES:
            break
    truncated = chain.readable_bytes > _MAX_COMMAND_BYTES
    accepted = len(data) >= 2 and _dispatch(target, data[0], data[1], bytes(data[2:]), truncated=truncated)
    chain.writable[0][0] = NET_OK if accepted else NET_ERR
    return 1


def _dispatch(target: ControlTarget, kind: int, command: int, data: bytes, *, truncated: bool) -> bool:
    """Run one command; whether it was accepted."""
    filter_ = target.filter
    if kind == NetCtrlClass.RX:
        if len(data) != 1 or command not in filter_.modes:
            return False
        filter_.modes[command] = bool(data[0])
    elif kind == NetCtrlClass.MAC:
        return _set_addresses(filter_, command, data, truncated=truncated)
    elif kind == NetCtrlClass.VLAN:
        vlan = int.from_bytes(data[:2], "little")
        if len(data) != 2 or vlan > _MAX_VLAN or command > NetCtrlVlan.DEL:
            return False
        vlans = filter_.vlans if filter_.vlans is not None else set()
        (vlans.add if command == NetCtrlVlan.ADD else vlans.discard)(vlan)
        filter_.vlans = vlans
    elif kind == NetCtrlClass.ANNOUNCE:
        if command != NET_CTRL_ANNOUNCE_ACK:
            return False
        target.acknowledge_announce()
    elif kind == NetCtrlClass.MQ:
        return (
            command == NET_CTRL_MQ_VQ_PAIRS_SET and len(data) == 2 and target.set_pairs(int.from_bytes(data, "little"))
        )
    elif kind == NetCtrlClass.GUEST_OFFLOADS:
        bits = int.from_bytes(data, "little")
        if (
            command != NET_CTRL_GUEST_OFFLOADS_SET
            or len(data) != 8
            or not target.has_feature(NetFeature.CTRL_GUEST_OFFLOADS)
            or bits & ~_GUEST_OFFLOADS
            or not target.has_feature(bits)
        ):
            return False
        target.apply_guest_offloads(bits)
    else:
        return False
    filter_.changed()
    return True


def _set_addresses(filter_: ReceiveFilter, command: int, data: bytes, *, truncated: bool) -> bool:
    if command == NetCtrlMac.ADDR_SET:
        if len(data) != _MAC_BYTES:
            return False
        filter_.mac = data
        filter_.changed()
        return True
    if command != NetCtrlMac.TABLE_SET:
        return False
    tables: list[frozenset[bytes] | None] = []
    for _ in range(2):
        count = int.from_bytes(data[:4], "little")
        end = 4 + count * _MAC_BYTES
        if len(data) < 4 or (len(data) < end and not truncated):
            return False
        if count > _MAX_TABLE_ENTRIES:
            tables.append(None)
            if len(data) < end:
                # Cut off in the first table: the second is unknown, so everything of its kind too.
                tables = [None, None]
                break
        else:
            tables.append(frozenset(data[i : i + _MAC_BYTES] for i in range(4, end, _MAC_BYTES)))
        data = data[end:]
    filter_.unicast, filter_.multicast = tables
    filter_.changed()
    return True
