"""Waiting for what happens."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from pyhyve.cli.virsh.event_words import DOMAIN_EVENTS, domain_event_text, word
from pyhyve.cli.virsh.flags import exclusive
from pyhyve.cli.virsh.registry import verb
from pyhyve.cli.virsh.shell import VerbFailed
from pyhyve.client import LibvirtError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pyhyve.cli.virsh.shell import Shell
    from pyhyve.cli.virsh.syntax import Values
    from pyhyve.rpc.client import Pushed

_USAGE: Final = "[--event <string>] [--loop] [--timeout <number>] [--list] [--timestamp]"
_NETWORK: Final = ("Defined", "Undefined", "Started", "Stopped")
_POOL: Final = ("Defined", "Undefined", "Started", "Stopped", "Created", "Deleted")
_DEVICE: Final = ("Created", "Deleted", "Defined", "Undefined")
_SECRET: Final = ("Defined", "Undefined")


def _wait(shell: Shell, values: Values, watches: Mapping[str, int], show: Callable[[Pushed], str | None]) -> None:
    """Show events until there was one, or with --loop until time is up; then say how many there were."""
    timeout = values.number("timeout", minimum=1, maximum=(1 << 31) // 1000)
    deadline = None if timeout is None else time.monotonic() + timeout
    count, why = 0, ""
    try:
        while True:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            event = shell.connection.next_event(left)
            if event is None:
                why = "event loop timed out"
                break
            text = show(event)
            if text is None:
                continue
            count += 1
            shell.print(_stamp(text) if values.flag("timestamp") else text)
            sys.stdout.flush()
            if not values.flag("loop"):
                break
    except KeyboardInterrupt:
        why = "event loop interrupted"
    finally:
        for procedure, number in watches.items():
            with contextlib.suppress(LibvirtError):
                shell.call(procedure.partition(" ")[0], number)
    if why:
        shell.print(why)
    shell.print(f"events received: {count}")
    if count == 0:
        raise VerbFailed


def _stamp(text: str) -> str:
    now = dt.datetime.now().astimezone()
    return f"{now:%Y-%m-%d %H:%M:%S}.{now.microsecond // 1000:03}{now:%z}: {text}"


@verb(
    "event",
    "events",
    "[--domain <string>] [--event <string>] [--all] [--loop] [--timeout <number>] [--list] [--timestamp]",
    "wait for what happens to domains",
)
def event(shell: Shell, values: Values) -> None:
    """Wait for events of domains."""
    if values.flag("list"):
        for listed, _ in DOMAIN_EVENTS:
            shell.print(listed)
        return
    exclusive(values, "all", "event")
    name = values.get("event")
    known = [entry[0] for entry in DOMAIN_EVENTS]
    if name is not None and name not in known:
        msg = f"unknown event type {name}"
        raise VerbFailed(msg)
    if name is None and not values.flag("all"):
        msg = "one of --list, --all, or --event <type> is required"
        raise VerbFailed(msg)
    values.number("timeout", minimum=1, maximum=(1 << 31) // 1000)
    domain = values.get("domain")
    ref = None if domain is None else shell.find_domain(domain).ref
    watches: dict[str, int] = {}
    names: dict[str, str] = {}
    for i, (event_name, procedure) in enumerate(DOMAIN_EVENTS):
        if name is not None and name != event_name:
            continue
        try:
            number = shell.call("CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY", i, ref).callback_id
        except LibvirtError:
            if name is not None:
                raise
            continue
        watches[f"CONNECT_DOMAIN_EVENT_CALLBACK_DEREGISTER_ANY {i}"] = number
        names[procedure] = event_name

    def show(pushed: Pushed) -> str | None:
        found = names.get(pushed.procedure.name)
        return None if found is None else domain_event_text(found, pushed.message)

    _wait(shell, values, watches, show)


@dataclass(frozen=True, slots=True)
class _Kind:
    """Events of one kind of object."""

    word: str
    register: str
    deregister: str
    details: tuple[str, ...]
    others: tuple[tuple[str, str], ...] = ()
    """Events beside the life cycle: name, and the procedure that brings it."""


def _object_events(shell: Shell, values: Values, kind: _Kind, prefix: str, find: Callable[[], Any]) -> None:
    names = ["lifecycle", *(name for name, _ in kind.others)]
    if values.flag("list"):
        for name in names:
            shell.print(name)
        return
    wanted = values.get("event")
    if wanted is None:
        msg = "either --list or --event <type> is required"
        raise VerbFailed(msg)
    if wanted not in names:
        msg = f"unknown event type {wanted}"
        raise VerbFailed(msg)
    values.number("timeout", minimum=1, maximum=(1 << 31) // 1000)
    number = shell.call(kind.register, names.index(wanted), find()).callback_id
    procedures = {f"{prefix}_EVENT_LIFECYCLE": "lifecycle", **{procedure: name for name, procedure in kind.others}}

    def show(pushed: Pushed) -> str | None:
        name = procedures.get(pushed.procedure.name)
        if name is None:
            return None
        message = pushed.message
        subject = message[1]
        called = str(UUID(bytes=subject.uuid)) if prefix == "SECRET" else subject.name
        tail = f": {word(kind.details, message.event)}" if name == "lifecycle" else ""
        return f"event '{name}' for {kind.word} {called}{tail}"

    _wait(shell, values, {kind.deregister: number}, show)


@verb("net-event", "network", f"[--network <string>] {_USAGE}", "wait for what happens to networks")
def net_event(shell: Shell, values: Values) -> None:
    """Wait for events of networks."""
    kind = _Kind("network", "CONNECT_NETWORK_EVENT_REGISTER_ANY", "CONNECT_NETWORK_EVENT_DEREGISTER_ANY", _NETWORK)
    given = values.get("network")
    _object_events(shell, values, kind, "NETWORK", lambda: shell.network(values).ref if given else None)


@verb("pool-event", "pool", f"[--pool <string>] {_USAGE}", "wait for what happens to pools")
def pool_event(shell: Shell, values: Values) -> None:
    """Wait for events of pools."""
    kind = _Kind(
        "storage pool",
        "CONNECT_STORAGE_POOL_EVENT_REGISTER_ANY",
        "CONNECT_STORAGE_POOL_EVENT_DEREGISTER_ANY",
        _POOL,
        (("refresh", "STORAGE_POOL_EVENT_REFRESH"),),
    )
    given = values.get("pool")
    _object_events(shell, values, kind, "STORAGE_POOL", lambda: shell.pool(values).ref if given else None)


@verb("nodedev-event", "nodedev", f"[--device <string>] {_USAGE}", "wait for what happens to the host's devices")
def nodedev_event(shell: Shell, values: Values) -> None:
    """Wait for events of host devices."""
    kind = _Kind(
        "node device",
        "CONNECT_NODE_DEVICE_EVENT_REGISTER_ANY",
        "CONNECT_NODE_DEVICE_EVENT_DEREGISTER_ANY",
        _DEVICE,
        (("update", "NODE_DEVICE_EVENT_UPDATE"),),
    )
    name = values.get("device")

    def find() -> Any:  # noqa: ANN401 - a record
        return shell.call("NODE_DEVICE_LOOKUP_BY_NAME", name).dev if name else None

    _object_events(shell, values, kind, "NODE_DEVICE", find)


@verb("secret-event", "secret", f"[--secret <string>] {_USAGE}", "wait for what happens to secrets")
def secret_event(shell: Shell, values: Values) -> None:
    """Wait for events of secrets."""
    kind = _Kind(
        "secret",
        "CONNECT_SECRET_EVENT_REGISTER_ANY",
        "CONNECT_SECRET_EVENT_DEREGISTER_ANY",
        _SECRET,
        (("value-changed", "SECRET_EVENT_VALUE_CHANGED"),),
    )
    text = values.get("secret")

    def find() -> Any:  # noqa: ANN401 - a record
        return shell.call("SECRET_LOOKUP_BY_UUID", UUID(text).bytes).secret if text else None

    _object_events(shell, values, kind, "SECRET", find)


@verb(
    "qemu-monitor-event",
    "domain",
    "[--domain <string>] [--event <string>] [--pretty] [--loop] [--timeout <number>] [--regex] [--no-case] "
    "[--timestamp]",
    "wait for events of machines' monitors",
)
def qemu_monitor_event(shell: Shell, values: Values) -> None:
    """Wait for events of monitors."""
    domain, flags = values.get("domain"), int(values.flag("regex")) | int(values.flag("no-case")) << 1
    ref = None if domain is None else shell.find_domain(domain).ref
    number = shell.call("QEMU_CONNECT_DOMAIN_MONITOR_EVENT_REGISTER", ref, values.get("event"), flags).callback_id

    def show(pushed: Pushed) -> str | None:
        if pushed.procedure.name != "DOMAIN_MONITOR_EVENT":
            return None
        message = pushed.message
        details = message.details or "<null>"
        if values.flag("pretty") and message.details:
            details = json.dumps(json.loads(message.details), indent=2)
        what = f"event {message.event}"
        if not values.flag("timestamp"):
            what += f" at {message.seconds}.{message.micros:06}"
        return f"{what} for domain '{message.dom.name}': {details}"

    _wait(shell, values, {"QEMU_CONNECT_DOMAIN_MONITOR_EVENT_DEREGISTER": number}, show)
