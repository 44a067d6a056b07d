"""How images are named: paths, `nbd://` addresses, `json:{…}` and `--image-opts` strings, relative backing names."""

from __future__ import annotations

import os

from pyhyve.image.contract import ImageError
from pyhyve.support.records import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_NAME_BYTES = 64 * 1024
_PROTOCOL_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-")
NETWORK_PREFIXES = ("nbd:", "nbd+tcp:", "nbd+unix:")


@dataclass(frozen=True, slots=True)
class ImageReference:
    """A parsed name: `driver` is the format when stated, `location` a path or network address.

    `backing` is used instead of what the image names below itself; `without_backing` leaves that out.
    """

    location: str
    driver: str | None = None
    backing: ImageReference | None = None
    without_backing: bool = False
    options: Mapping[str, str] = field(default_factory=dict)


def is_network(name: str) -> bool:
    """Whether `name` is the address of a network block device."""
    return name.startswith(NETWORK_PREFIXES)


def has_protocol(name: str) -> bool:
    """Whether `name` starts with a protocol prefix rather than being a path."""
    prefix, colon, _ = name.partition(":")
    return bool(colon and prefix) and prefix[0].isalpha() and _PROTOCOL_CHARACTERS.issuperset(prefix)


def resolve_relative(name: str, beside: str) -> str:
    """`name` as written in the image `beside`: relative paths count from that image's directory.

    As in QEMU, those after `file:` count from the working directory.
    """
    if name.startswith("/") or has_protocol(name):
        return name.removeprefix("file:")
    if beside.startswith("json:") or beside.startswith(NETWORK_PREFIXES):
        msg = f"Cannot resolve the relative name '{name}' beside '{beside[:80]}'"
        raise ImageError(msg)
    return os.path.join(os.path.dirname(beside), name)  # noqa: PTH118, PTH120 - keeps the spelling the user gave


def parse_reference(name: str) -> ImageReference:
    """A path, `file:` path, network address or `json:` description."""
    if len(name) > MAX_NAME_BYTES:
        msg = "the image name is too long"
        raise ImageError(msg)
    if name.startswith("json:"):
        return _parse_json(name[len("json:") :])
    if name.startswith("file:"):
        return ImageReference(name[len("file:") :])
    return ImageReference(name)


def parse_image_options(text: str) -> ImageReference:
    """`driver=qcow2,file.filename=x` (`--image-opts`); `,,` stands for one comma."""
    options: dict[str, str] = {}
    for part in text.replace(",,", "\0").split(","):
        key, separator, value = part.replace("\0", ",").partition("=")
        if not separator:
            key, value = ("file.filename", key) if not options and "file.filename" not in options else (key, "on")
        options[key] = value
    return _from_flat(options)


def _parse_json(text: str) -> ImageReference:
    import json  # noqa: PLC0415 - few names are JSON

    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        msg = f"Could not parse the JSON options: {error}"
        raise ImageError(msg) from error
    if not isinstance(value, dict):
        msg = "Invalid JSON object given"
        raise ImageError(msg)
    flat: dict[str, str] = {}
    _flatten(value, "", flat, 0)
    return _from_flat(flat)


def _flatten(value: Mapping[str, object], prefix: str, into: dict[str, str], depth: int) -> None:
    if depth > 8:
        msg = "the JSON image description is nested too deeply"
        raise ImageError(msg)
    for key, item in value.items():
        if isinstance(item, dict):
            _flatten(item, f"{prefix}{key}.", into, depth + 1)
        elif isinstance(item, bool):
            into[prefix + key] = "on" if item else "off"
        elif isinstance(item, str | int):
            into[prefix + key] = str(item)
        elif item is None and prefix + key == "backing":
            into["backing"] = "\0"  # JSON's null
        elif item is not None:
            msg = f"Invalid parameter '{prefix}{key}' in the JSON image description"
            raise ImageError(msg)


def _from_flat(options: dict[str, str]) -> ImageReference:
    below = {key.removeprefix("backing."): value for key, value in options.items() if key.startswith("backing.")}
    options = {key: value for key, value in options.items() if not key.startswith("backing.")}
    driver = options.pop("driver", None)
    protocol = options.pop("file.driver", None)
    if driver in {"file", "host_device", "nbd"} and "file.filename" not in options:
        protocol, driver = driver, "raw"
        options = {f"file.{key}": value for key, value in options.items()}
    location = options.pop("file.filename", None) or options.pop("filename", None)
    if protocol == "nbd":
        location = _nbd_location(options)
    elif protocol not in {None, "file", "host_device"}:
        msg = f"Unknown protocol '{protocol}'"
        raise ImageError(msg)
    if location is None:
        msg = "The image description names no file (file.filename)"
        raise ImageError(msg)
    named = options.pop("backing", None)
    backing = _from_flat(below) if below else ImageReference(named) if named and named != "\0" else None
    return ImageReference(location, driver, backing, named == "\0", options)


def _nbd_location(options: dict[str, str]) -> str:
    def take(name: str) -> str | None:
        return options.pop(f"file.server.{name}", None) or options.pop(f"file.{name}", None)

    path, host, port = take("path"), take("host"), take("port")
    export = options.pop("file.export", "")
    if path is not None:
        return f"nbd+unix:///{export}?socket={path}"
    return f"nbd://{host or 'localhost'}:{port or '10809'}/{export}"
