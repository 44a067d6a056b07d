"""What `--image-opts` and `json:` names may say besides a format and a file. What is not known is refused."""

from __future__ import annotations

from pyhyve.image.contract import ImageError, ImageUnsupportedError
from pyhyve.image.filename import is_network
from pyhyve.support.records import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyhyve.image.filename import ImageReference
    from pyhyve.image.opening import OpenSettings

_SWITCHES = frozenset({"on", "off", "yes", "no", "true", "false", "y", "n"})
_SWITCH, _SIZE, _ANY = "switch", "size", "any"
_NODE: dict[str, str | frozenset[str]] = {
    "read-only": _SWITCH,
    "auto-read-only": _SWITCH,
    "force-share": _SWITCH,
    "cache.direct": _SWITCH,
    "cache.no-flush": _SWITCH,
    "discard": frozenset({"ignore", "off", "unmap", "on"}),
    "detect-zeroes": frozenset({"off", "on", "unmap"}),
    "node-name": _ANY,
}
"""Of every node, format or file. What discards, caches of tables and the like would tune is accepted and done alike."""
_FILE: dict[str, str | frozenset[str]] = {
    "locking": frozenset({"auto", "on", "off"}),
    "aio": frozenset({"threads", "native", "io_uring"}),
    "aio-max-batch": _SIZE,
    "drop-cache": _SWITCH,
}
_NBD: dict[str, str | frozenset[str]] = {
    "server.type": frozenset({"inet", "unix"}),
    "reconnect-delay": _SIZE,
    "open-timeout": _SIZE,
}
_FORMATS: dict[str, dict[str, str | frozenset[str]]] = {
    "qcow2": {
        "lazy-refcounts": _SWITCH,
        "pass-discard-request": _SWITCH,
        "pass-discard-snapshot": _SWITCH,
        "pass-discard-other": _SWITCH,
        "overlap-check": frozenset({"none", "constant", "cached", "all"}),
        "cache-size": _SIZE,
        "l2-cache-size": _SIZE,
        "l2-cache-entry-size": _SIZE,
        "refcount-cache-size": _SIZE,
        "cache-clean-interval": _SIZE,
        "data-file.driver": frozenset({"file"}),
        "data-file.filename": _ANY,
    },
    "raw": {"offset": _ANY, "size": _ANY},
    "vpc": {"force_size_calc": _ANY},
    "ova": {"disk": _ANY},
    "luks": {"key-secret": _ANY, "header": _ANY},
}


def apply_options(settings: OpenSettings, reference: ImageReference) -> OpenSettings:
    """`settings` with what `reference` says about any node and about its file. Raises ImageError."""
    try:
        return _apply(settings, reference.options, over_network=is_network(reference.location))
    except ImageError as error:
        msg = f"Could not open '{reference.location}': {error}"
        raise type(error)(msg) from None


def check_format_options(format_name: str, options: Mapping[str, str]) -> None:
    """ImageError for an option that the format lacks, or a value that it does not take."""
    known = _NODE | _FORMATS.get(format_name, {})
    for name, value in options.items():
        if name.startswith("file."):
            continue
        if name.startswith("encrypt."):
            msg = f"'{name}': encryption is not supported"
            raise ImageUnsupportedError(msg)
        if name not in known:
            msg = f"Block format '{format_name}' does not support the option '{name}'"
            raise ImageUnsupportedError(msg)
        _check_value(name, value, known[name])


def _apply(settings: OpenSettings, options: Mapping[str, str], *, over_network: bool) -> OpenSettings:
    known = _NODE | (_NBD if over_network else _FILE)
    found = {name: value for name, value in options.items() if name in _NODE}
    for name, value in options.items():
        if not name.startswith("file."):
            continue
        short = name.removeprefix("file.")
        if short == "tls-creds":
            msg = "TLS of network block devices is not supported: use a tunnel, or a unix socket"
            raise ImageUnsupportedError(msg)
        if short not in known:
            msg = f"Block protocol '{'nbd' if over_network else 'file'}' doesn't support the option '{short}'"
            raise ImageUnsupportedError(msg)
        _check_value(short, value, known[short])
        found[short] = value
    for name, value in found.items():
        if name in _NODE:
            _check_value(name, value, _NODE[name])
    on = {name for name, value in found.items() if known[name] == _SWITCH and value in {"on", "yes", "true", "y"}}
    if settings.writable and "force-share" in on:
        msg = "force-share=on can only be used with read-only images"
        raise ImageError(msg)
    if settings.writable and "read-only" in on:
        msg = "Block node is read-only"
        raise ImageError(msg)
    if "cache.no-flush" in on:
        settings = replace(settings, cache="unsafe")
    elif "cache.direct" in on:
        through = settings.cache in {"writethrough", "directsync"}
        settings = replace(settings, cache="directsync" if through else "none")
    return replace(
        settings,
        force_share=settings.force_share or "force-share" in on,
        lock=settings.lock and found.get("locking") != "off",
    )


def _check_value(name: str, value: str, kind: str | frozenset[str]) -> None:
    if kind == _SWITCH:
        if value not in _SWITCHES:
            msg = f"Parameter '{name}' expects 'on' or 'off'"
            raise ImageError(msg)
    elif kind == _SIZE:
        from pyhyve.image.opening import parse_size  # noqa: PLC0415 - which imports this module

        parse_size(value, name)
    elif not isinstance(kind, str) and value not in kind:
        msg = f"Parameter '{name}' must be one of {', '.join(sorted(kind))}, not '{value}'"
        raise ImageError(msg)
