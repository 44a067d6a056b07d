"""Moving data between the layers of a backing chain: rebase and commit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pyhyve.image.contract import BackingReference, Image, ImageUnsupportedError, LayerState
from pyhyve.image.operations.work import CHUNK_BYTES, Zeroes, merged_extents

if TYPE_CHECKING:
    from collections.abc import Callable


def read_padded(image: Image | None, view: memoryview, offset: int) -> None:
    """Fill `view` from an image that may be shorter or missing; the rest is zero."""
    inside = 0 if image is None else max(0, min(len(view), image.size_bytes - offset))
    if image is not None and inside:
        image.pread_into(view[:inside], offset)
    if inside < len(view):
        view[inside:] = bytes(len(view) - inside)


def copy_differences(top: Image, new_backing: Image | None, progress: Callable[[int, int], None] | None = None) -> None:
    """Before a rebase: store in `top` what its old backing chain shows and the new one does not.

    `top.backing` is the old chain. Nothing changes for a reader in between.
    """
    old, total = top.backing, top.size_bytes
    unit = top.cluster_size_bytes or 65536
    buffers = bytearray(CHUNK_BYTES), memoryview(bytearray(CHUNK_BYTES))
    for run in list(top.layer_extents(0, total)):
        at, end = run.start, run.start + run.length
        while at < end and run.state is LayerState.UNALLOCATED:
            step = min(CHUNK_BYTES, end - at)
            left, right = memoryview(buffers[0])[:step], buffers[1][:step]
            read_padded(old, left, at)
            read_padded(new_backing, right, at)
            if bytearray(left) != right:
                for part in range(0, step, unit):
                    if bytes(left[part : part + unit]) != bytes(right[part : part + unit]):
                        top.pwrite(left[part : part + unit], at + part)
            at += step
        if progress is not None:
            progress(end, total)


def change_backing(image: Image, below: BackingReference | None) -> None:
    """Store another backing reference; ImageUnsupportedError when the format cannot."""
    from pyhyve.image.qcow2.image import Qcow2Image  # noqa: PLC0415 - only when it is done
    from pyhyve.image.qcow2.maintenance import change_backing as change_qcow2  # noqa: PLC0415

    if not isinstance(image, Qcow2Image):
        msg = f"Format '{image.format_name}' does not support changing the backing file"
        raise ImageUnsupportedError(msg)
    change_qcow2(image, below.filename if below else None, below.format_name if below else None)


def commit(
    top: Image,
    base: Image,
    depth: int,
    progress: Callable[[int, int], None] | None = None,
    rate_limit: int = 0,
) -> None:
    """Write into `base` what the `depth` layers above it hold. `base` is open for writing on its own.

    `rate_limit` is in bytes per second (0: none).
    """
    begin, copied = time.monotonic(), 0
    total, old_size = top.size_bytes, base.size_bytes
    if old_size < total:
        base.resize(total)
    buffer, zeroes = memoryview(bytearray(CHUNK_BYTES)), Zeroes()
    for extent in merged_extents(top):
        held = extent.present and extent.depth < depth
        # A layer that is longer than the one below it hides what the base has there.
        beyond = not extent.present and extent.depth < depth and extent.start < old_size
        if (held and extent.zero) or beyond:
            base.write_zeroes(extent.start, extent.length)
        elif held:
            at = extent.start
            while at < extent.end:
                part = buffer[: min(CHUNK_BYTES, extent.end - at)]
                top.pread_into(part, at)
                if zeroes.is_zero(part):
                    base.write_zeroes(at, len(part))
                else:
                    base.pwrite(part, at)
                at += len(part)
                copied += len(part)
                if rate_limit:
                    time.sleep(max(0.0, begin + copied / rate_limit - time.monotonic()))
        if progress is not None:
            progress(extent.end, total)
    base.flush()
