"""`pyhyve net`: networks on the host."""

from __future__ import annotations

import json
import pwd
import signal
import sys
import time
from typing import TYPE_CHECKING

from pyhyve.hostnet.spec import (
    DhcpRange,
    Mode,
    NetworkSpec,
    PortForward,
    Reservation,
    TapSpec,
    default_range,
    host_interface,
    ip_address,
    link_name,
    mac_address,
)
from pyhyve.support.errors import ExitStatus, InputError

if TYPE_CHECKING:
    import argparse

    from pyhyve.hostnet.networks import Networks, NetworkStatus
    from pyhyve.hostnet.spec import Address, Interface

DEFAULT_ADDRESS = "10.100.0.1/24"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|create|delete|leases|switch")
    listing = verbs.add_parser("list", help="the networks that are there")
    listing.add_argument("--json", action="store_true", help="print one JSON array")
    create = verbs.add_parser("create", help="make a network", allow_abbrev=False)
    _configure_create(create)
    delete = verbs.add_parser("delete", help="remove a network and everything made for it")
    delete.add_argument("name", metavar="NAME", help="the network")
    leases = verbs.add_parser("leases", help="addresses that DHCP gave out")
    leases.add_argument("name", nargs="?", metavar="NAME", help="the network (default: all)")
    leases.add_argument("--json", action="store_true", help="print one JSON array")

    switch = verbs.add_parser("switch", help="a switch for --net switch=PATH, in the foreground; needs no root")
    switch.add_argument("path", metavar="PATH", help="the socket to make")


def _configure_create(create: argparse.ArgumentParser) -> None:
    add = create.add_argument
    add("name", metavar="NAME", help="name of the network")
    add("--bridge", metavar="IFACE", help="name of its bridge (default: NAME)")
    add("--mode", default="nat", metavar="nat|routed|isolated|bridge", help="how far packets get (default: nat)")
    add(
        "--address",
        action="append",
        default=[],
        metavar="ADDRESS/PREFIX",
        help=f"the host's address, IPv4 or IPv6 (repeatable; default: {DEFAULT_ADDRESS}, none for bridge)",
    )
    add("--dhcp", action="append", default=[], metavar="FIRST,LAST", help="addresses to give out (default: all others)")
    add("--no-dhcp", action="store_true", help="no DHCP and no DNS (the default of --mode bridge)")
    add(
        "--reserve", action="append", default=[], metavar="MAC,ADDRESS[,HOSTNAME]", help="an address kept for one guest"
    )
    add(
        "--forward",
        action="append",
        default=[],
        metavar="tcp:[HOST:]PORT:ADDRESS:PORT",
        help="a port of the host that leads to a guest (IPv6 addresses in [])",
    )
    add("--port", action="append", default=[], metavar="IFACE", help="an interface of the host that joins the bridge")
    add("--move-addresses", action="store_true", help="move the ports' addresses and routes to the bridge meanwhile")
    add("--tap", action="append", default=[], metavar="IFACE[:USER]", help="a tap that stays, and who may open it")
    add("--domain", default="", metavar="DOMAIN", help="DNS domain of the guests")
    add("--mtu", type=int, metavar="BYTES", help="largest packet")


def parse_range(text: str) -> DhcpRange:
    """The value of `--dhcp`. Raises InputError."""
    first, comma, last = text.partition(",")
    if not comma:
        msg = f"--dhcp {text}: write --dhcp FIRST,LAST"
        raise InputError(msg)
    return DhcpRange(ip_address(first), ip_address(last))


def parse_reservation(text: str) -> Reservation:
    """The value of `--reserve`. Raises InputError."""
    words = text.split(",")
    if not 2 <= len(words) <= 3:
        msg = f"--reserve {text}: write --reserve MAC,ADDRESS[,HOSTNAME]"
        raise InputError(msg)
    return Reservation(mac_address(words[0]), ip_address(words[1]), words[2] if len(words) == 3 else "")


def parse_forward(text: str) -> PortForward:
    """The value of `--forward`. Raises InputError."""
    words = _colon_words(text)
    host: Address | None = None
    if len(words) == 5:
        host = ip_address(words.pop(1))
    if len(words) != 4 or not all(word.isascii() and word.isdigit() and len(word) < 6 for word in (words[1], words[3])):
        msg = f"--forward {text}: write --forward tcp:PORT:ADDRESS:PORT"
        raise InputError(msg)
    return PortForward(words[0], int(words[1]), ip_address(words[2]), int(words[3]), host)


def _colon_words(text: str) -> list[str]:
    """Parts between colons; what is in [] is one part."""
    words: list[str] = [""]
    inside = False
    for character in text:
        if character == ":" and not inside:
            words.append("")
        elif character in "[]":
            inside = character == "["
        else:
            words[-1] += character
    return words


def parse_tap(text: str) -> TapSpec:
    """The value of `--tap`. Raises InputError."""
    name, colon, user = text.partition(":")
    if not colon:
        return TapSpec(name)
    try:
        return TapSpec(name, int(user) if user.isascii() and user.isdigit() else pwd.getpwnam(user).pw_uid)
    except KeyError:
        msg = f"--tap {text}: no user {user!r}"
        raise InputError(msg) from None


def build_spec(arguments: argparse.Namespace) -> NetworkSpec:
    """The network that the command line of `create` asks for. Raises InputError."""
    if arguments.mode not in set(Mode):
        msg = f"--mode {arguments.mode}: unknown (use {', '.join(Mode)})"
        raise InputError(msg)
    mode = Mode(arguments.mode)
    texts = arguments.address or ([] if mode is Mode.BRIDGE else [DEFAULT_ADDRESS])
    addresses = tuple(host_interface(text) for text in texts)
    if arguments.dhcp and arguments.no_dhcp:
        msg = "--dhcp and --no-dhcp contradict each other"
        raise InputError(msg)
    ranges = tuple(parse_range(text) for text in arguments.dhcp)
    if not ranges and not arguments.no_dhcp and mode is not Mode.BRIDGE:
        ranges = tuple(map(default_range, addresses))
    return NetworkSpec(
        name=arguments.name,
        bridge=link_name(arguments.bridge or arguments.name),
        mode=mode,
        addresses=addresses,
        dhcp=ranges,
        reservations=tuple(parse_reservation(text) for text in arguments.reserve),
        forwards=tuple(parse_forward(text) for text in arguments.forward),
        ports=tuple(arguments.port),
        taps=tuple(parse_tap(text) for text in arguments.tap),
        move_addresses=arguments.move_addresses,
        domain=arguments.domain,
        mtu=arguments.mtu,
    )


def run(arguments: argparse.Namespace) -> int:
    """Do what the verb says."""
    if arguments.verb == "switch":
        return serve_switch(arguments.path)
    # Checked before netlink is loaded: a wrong option is answered at once.
    spec = build_spec(arguments) if arguments.verb == "create" else None
    from pyhyve.hostnet.networks import Networks

    networks = Networks()
    if spec is not None:
        networks.create(spec, lambda text: print(f"pyhyve net: note: {text}", file=sys.stderr))
        print(f"{spec.name}: bridge {spec.bridge}, {describe(spec.addresses)}, mode {spec.mode}")
        return ExitStatus.DONE
    match arguments.verb:
        case "delete":
            networks.delete(arguments.name)
            print(f"{arguments.name}: removed")
        case "list":
            show_networks(networks.statuses(), as_json=arguments.json)
        case _:
            show_leases(networks, arguments.name, as_json=arguments.json)
    return ExitStatus.DONE


def serve_switch(path: str) -> int:
    """Forward frames between the machines at `path` until SIGINT, SIGTERM or SIGHUP."""
    from pyhyve.backends.ioloop import IoLoop
    from pyhyve.backends.switch import FrameSwitch

    numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    loop = IoLoop("switch")
    switch = FrameSwitch(path)
    switch.start(loop)
    loop.start()
    print(f"switch at {path}: pyhyve run --net switch={path} (Ctrl-C ends it)", flush=True)
    try:
        signal.sigwait(numbers)
    finally:
        loop.call_soon(switch.close)
        loop.stop()
    return ExitStatus.DONE


def describe(addresses: tuple[Interface, ...]) -> str:
    """The host's addresses for people."""
    return " and ".join(map(str, addresses)) or "no address of the host"


def show_networks(statuses: list[NetworkStatus], *, as_json: bool) -> None:
    """Print the networks."""
    if as_json:
        fields = [
            {**status.spec.to_json(), "up": status.is_up, "dhcp_runs": status.has_dhcp, "bridge_ports": status.ports}
            for status in statuses
        ]
        print(json.dumps(fields))
        return
    if not statuses:
        print("no networks (pyhyve net create NAME makes one)")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("name", "bridge", "mode", "addresses", "dhcp", "ports", "state"):
        table.add_column(heading)
    for status in statuses:
        spec = status.spec
        dhcp = "no" if not spec.dhcp else "yes" if status.has_dhcp else "stopped"
        addresses = ", ".join(map(str, spec.addresses)) or "none"
        ports = ", ".join(status.ports) or "none"
        state = "up" if status.is_up else "bridge is gone"
        table.add_row(spec.name, spec.bridge, str(spec.mode), addresses, dhcp, ports, state)
    Console(highlight=False, soft_wrap=True).print(table)


def show_leases(networks: Networks, name: str | None, *, as_json: bool) -> None:
    """Print what DHCP gave out, by network."""
    names = [name] if name is not None else [status.spec.name for status in networks.statuses()]
    rows = [(network, lease) for network in names for lease in networks.leases(network)]
    if as_json:
        fields = [
            {"network": n, "mac": e.mac, "address": e.address, "hostname": e.hostname, "expires": e.expires}
            for n, e in rows
        ]
        print(json.dumps(fields))
        return
    if not rows:
        print("no leases")
    for network, lease in rows:
        left = "for ever" if lease.expires == 0 else f"{max(int(lease.expires - time.time()), 0)} s left"
        print(f"{network:<12} {lease.address:<20} {lease.mac:<18} {lease.hostname or '-':<16} {left}")
