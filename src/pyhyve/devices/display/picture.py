"""A picture, as PPM or PNG."""

from __future__ import annotations

import struct
import zlib

from pyhyve.support.records import dataclass


@dataclass(frozen=True, slots=True)
class Picture:
    """Rows from the top, three bytes (red, green, blue) for each pixel."""

    width: int
    height: int
    rgb: bytes

    def ppm(self) -> bytes:
        """Netpbm's binary "portable pixmap"."""
        return b"P6\n%d %d\n255\n" % (self.width, self.height) + self.rgb

    def png(self) -> bytes:
        """PNG (ISO/IEC 15948): true colour, no filters."""
        stride = 3 * self.width
        rows = b"".join(b"\0" + self.rgb[at : at + stride] for at in range(0, stride * self.height, stride))
        header = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows, 6)) + _chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
