"""Character devices of QEMU's command line: `-chardev`, and the short forms that `-serial` takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.machine.monitor.keyval import check
from pyhyve.machine.monitor.properties import parse_properties
from pyhyve.support.errors import InputError

if TYPE_CHECKING:
    from pyhyve.machine.monitor.properties import Properties

_SHORT = ("stdio", "null", "pty")
_KINDS = ("null", "stdio", "file", "pipe", "pty", "ringbuf", "socket")


def parse_chardev(value: str) -> tuple[str, dict[str, Any]]:
    """Name and `ChardevBackend` of a `-chardev`. Raises InputError."""
    given = parse_properties("-chardev", value, "backend")
    kind, name = given.need("backend"), given.need("id")
    given.take("mux")  # the caller looks for it itself: it is not a property of the device
    backend = _backend(given, kind)
    given.finish()
    return name, check("-chardev", "ChardevBackend", backend)


def parse_chardev_backend(value: str) -> dict[str, Any]:
    """`ChardevBackend` of a `-chardev` without a name. Raises InputError."""
    given = parse_properties("-chardev", value, "backend")
    backend = _backend(given, given.need("backend"))
    given.finish()
    return check("-chardev", "ChardevBackend", backend)


def parse_serial(value: str) -> dict[str, Any]:
    """`ChardevBackend` of a `-serial` that names no character device. Raises InputError."""
    kind, _, where = value.partition(":")
    if value in _SHORT:
        return {"type": value, "data": {}}
    if kind == "file" and where:
        return {"type": "file", "data": {"out": where}}
    if kind == "pipe" and where:
        return {"type": "pipe", "data": {"device": where}}
    if kind == "unix" and where:
        given = parse_properties("-serial", where, "path")
        address = {"type": "unix", "data": {"path": given.need("path")}}
    elif kind == "tcp" and where:
        given = parse_properties("-serial", where, "address")
        host, colon, port = given.need("address").rpartition(":")
        if not colon:
            msg = f"-serial {value}: write tcp:HOST:PORT,server=on,wait=off"
            raise InputError(msg)
        address = {"type": "inet", "data": {"host": host.strip("[]"), "port": port}}
    else:
        msg = f"-serial {value}: not supported (use {', '.join(_SHORT)}, none, file:, pipe:, unix:, tcp: or chardev:)"
        raise InputError(msg)
    backend = {"type": "socket", "data": {"addr": address, **_service(given)}}
    given.finish()
    return backend


def _service(given: Properties) -> dict[str, bool]:
    """Whether a socket is ours to listen on. Raises InputError when it would wait for its peer."""
    is_server = given.switch("server", default=False)
    if is_server and given.switch("wait", default=True):
        msg = f"{given.option}: the machine does not wait for a client: add wait=off"
        raise InputError(msg)
    given.take("wait")
    return {"server": is_server, **({"wait": False} if is_server else {})}


def _backend(given: Properties, kind: str) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key in ("logfile",):
        value = given.take(key)
        if value is not None:
            data[key] = value
            data["logappend"] = given.switch("logappend", default=False)
    match kind:
        case "null" | "pty":
            pass
        case "stdio":
            given.only("signal", "off")
        case "file":
            data |= {"out": given.need("path"), "append": given.switch("append", default=False)}
        case "pipe":
            data["device"] = given.need("path")
        case "ringbuf":
            data["size"] = _size(given)
        case "socket":
            data |= {"addr": _address(given), **_service(given)}
            given.only("telnet", "off")
            given.only("websocket", "off")
        case _:
            msg = f"-chardev: {kind} is not supported (use {', '.join(_KINDS)})"
            raise InputError(msg)
    return {"type": kind, "data": data}


def _size(given: Properties) -> int:
    from pyhyve.machine.hardware.chardevs import DEFAULT_RING_BYTES  # noqa: PLC0415 - few have one

    text = given.take("size")
    if text is None:
        return DEFAULT_RING_BYTES
    digits, scale = (text[:-1], 1024) if text[-1:].upper() == "K" else (text, 1)
    if not digits.isascii() or not digits.isdigit():
        msg = f"-chardev: size={text}: not a size"
        raise InputError(msg)
    return int(digits[:12]) * scale


def _address(given: Properties) -> dict[str, Any]:
    fd, path, host, port = (given.take(key) for key in ("fd", "path", "host", "port"))
    if fd is not None:
        return {"type": "fd", "data": {"str": fd}}
    if path is not None:
        return {"type": "unix", "data": {"path": path}}
    if port is None:
        msg = "-chardev: a socket needs a path, a port or an fd"
        raise InputError(msg)
    return {"type": "inet", "data": {"host": (host or "").strip("[]"), "port": port}}
