"""Opening and creating images by name: format probing, backing chains, locks.

This is the only place of the package that follows names found inside images. Everything it opens below the image the
user named is opened read-only.
"""

from __future__ import annotations

import os

from pyhyve.image.contract import (
    BackingReference,
    CreateRequest,
    Image,
    ImageError,
    ImageFormatError,
    ImageUnsupportedError,
    OpenRequest,
    OptionType,
)
from pyhyve.image.filename import (
    NETWORK_PREFIXES,
    ImageReference,
    has_protocol,
    parse_reference,
    resolve_relative,
)
from pyhyve.image.locking import lock_image
from pyhyve.image.registry import PROBE_SIZE_BYTES, find_format, probe_format
from pyhyve.image.storage import FileObjectStorage, FileStorage, Storage
from pyhyve.support.records import dataclass, field, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import BinaryIO

MAX_CHAIN_DEPTH = 200
CACHE_MODES = ("writeback", "none", "writethrough", "directsync", "unsafe")


@dataclass(frozen=True, slots=True)
class OpenSettings:
    """How to open; the defaults suit a reader.

    `safe_probing` is for images a guest may have written: a backing file whose format the overlay does not state may
    then be raw or a format without references of its own, nothing else.
    """

    format_name: str | None = None
    writable: bool = False
    with_backing: bool = True
    force_share: bool = False
    lock: bool = True
    cache: str = "writeback"
    safe_probing: bool = False
    check_only: bool = False
    options: Mapping[str, str] = field(default_factory=dict)


def os_error_text(error: OSError) -> str:
    """The kernel's words, without Python's decoration."""
    return error.strerror or str(error)


def open_storage(location: str, settings: OpenSettings) -> Storage:
    """The bytes behind a path or network address, locked as `settings` say."""
    if settings.cache not in CACHE_MODES:
        msg = f"Invalid cache option: {settings.cache}"
        raise ImageError(msg)
    if location.startswith(NETWORK_PREFIXES):
        from pyhyve.image.nbd.client import NbdStorage  # noqa: PLC0415 - sockets only when asked for

        return NbdStorage.connect(location, writable=settings.writable)
    prefix = location.partition(":")[0]
    if has_protocol(location) and not os.path.exists(location):  # noqa: PTH110 - a path may look like a protocol
        msg = f"Could not open '{location}': Unknown protocol '{prefix}'"
        if prefix.startswith("nbds"):
            msg = f"Could not open '{location}': TLS is not supported: use a tunnel, or a unix socket"
        raise ImageUnsupportedError(msg)
    try:
        storage = FileStorage.open(location, writable=settings.writable, cache=settings.cache)
    except OSError as error:
        msg = f"Could not open '{location}': {os_error_text(error)}"
        raise ImageError(msg) from error
    if settings.lock and not settings.force_share:
        try:
            lock_image(storage.fd, location, writable=settings.writable)
        except BaseException:
            storage.close()
            raise
    return storage


def open_image(target: str | BinaryIO, settings: OpenSettings | None = None) -> Image:
    """Open an image and its backing chain.

    Raises ImageError and its subclasses with a one-line text; nothing stays open then.
    """
    settings = settings or OpenSettings()
    if not isinstance(target, str):
        return _open_on(FileObjectStorage(target, writable=settings.writable), settings, (), None)
    reference = parse_reference(target)
    return open_reference(reference, settings)


def open_reference(reference: ImageReference, settings: OpenSettings, seen: tuple[tuple[int, int], ...] = ()) -> Image:
    """Open what a parsed name refers to; `seen` holds the files above it in the chain."""
    if reference.driver is not None:
        settings = replace(settings, format_name=reference.driver)
    if reference.options:
        from pyhyve.image.runtime_options import apply_options  # noqa: PLC0415 - few names have options

        settings = apply_options(settings, reference)
        settings = replace(settings, options={**settings.options, **reference.options})
    storage = open_storage(reference.location, settings)
    try:
        if storage.fd is not None:
            status = os.fstat(storage.fd)
            identity = (status.st_dev, status.st_ino)
            if identity in seen:
                msg = f"The backing chain of '{reference.location}' contains a loop"
                raise ImageFormatError(msg)
            seen = (*seen, identity)
        return _open_on(storage, settings, seen, reference)
    except ImageError as error:
        storage.close()
        text = str(error)
        if text.startswith("Could not open"):
            raise
        msg = f"Could not open '{reference.location}': {text}"
        raise type(error)(msg) from error
    except OSError as error:
        storage.close()
        msg = f"Could not open '{reference.location}': {os_error_text(error)}"
        raise ImageError(msg) from error
    except BaseException:
        storage.close()
        raise


def _open_on(
    storage: Storage, settings: OpenSettings, seen: tuple[tuple[int, int], ...], reference: ImageReference | None
) -> Image:
    probed = settings.format_name is None
    name = settings.format_name or probe_format(storage.pread(PROBE_SIZE_BYTES, 0), storage.filename)
    image_format = find_format(name)
    if reference is not None and reference.options:
        from pyhyve.image.runtime_options import check_format_options  # noqa: PLC0415 - as above

        check_format_options(name, reference.options)

    def open_sibling(sibling: str, writable: bool) -> Storage:  # noqa: FBT001 - the contract's signature
        where = resolve_relative(sibling, storage.filename)
        below = replace(settings, writable=writable and settings.writable)
        return open_storage(where, below)

    image = image_format.open(
        OpenRequest(storage, settings.writable, open_sibling, settings.options, settings.check_only)
    )
    image.probed = probed
    try:
        below = image.backing_reference
        unwanted = reference is not None and reference.without_backing
        if settings.with_backing and reference is not None and reference.backing is not None:
            image.backing = _open_below(reference.backing, settings, seen)
        elif settings.with_backing and below is not None and below.filename and not unwanted:
            image.backing = open_backing(image, below, settings, seen)
    except BaseException:
        image.close()
        raise
    return image


def open_backing(
    image: Image, below: BackingReference, settings: OpenSettings, seen: tuple[tuple[int, int], ...] = ()
) -> Image:
    """The read-only image under `image`, bounded in depth and checked for loops."""
    where = resolve_relative(below.filename, image.storage.filename)
    name = below.format_name
    try:
        opened = _open_below(parse_reference(where), settings, seen, name)
    except ImageError as error:
        text = str(error)
        if text.startswith("Could not open backing"):
            raise
        msg = f"Could not open backing file: {text}"
        raise type(error)(msg) from error
    if settings.safe_probing and name is None and (opened.backing_reference is not None):
        opened.close()
        msg = (
            f"The format of backing file '{where}' is not recorded in the image above it, and it refers to further "
            "files: record it with `pyhyve img rebase -u -b FILE -F FORMAT`"
        )
        raise ImageUnsupportedError(msg)
    return opened


def _open_below(
    reference: ImageReference, settings: OpenSettings, seen: tuple[tuple[int, int], ...], name: str | None = None
) -> Image:
    if len(seen) >= MAX_CHAIN_DEPTH:
        msg = f"The backing chain is deeper than {MAX_CHAIN_DEPTH} images"
        raise ImageFormatError(msg)
    child = replace(settings, format_name=name, writable=False, check_only=False, options={})
    return open_reference(reference, child, seen)


def create_file(path: str) -> FileStorage:
    """A new or emptied file, locked for writing."""
    if has_protocol(path) and not path.startswith("file:"):
        msg = f"{path}: images can be created only as local files"
        raise ImageUnsupportedError(msg)
    path = path.removeprefix("file:")
    try:
        storage = FileStorage.open(path, writable=True, create=True)
    except OSError as error:
        msg = f"{path}: Could not create '{path}': {os_error_text(error)}"
        raise ImageError(msg) from error
    try:
        lock_image(storage.fd, path, writable=True)
        storage.truncate(0)
    except BaseException:
        storage.close()
        raise
    return storage


def create_image(
    path: str,
    format_name: str,
    size_bytes: int,
    options: Mapping[str, str | int | bool] | None = None,
    backing: BackingReference | None = None,
    *,
    durable: bool = True,
) -> None:
    """Create an image file. Options must already have the types of the format's `CreateOption`s.

    It is on stable storage afterwards when `durable`, unless it is raw: such a file holds nothing yet.
    """
    image_format = find_format(format_name)
    if image_format.create is None:
        msg = f"Format driver '{format_name}' does not support image creation"
        raise ImageUnsupportedError(msg)
    if backing is not None and not image_format.supports_backing:
        msg = f"Backing file not supported for file format '{format_name}'"
        raise ImageUnsupportedError(msg)

    if backing is not None:
        refuse_own_name(path, backing)

    def open_sibling(sibling: str) -> Storage:
        return create_file(resolve_relative(sibling, path))

    storage = create_file(path)
    try:
        image_format.create(CreateRequest(storage, size_bytes, options or {}, backing, open_sibling))
        if durable and format_name != "raw":
            storage.flush()
    except BaseException:
        if not storage.is_block_device:  # as QEMU: what is there is no image, and what was there is gone
            os.unlink(storage.filename)  # noqa: PTH108 - a name, not a path
        raise
    finally:
        storage.close()


def refuse_own_name(path: str, backing: BackingReference) -> None:
    """ImageError when a new image at `path` would take the place of its own backing file, whatever it is called."""
    own, below = path.removeprefix("file:"), resolve_relative(backing.filename, path)
    try:
        same = own == below or os.path.samefile(own, below)  # noqa: PTH121 - names, not paths
    except OSError:  # one of them is no file that is there
        same = False
    if same:
        msg = f"{path}: Error: Trying to create an image with the same filename as the backing file"
        raise ImageError(msg)


def open_overlay(target: str, settings: OpenSettings, directory: str | None = None) -> Image:
    """`snapshot=on`: a temporary qcow2 over the image, deleted at once; the image itself is opened read-only."""
    import tempfile  # noqa: PLC0415 - only machines with throw-away disks need it

    from pyhyve.image.qcow2 import FORMAT as QCOW2  # noqa: PLC0415

    below = open_image(target, replace(settings, writable=False))
    try:
        fd, name = tempfile.mkstemp(prefix="pyhyve-overlay-", suffix=".qcow2", dir=directory)
        os.unlink(name)  # noqa: PTH108 - the name is not needed, the descriptor is
        storage = FileStorage(fd, name, writable=True, cache="unsafe")
        create = _required(QCOW2.create)
        create(CreateRequest(storage, below.size_bytes, {}, None, create_file))
        image = QCOW2.open(OpenRequest(storage, writable=True, open_sibling=_no_sibling))
    except BaseException:
        below.close()
        raise
    image.backing = below
    return image


def _no_sibling(name: str, writable: bool) -> Storage:  # noqa: FBT001 - the contract's signature
    del writable
    msg = f"an overlay has no file '{name}'"
    raise ImageError(msg)


def _required(create: Callable[[CreateRequest], None] | None) -> Callable[[CreateRequest], None]:
    if create is None:
        msg = "this format cannot be created"
        raise ImageUnsupportedError(msg)
    return create


def parse_size(text: str, what: str = "size") -> int:
    """A size such as `10G`, `1.5M` or `4096`; ImageError when it is none."""
    number, scale = text.strip(), 1
    if number and number[-1].isalpha():
        suffixes = {"b": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5, "e": 6}
        power = suffixes.get(number[-1].lower())
        if power is None:
            msg = f"Invalid {what} specified: '{text}'"
            raise ImageError(msg)
        number, scale = number[:-1], 1024**power
    try:
        value = int(number, 0) * scale if "." not in number else round(float(number) * scale)
    except (ValueError, OverflowError) as error:
        msg = f"Invalid {what} specified: '{text}'"
        raise ImageError(msg) from error
    if not 0 <= value < 1 << 63:
        msg = f"Invalid {what} specified: '{text}' is out of range"
        raise ImageError(msg)
    return value


def parse_create_options(format_name: str, pairs: Mapping[str, str]) -> dict[str, str | int | bool]:
    """Check option names against the format and convert the values; ImageError names the first wrong one."""
    known = {option.name: option for option in find_format(format_name).options}
    parsed: dict[str, str | int | bool] = {}
    for name, text in pairs.items():
        option = known.get(name)
        if option is None:
            msg = f"Invalid parameter '{name}' for format '{format_name}'"
            raise ImageError(msg)
        if option.type is OptionType.BOOLEAN:
            if text not in {"on", "off", "yes", "no", "true", "false", "y", "n"}:
                msg = f"Parameter '{name}' expects 'on' or 'off'"
                raise ImageError(msg)
            parsed[name] = text in {"on", "yes", "true", "y"}
        elif option.type is OptionType.SIZE:
            parsed[name] = parse_size(text, name)
        elif option.type is OptionType.NUMBER:
            if not text.isdecimal():
                msg = f"Parameter '{name}' expects a number"
                raise ImageError(msg)
            parsed[name] = int(text)
        else:
            parsed[name] = text
    return parsed
