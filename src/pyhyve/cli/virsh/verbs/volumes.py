"""Storage volumes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from pyhyve.cli.virsh.documents import DUMP_USAGE, parse, show
from pyhyve.cli.virsh.flags import collect
from pyhyve.cli.virsh.output import pretty_size
from pyhyve.cli.virsh.registry import verb
from pyhyve.cli.virsh.shell import VerbFailed, read_file
from pyhyve.cli.virsh.syntax import scaled_bytes, unknown_suffix
from pyhyve.client import LibvirtError

if TYPE_CHECKING:
    from pyhyve.cli.virsh.shell import Shell
    from pyhyve.cli.virsh.syntax import Values
    from pyhyve.client import StoragePool, StorageVolume

_TYPES: Final = ("file", "block", "dir", "network", "netdir", "ploop")
_WIPE: Final = ("zero", "nnsa", "dod", "bsi", "gutmann", "schneier", "pfitzner7", "pfitzner33", "random", "trim")
_CHUNK_BYTES: Final = 256 << 10
_CREATE: Final = {"prealloc-metadata": 1, "reflink": 2, "validate": 4}
_SPARSE, _PHYSICAL = 1, 1


def _type(volume: StorageVolume, number: int) -> str:
    return _TYPES[number] if number < len(_TYPES) else "unknown"


@verb("vol-list", "volume", "<pool> [--details]", "a pool's volumes")
def vol_list(shell: Shell, values: Values) -> None:
    """List volumes."""
    pool = shell.pool(values)
    with shell.failing("Failed to list volumes"):
        volumes = pool.list_volumes()
    volumes.sort(key=lambda v: v.name.lower())
    if not values.flag("details"):
        shell.table(["Name", "Path"], [[v.name, _path(v)] for v in volumes])
        return
    rows = []
    for volume in volumes:
        info = volume.info()
        sizes = (
            f"{value:.2f} {unit}" for value, unit in map(pretty_size, (info.capacity_bytes, info.allocation_bytes))
        )
        rows.append([volume.name, _path(volume), _type(volume, info.type), *sizes])
    shell.table(["Name", "Path", "Type", "Capacity", "Allocation"], rows)


def _path(volume: StorageVolume) -> str:
    try:
        return volume.path()
    except LibvirtError:
        return "-"


@verb("vol-info", "volume", "<vol> [--pool <string>] [--bytes] [--physical]", "a volume at a glance")
def vol_info(shell: Shell, values: Values) -> None:
    """Show a volume at a glance."""
    volume, physical = shell.volume(values), values.flag("physical")
    shell.fact("Name:", volume.name)
    info = shell.call("STORAGE_VOL_GET_INFO_FLAGS", volume.ref, _PHYSICAL) if physical else volume.info()
    kind, capacity, allocation = info
    shell.fact("Type:", _type(volume, kind))
    for label, size in (("Capacity:", capacity), ("Physical:" if physical else "Allocation:", allocation)):
        if values.flag("bytes"):
            shell.fact(label, f"{size} bytes")
        else:
            value, unit = pretty_size(size)
            shell.fact(label, f"{value:.2f} {unit}")


@verb("vol-dumpxml", "volume", f"<vol> [--pool <string>] {DUMP_USAGE}", "a volume's document")
def vol_dumpxml(shell: Shell, values: Values) -> None:
    """Show a volume's document."""
    show(shell, values, shell.volume(values).xml())


@verb("vol-name", "volume", "<vol>", "the name of a volume's key or path")
def vol_name(shell: Shell, values: Values) -> None:
    """Show a volume's name."""
    shell.print(shell.find_volume(values.text("vol"), None, "").name)


@verb("vol-path", "volume", "<vol> [--pool <string>]", "the path of a volume")
def vol_path(shell: Shell, values: Values) -> None:
    """Show a volume's path."""
    shell.print(shell.volume(values).path())


@verb("vol-key", "volume", "<vol> [--pool <string>]", "the key of a volume")
def vol_key(shell: Shell, values: Values) -> None:
    """Show a volume's key."""
    shell.print(shell.volume(values).key)


@verb("vol-pool", "volume", "<vol> [--uuid]", "the pool a volume is in")
def vol_pool(shell: Shell, values: Values) -> None:
    """Show a volume's pool."""
    volume = shell.find_volume(values.text("vol"), None, "")
    with shell.failing("failed to get parent pool"):
        pool = volume.pool()
    shell.print(str(pool.uuid) if values.flag("uuid") else pool.name)


@verb("vol-create", "volume", "<pool> <file> [--prealloc-metadata] [--validate]", "make the volume of a file")
def vol_create(shell: Shell, values: Values) -> None:
    """Make a volume from a document."""
    pool, path = shell.pool(values), values.text("file")
    xml, flags = read_file(path), collect(values, _CREATE)
    with shell.failing(f"Failed to create vol from {path}"):
        volume = pool.create_volume(xml, flags)
    shell.say(f"Vol {volume.name} created from {path}")


@verb(
    "vol-create-as",
    "volume",
    "<pool> <name> <capacity> [--allocation <string>] [--format <string>] [--backing-vol <string>] "
    "[--backing-vol-format <string>] [--prealloc-metadata] [--print-xml]",
    "make a volume from options",
)
def vol_create_as(shell: Shell, values: Values) -> None:
    """Make a volume described by options."""
    pool, name = shell.pool(values), values.text("name")
    capacity = _size(values.text("capacity"))
    allocation = values.get("allocation")
    lines = ["<volume>", f"  <name>{escape(name)}</name>", f"  <capacity>{capacity}</capacity>"]
    if allocation is not None:
        lines.append(f"  <allocation>{_size(allocation)}</allocation>")
    if (kind := values.get("format")) is not None:
        lines += ["  <target>", f"    <format type='{escape(kind)}'/>", "  </target>"]
    if (backing := values.get("backing-vol")) is not None:
        lines += ["  <backingStore>", f"    <path>{escape(_backing(shell, pool, backing))}</path>"]
        if (backing_format := values.get("backing-vol-format")) is not None:
            lines.append(f"    <format type='{escape(backing_format)}'/>")
        lines.append("  </backingStore>")
    xml = "\n".join([*lines, "</volume>"]) + "\n"
    if values.flag("print-xml"):
        shell.write(xml)
        return
    with shell.failing(f"Failed to create vol {name}"):
        volume = pool.create_volume(xml, collect(values, _CREATE))
    shell.say(f"Vol {volume.name} created")


def _size(text: str) -> int:
    size = scaled_bytes(text, 1)
    if size is None:
        msg = f"Malformed size {text}"
        raise VerbFailed(msg, *unknown_suffix(text))
    return size


def _backing(shell: Shell, pool: StoragePool, text: str) -> str:
    try:
        return pool.volume(text).path()
    except LibvirtError:
        return shell.find_volume(text, None).path()


@verb(
    "vol-create-from",
    "volume",
    "<pool> <file> <vol> [--inputpool <string>] [--prealloc-metadata] [--reflink] [--validate]",
    "make a volume with the content of another",
)
def vol_create_from(shell: Shell, values: Values) -> None:
    """Make a volume from a document and another volume."""
    pool, path = shell.pool(values), values.text("file")
    source = shell.volume(values, pool="inputpool")
    xml, flags = read_file(path), collect(values, _CREATE)
    with shell.failing(f"Failed to create vol from {path}"):
        volume = pool.clone_volume(xml, source, flags)
    shell.say(f"Vol {volume.name} created from input vol {source.name}")


@verb(
    "vol-clone",
    "volume",
    "<vol> <newname> [--pool <string>] [--prealloc-metadata] [--reflink] [--print-xml]",
    "clone a volume",
)
def vol_clone(shell: Shell, values: Values) -> None:
    """Clone."""
    from lxml import etree

    source, name = shell.volume(values), values.text("newname")
    with shell.failing("failed to get parent pool"):
        pool = source.pool()
    document = parse(source.xml())
    element = document.find("name")
    if element is None:
        msg = "Failed to allocate XML buffer"
        raise VerbFailed(msg)
    element.text = name
    xml = etree.tostring(document, encoding="unicode")
    if values.flag("print-xml"):
        shell.write(xml)
        return
    with shell.failing(f"Failed to clone vol from {source.name}"):
        volume = pool.clone_volume(xml, source, collect(values, _CREATE))
    shell.say(f"Vol {volume.name} cloned from {source.name}")


@verb("vol-delete", "volume", "<vol> [--pool <string>] [--delete-snapshots]", "delete a volume")
def vol_delete(shell: Shell, values: Values) -> None:
    """Delete."""
    volume = shell.volume(values)
    with shell.failing(f"Failed to delete vol {volume.name}"):
        volume.delete(collect(values, {"delete-snapshots": 2}))
    shell.say(f"Vol {volume.name} deleted")


@verb("vol-wipe", "volume", "<vol> [--pool <string>] [--algorithm <string>]", "overwrite a volume's content")
def vol_wipe(shell: Shell, values: Values) -> None:
    """Wipe."""
    volume, algorithm = shell.volume(values), values.get("algorithm")
    if algorithm is not None and algorithm not in _WIPE:
        msg = f"Unsupported algorithm '{algorithm}'"
        raise VerbFailed(msg)
    with shell.failing(f"Failed to wipe vol {volume.name}"):
        if algorithm is None:
            volume.wipe()
        else:
            shell.call("STORAGE_VOL_WIPE_PATTERN", volume.ref, _WIPE.index(algorithm), 0)
    shell.say(f"Vol {volume.name} wiped")


@verb(
    "vol-resize",
    "volume",
    "<vol> <capacity> [--pool <string>] [--allocate] [--delta] [--shrink]",
    "change a volume's size",
)
def vol_resize(shell: Shell, values: Values) -> None:
    """Resize."""
    flags, text = collect(values, {"allocate": 1, "delta": 2, "shrink": 4}), values.text("capacity")
    volume = shell.volume(values)
    shrink, delta = bool(flags & 4), bool(flags & 2)
    size = scaled_bytes(text.removeprefix("-") if shrink and delta else text, 1)
    if size is None:
        msg = f"Malformed size {text}"
        raise VerbFailed(msg, *unknown_suffix(text))
    with shell.failing(f"Failed to change size of volume '{volume.name}' {'by' if delta else 'to'} {text}"):
        volume.resize(size, flags)
    shell.say(f"Size of volume '{volume.name}' successfully changed {'by' if delta else 'to'} {text}")


# -- content -----------------------------------------------------------------------------------------------------------


@verb(
    "vol-upload",
    "volume",
    "<vol> <file> [--pool <string>] [--offset <number>] [--length <number>] [--sparse]",
    "write a file's content to a volume",
)
def vol_upload(shell: Shell, values: Values) -> None:
    """Upload."""
    offset, length = values.number("offset", minimum=0) or 0, values.number("length", minimum=0) or 0
    volume, path = shell.volume(values), values.text("file")
    try:
        file = open(path, "rb")  # noqa: PTH123, SIM115 - the user's own spelling; closed below
    except OSError as error:
        msg = f"cannot read {path}"
        raise VerbFailed(msg) from error
    with file:
        with shell.failing(f"cannot upload to volume {volume.name}"):
            stream = volume.upload(offset, length, _SPARSE if values.flag("sparse") else 0)
        try:
            left = length or None
            while data := file.read(_CHUNK_BYTES if left is None else min(left, _CHUNK_BYTES)):
                stream.send(data)
                left = None if left is None else left - len(data)
        except BaseException:
            stream.abort()
            raise
        with shell.failing(f"cannot close volume {volume.name}"):
            stream.finish()


@verb(
    "vol-download",
    "volume",
    "<vol> <file> [--pool <string>] [--offset <number>] [--length <number>] [--sparse]",
    "write a volume's content to a file",
)
def vol_download(shell: Shell, values: Values) -> None:
    """Download."""
    offset, length = values.number("offset", minimum=0) or 0, values.number("length", minimum=0) or 0
    volume, path = shell.volume(values), Path(values.text("file"))
    sparse, existed = values.flag("sparse"), path.exists()
    try:
        file = path.open("wb")
    except OSError as error:
        msg = f"cannot create {path}"
        raise VerbFailed(msg, f"{path}: {error.strerror}") from error
    try:
        with file:
            with shell.failing(f"cannot download from volume {volume.name}"):
                stream = volume.download(offset, length, _SPARSE if sparse else 0)
            with shell.failing(f"cannot receive data from volume {volume.name}"), stream:
                while data := stream.receive():
                    if sparse and not any(data):
                        file.seek(len(data), os.SEEK_CUR)
                    else:
                        file.write(data)
            file.truncate()
    except BaseException:
        if not existed:
            path.unlink(missing_ok=True)
        raise
