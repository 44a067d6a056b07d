"""Domains: jobs on their disks."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final

from pyhyve.cli.virsh.device_documents import attribute
from pyhyve.cli.virsh.flags import collect, exclusive
from pyhyve.cli.virsh.output import pretty_size
from pyhyve.cli.virsh.registry import verb
from pyhyve.cli.virsh.shell import VerbFailed, read_file
from pyhyve.client import LibvirtError
from pyhyve.rpc.errors import ErrorCode
from pyhyve.rpc.values import ParamType, TypedParam

if TYPE_CHECKING:
    from pyhyve.cli.virsh.shell import Shell
    from pyhyve.cli.virsh.syntax import Values
    from pyhyve.client import Domain

_KINDS: Final = ("Unknown job", "Block Pull", "Block Copy", "Block Commit", "Active Block Commit", "Backup")
_ABORT_ASYNC, _ABORT_PIVOT = 1, 2
_MIB: Final = 1 << 20
_POLL_S: Final = 0.2
_PIVOTS: Final = 25
"""How often a pivot is asked for."""
_WAIT_USAGE: Final = "[--wait] [--verbose] [--timeout <number>]"


def _bandwidth(values: Values, *, in_bytes: bool) -> int:
    """The bandwidth asked for, as the daemon wants it: MiB/s, or bytes/s where the flag for it is sent."""
    text = values.get("bandwidth")
    if text is None:
        return 0
    if text.isdigit():
        return int(text)
    size = values.scaled("bandwidth", _MIB)
    return (size or 0) if in_bytes else (size or 0) // _MIB


@verb("blockresize", "domain", "<domain> <path> <size#>", "change the size of a running domain's disk (KiB)")
def blockresize(shell: Shell, values: Values) -> None:
    """Resize a disk."""
    path, size = values.text("path"), values.scaled("size", 1024) or 0
    flags = 0
    if size % 1024:
        flags = 1  # bytes
    else:
        size //= 1024
    domain = shell.domain(values)
    with shell.failing(f"Failed to resize block device '{path}'"):
        shell.call("DOMAIN_BLOCK_RESIZE", domain.ref, path, size, flags)
    shell.hint(f"Block device '{path}' is resized")


@verb(
    "blockjob",
    "domain",
    "<domain> <path> [--abort] [--async] [--pivot] [--info] [--bytes] [--raw] [--bandwidth <number>]",
    "show, speed up or end the job on a disk",
)
def blockjob(shell: Shell, values: Values) -> None:
    """Show or change a disk's job."""
    exclusive(values, "raw", "abort")
    exclusive(values, "raw", "pivot")
    exclusive(values, "raw", "async")
    abort = values.flag("abort") or values.flag("async") or values.flag("pivot")
    if abort and values.get("bandwidth") is not None:
        msg = "conflict between abort, info, and bandwidth modes"
        raise VerbFailed(msg)
    domain, path = shell.domain(values), values.text("path")
    if abort:
        flags = collect(values, {"async": _ABORT_ASYNC, "pivot": _ABORT_PIVOT})
        shell.call("DOMAIN_BLOCK_JOB_ABORT", domain.ref, path, flags)
    elif values.get("bandwidth") is not None:
        flags = collect(values, {"bytes": 1})
        speed = _bandwidth(values, in_bytes=bool(flags))
        shell.call("DOMAIN_BLOCK_JOB_SET_SPEED", domain.ref, path, speed, flags)
    else:
        _show_job(shell, values, domain, path)


def _show_job(shell: Shell, values: Values, domain: Domain, path: str) -> None:
    info = shell.call("DOMAIN_GET_BLOCK_JOB_INFO", domain.ref, path, 1)  # 1: bandwidth in bytes
    if values.flag("raw"):
        if info.found:
            shell.print(f" type={_KINDS[info.type] if info.type < len(_KINDS) else info.type}")
            shell.print(f" bandwidth={info.bandwidth}\n cur={info.cur}\n end={info.end}")
        return
    if not info.found:
        if not values.flag("abort"):
            shell.hint(f"No current block job for {path}")
        return
    kind = _KINDS[info.type] if info.type < len(_KINDS) else _KINDS[0]
    sys.stdout.write(_progress(kind, info.cur, info.end))
    if info.bandwidth:
        value, unit = pretty_size(info.bandwidth)
        shell.write(f"    Bandwidth limit: {info.bandwidth} bytes/s ({value:.3f} {unit}/s)")
    shell.print()


def _progress(kind: str, done: int, end: int) -> str:
    if end == 0 and done == 0:
        share = 0.0
    elif done == end:
        share = 100.0
    else:
        share = min(100.0 * done / end, 99.99)
    return f"\r{kind}: [{share:5.2f} %]"


def _wait(shell: Shell, values: Values, domain: Domain, path: str, kind: str, *, ready: bool) -> bool:
    """Wait for a job; whether it went as asked (False: it was broken off for taking too long)."""
    timeout = values.number("timeout", minimum=1)
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        while True:
            info = shell.call("DOMAIN_GET_BLOCK_JOB_INFO", domain.ref, path, 0)
            if values.flag("verbose"):
                sys.stdout.write(_progress(kind, info.cur if info.found else 1, info.end if info.found else 1))
                sys.stdout.flush()
            if not info.found or (ready and info.cur == info.end and info.end):
                return True
            if deadline is not None and time.monotonic() > deadline:
                break
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        pass
    shell.call("DOMAIN_BLOCK_JOB_ABORT", domain.ref, path, _ABORT_ASYNC if values.flag("async") else 0)
    return False


def _waits(values: Values, *names: str) -> bool:
    names = ("wait", *names)
    if any(values.flag(name) for name in names):
        return True
    for name in ("verbose", "timeout", "async"):
        if values.flag(name) or values.get(name) is not None:
            msg = f"Option --wait is required by option --{name}" if name == "verbose" else "missing --wait option"
            raise VerbFailed(msg)
    return False


@verb(
    "blockpull",
    "domain",
    f"<domain> <path> [--bandwidth <number>] [--base <string>] {_WAIT_USAGE} [--async] [--keep-relative] [--bytes]",
    "copy the backing image into a disk",
)
def blockpull(shell: Shell, values: Values) -> None:
    """Pull a backing image in."""
    path, base = values.text("path"), values.get("base")
    waits = _waits(values)
    flags = collect(values, {"keep-relative": 16})
    in_bytes = values.flag("bytes")
    domain, speed = shell.domain(values), _bandwidth(values, in_bytes=in_bytes)
    if base or flags:
        shell.call("DOMAIN_BLOCK_REBASE", domain.ref, path, base, speed, flags | (64 if in_bytes else 0))
    else:
        shell.call("DOMAIN_BLOCK_PULL", domain.ref, path, speed, 64 if in_bytes else 0)
    if not waits:
        shell.hint("Block Pull started")
        return
    done = _wait(shell, values, domain, path, "Block Pull", ready=False)
    shell.hint("\nPull complete" if done else "\nPull aborted")


@verb(
    "blockcommit",
    "domain",
    "<domain> <path> [--bandwidth <number>] [--base <string>] [--shallow] [--top <string>] [--active] [--delete] "
    f"{_WAIT_USAGE} [--pivot] [--keep-overlay] [--async] [--keep-relative] [--bytes]",
    "copy a disk's changes into its backing image",
)
def blockcommit(shell: Shell, values: Values) -> None:
    """Commit into a backing image."""
    exclusive(values, "pivot", "keep-overlay")
    exclusive(values, "base", "shallow")
    path = values.text("path")
    pivot, keep = values.flag("pivot"), values.flag("keep-overlay")
    active = values.flag("active") or pivot or keep
    waits = _waits(values, "pivot", "keep-overlay")
    flags = collect(values, {"shallow": 1, "delete": 2, "keep-relative": 8, "bytes": 16}) | (4 if active else 0)
    domain, speed = shell.domain(values), _bandwidth(values, in_bytes=values.flag("bytes"))
    base, top = values.get("base"), values.get("top")
    shell.call("DOMAIN_BLOCK_COMMIT", domain.ref, path, base, top, speed, flags)
    if not waits:
        shell.hint("Active Block Commit started" if active else "Block Commit started")
        return
    kind = "Active Block Commit" if active else "Block Commit"
    if not _wait(shell, values, domain, path, kind, ready=active):
        shell.hint("\nCommit aborted")
        return
    _conclude(shell, domain, path, pivot=pivot, finish=keep)
    if pivot:
        shell.hint("\nSuccessfully pivoted")
    elif keep:
        shell.hint("\nCommit complete, overlay image kept")
    else:
        shell.hint("\nNow in synchronized phase" if active else "\nCommit complete")


def _pivot(shell: Shell, domain: Domain, path: str) -> None:
    """Make a job's target the disk's image; the figures may tell of the end before libvirtd has heard of it."""
    for left in reversed(range(_PIVOTS)):
        try:
            shell.call("DOMAIN_BLOCK_JOB_ABORT", domain.ref, path, _ABORT_PIVOT)
        except LibvirtError as error:
            if not left or error.code != ErrorCode.BLOCK_COPY_ACTIVE:
                raise
            time.sleep(_POLL_S)
        else:
            return


def _conclude(shell: Shell, domain: Domain, path: str, *, pivot: bool, finish: bool) -> None:
    if pivot:
        with shell.failing(f"failed to pivot job for disk {path}"):
            _pivot(shell, domain, path)
    elif finish:
        with shell.failing(f"failed to finish job for disk {path}"):
            shell.call("DOMAIN_BLOCK_JOB_ABORT", domain.ref, path, 0)


@verb(
    "blockcopy",
    "domain",
    "<domain> <path> [--dest <string>] [--bandwidth <number>] [--shallow] [--reuse-external] [--blockdev] "
    f"{_WAIT_USAGE} [--pivot] [--finish] [--async] [--xml <string>] [--format <string>] [--granularity <number>] "
    "[--buf-size <number>] [--bytes] [--transient-job] [--synchronous-writes] [--print-xml]",
    "mirror a disk into another image",
)
def blockcopy(shell: Shell, values: Values) -> None:
    """Mirror a disk."""
    exclusive(values, "dest", "xml")
    exclusive(values, "format", "xml")
    exclusive(values, "pivot", "finish")
    path, dest, document = values.text("path"), values.get("dest"), values.get("xml")
    if dest is None and document is None:
        msg = "need either --dest or --xml"
        raise VerbFailed(msg)
    xml = read_file(document) if document is not None else _target(values, dest or "")
    if values.flag("print-xml"):
        shell.write(xml)
        return
    waits = _waits(values, "pivot", "finish")
    flags = collect(values, {"shallow": 1, "reuse-external": 2, "transient-job": 4, "synchronous-writes": 8})
    params = []
    if speed := _bandwidth(values, in_bytes=values.flag("bytes")):
        params.append(TypedParam("bandwidth", ParamType.ULLONG, speed if values.flag("bytes") else speed * _MIB))
    if granularity := values.number("granularity", minimum=0):
        params.append(TypedParam("granularity", ParamType.UINT, granularity))
    if size := values.number("buf-size", minimum=0):
        params.append(TypedParam("buf-size", ParamType.ULLONG, size))
    domain = shell.domain(values)
    shell.call("DOMAIN_BLOCK_COPY", domain.ref, path, xml, params, flags)
    if not waits:
        shell.hint("Block Copy started")
        return
    if not _wait(shell, values, domain, path, "Block Copy", ready=True):
        shell.hint("\nCopy aborted")
        return
    pivot, finish = values.flag("pivot"), values.flag("finish")
    _conclude(shell, domain, path, pivot=pivot, finish=finish)
    if pivot:
        shell.hint("\nSuccessfully pivoted")
    else:
        shell.hint("\nSuccessfully copied" if finish else "\nNow in mirroring phase")


def _target(values: Values, dest: str) -> str:
    kind = "block" if values.flag("blockdev") else "file"
    lines = [
        f"<disk{attribute('type', kind)}>",
        f"  <source{attribute('dev' if kind == 'block' else 'file', dest)}/>",
        *([f"  <driver{attribute('type', name)}/>"] if (name := values.get("format")) else []),
        "</disk>",
    ]
    return "\n".join(lines) + "\n"
