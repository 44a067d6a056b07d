from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyhyve.image.opening import OpenSettings, create_image, open_image, parse_create_options

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pyhyve.image.contract import BackingReference, Image

MakeImage = "Callable[..., Image]"


@pytest.fixture
def make_image(tmp_path: Path) -> Callable[..., Image]:
    """Create an image and open it for writing."""

    def make(
        name: str = "disk.qcow2",
        format_name: str = "qcow2",
        size: int = 4 << 20,
        backing: BackingReference | None = None,
        **options: str,
    ) -> Image:
        path = str(tmp_path / name)
        create_image(path, format_name, size, parse_create_options(format_name, options), backing)
        return open_image(path, OpenSettings(format_name, writable=True))

    return make


def read(image: Image, offset: int = 0, length: int | None = None) -> bytes:
    buffer = bytearray(image.size_bytes - offset if length is None else length)
    image.pread_into(memoryview(buffer), offset)
    return bytes(buffer)
