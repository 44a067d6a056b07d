"""Domains: moving to another host, in the five steps of migration protocol 3.

Source: libvirt's documentation, "Guest migration", and ``virDomainMigrate3``: begin and confirm on the source, prepare
and finish on the destination, perform on the source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyhyve.cli.virsh.flags import collect
from pyhyve.cli.virsh.registry import verb
from pyhyve.cli.virsh.shell import VerbFailed, read_file
from pyhyve.client import LibvirtError
from pyhyve.rpc.errors import ErrorCode
from pyhyve.rpc.values import ParamType, TypedParam

if TYPE_CHECKING:
    from pyhyve.cli.virsh.shell import Shell
    from pyhyve.cli.virsh.syntax import Values
    from pyhyve.client import Connection, Domain

_FLAGS: Final = {
    "live": 1 << 0,
    "p2p": 1 << 1,
    "tunnelled": 1 << 2,
    "persistent": 1 << 3,
    "undefinesource": 1 << 4,
    "suspend": 1 << 5,
    "copy-storage-all": 1 << 6,
    "copy-storage-inc": 1 << 7,
    "change-protection": 1 << 8,
    "unsafe": 1 << 9,
    "offline": 1 << 10,
    "compressed": 1 << 11,
    "abort-on-error": 1 << 12,
    "auto-converge": 1 << 13,
    "rdma-pin-all": 1 << 14,
    "postcopy": 1 << 15,
    "tls": 1 << 16,
    "parallel": 1 << 17,
    "postcopy-resume": 1 << 19,
    "zerocopy": 1 << 20,
    "copy-storage-synchronous-writes": 1 << 21,
}
_NAMED_ONLY: Final = ("direct", "verbose", "postcopy-after-precopy", "timeout-suspend", "timeout-postcopy")
_STRINGS: Final = {
    "migrateuri": "migrate_uri",
    "graphicsuri": "graphics_uri",
    "listen-address": "listen_address",
    "dname": "destination_name",
    "disks-uri": "disks_uri",
    "tls-destination": "tls.destination",
}
_NUMBERS: Final = {
    "disks-port": ("disks_port", ParamType.INT),
    "comp-mt-level": ("compression.mt.level", ParamType.INT),
    "comp-mt-threads": ("compression.mt.threads", ParamType.INT),
    "comp-mt-dthreads": ("compression.mt.dthreads", ParamType.INT),
    "comp-xbzrle-cache": ("compression.xbzrle.cache", ParamType.ULLONG),
    "auto-converge-initial": ("auto_converge.initial", ParamType.INT),
    "auto-converge-increment": ("auto_converge.increment", ParamType.INT),
    "postcopy-bandwidth": ("bandwidth.postcopy", ParamType.ULLONG),
    "parallel-connections": ("parallel.connections", ParamType.INT),
    "bandwidth": ("bandwidth", ParamType.ULLONG),
}
_FILES: Final = {"xml": "destination_xml", "persistent-xml": "persistent_xml"}
_LISTS: Final = {"migrate-disks": "migrate_disks", "comp-methods": "compression"}
_USAGE: Final = " ".join(
    [
        "<domain> <desturi>",
        *(f"[--{name}]" for name in (*_FLAGS, *_NAMED_ONLY)),
        *(f"[--{name} <string>]" for name in (*_STRINGS, *_FILES, *_LISTS)),
        *(f"[--{name} <number>]" for name in (*_NUMBERS, "timeout")),
    ]
)


@verb("migrate", "domain", _USAGE, "move a running domain to another host")
def migrate(shell: Shell, values: Values) -> None:
    """Move a domain."""
    domain, where = shell.domain(values), values.text("desturi")
    flags, params = collect(values, _FLAGS), _parameters(values)
    if values.flag("p2p") or values.flag("direct"):
        uri = None if values.flag("direct") else where
        if values.flag("direct"):
            params.append(TypedParam("migrate_uri", ParamType.STRING, where))
        shell.call("DOMAIN_MIGRATE_PERFORM3_PARAMS", domain.ref, uri, params, b"", flags)
        return
    destination = shell.open(where, read_only=False)
    try:
        _managed(shell, domain, destination, params, flags)
    finally:
        destination.close()


def _parameters(values: Values) -> list[TypedParam]:
    params = [
        TypedParam(field, ParamType.STRING, text)
        for name, field in _STRINGS.items()
        if (text := values.get(name)) is not None
    ]
    params += [
        TypedParam(field, ParamType.STRING, read_file(path))
        for name, field in _FILES.items()
        if (path := values.get(name)) is not None
    ]
    params += [
        TypedParam(field, ParamType.STRING, word)
        for name, field in _LISTS.items()
        for word in (values.get(name) or "").split(",")
        if word
    ]
    for name, (field, kind) in _NUMBERS.items():
        number = values.number(name, minimum=0)
        if number is not None:
            params.append(TypedParam(field, kind, number))
    return params


def _managed(shell: Shell, domain: Domain, destination: Connection, params: list[TypedParam], flags: int) -> None:
    """Take both daemons through the steps; the domain ends on exactly one of them."""
    begun = shell.call("DOMAIN_MIGRATE_BEGIN3_PARAMS", domain.ref, params, flags)
    onward = [p for p in params if p.field != "destination_xml"]
    onward.append(TypedParam("destination_xml", ParamType.STRING, begun.xml))
    prepared = destination.session.call("DOMAIN_MIGRATE_PREPARE3_PARAMS", onward, begun.cookie_out, flags)
    uri = prepared.uri_out or next((str(p.value) for p in params if p.field == "migrate_uri"), None)
    if uri is None:
        msg = "internal error: domainMigratePrepare3 did not set uri"
        raise VerbFailed(msg)
    onward = [p for p in onward if p.field != "migrate_uri"] + [TypedParam("migrate_uri", ParamType.STRING, uri)]
    failure: LibvirtError | None = None
    cookie = b""
    try:
        cookie = shell.call(
            "DOMAIN_MIGRATE_PERFORM3_PARAMS", domain.ref, None, onward, prepared.cookie_out, flags
        ).cookie_out
    except LibvirtError as error:
        failure = error
    named = [p for p in onward if p.field != "destination_name"]
    named.append(TypedParam("destination_name", ParamType.STRING, _name(params, domain)))
    cancelled = int(failure is not None)
    try:
        finished = destination.session.call("DOMAIN_MIGRATE_FINISH3_PARAMS", named, cookie, flags, cancelled)
        cookie = finished.cookie_out
    except LibvirtError as error:
        # Told that the source failed, the destination answers with an error of its own: the first one counts.
        if failure is None:
            failure, cancelled = error, 1
    try:
        shell.call("DOMAIN_MIGRATE_CONFIRM3_PARAMS", domain.ref, onward, cookie, flags, cancelled)
    except LibvirtError as error:
        if failure is None and error.code != ErrorCode.NO_DOMAIN:
            failure = error
    if failure is not None:
        raise failure


def _name(params: list[TypedParam], domain: Domain) -> str:
    return next((str(p.value) for p in params if p.field == "destination_name"), domain.name)
