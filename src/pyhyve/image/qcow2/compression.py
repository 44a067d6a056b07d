"""Compressed clusters: raw deflate with a 4 KiB window, or one zstd frame per cluster."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from pyhyve.image.contract import ImageFormatError, ImageUnsupportedError
from pyhyve.image.qcow2.format import CompressionType

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

_WINDOW_BITS = -12
_ZSTD_LEVEL = 3
# A frame may ask for this much history at most; clusters are at most 2 MiB.
_ZSTD_MAX_WINDOW_BYTES = 8 * 1024 * 1024


class Codec(Protocol):
    """Both directions for one cluster; safe to call from any thread, without the GIL where it takes long."""

    def compress(self, data: bytes | memoryview) -> bytes:
        """Compressed form, possibly longer than `data`."""

    def decompress(self, data: bytes | memoryview, size_bytes: int) -> bytes:
        """Exactly `size_bytes`; input after the end of the stream is ignored. ImageFormatError when it is damaged."""


def _deflate_module() -> ModuleType:
    """zlib-ng when installed (more than twice as fast at the same level), else the standard library's."""
    try:
        from zlib_ng import zlib_ng  # noqa: PLC0415 - the import is the test
    except ImportError:
        import zlib  # noqa: PLC0415

        return zlib
    return zlib_ng


class DeflateCodec:
    """RFC 1951 streams."""

    def __init__(self, window_bits: int = _WINDOW_BITS) -> None:
        module = _deflate_module()
        self._compressobj: Callable[..., object] = module.compressobj
        self._decompressobj: Callable[..., object] = module.decompressobj
        self._error: type[Exception] = module.error
        self._window_bits = window_bits

    def compress(self, data: bytes | memoryview) -> bytes:
        """Deflate at the default level."""
        stream: object = self._compressobj(-1, 8, self._window_bits)
        return stream.compress(data) + stream.flush()  # type: ignore[attr-defined,no-any-return]

    def decompress(self, data: bytes | memoryview, size_bytes: int) -> bytes:
        """Inflate at most `size_bytes`."""
        stream = self._decompressobj(self._window_bits)
        try:
            result: bytes = stream.decompress(data, size_bytes)  # type: ignore[attr-defined]
        except self._error as error:
            msg = "a compressed cluster is damaged"
            raise ImageFormatError(msg) from error
        if len(result) != size_bytes:
            msg = "a compressed cluster is too short"
            raise ImageFormatError(msg)
        return result


class ZstdCodec:
    """zstd frames; contexts are kept per thread."""

    def __init__(self) -> None:
        try:
            import zstandard  # noqa: PLC0415 - only images that use it need it
        except ImportError as error:
            msg = "this image is compressed with zstd: install the package `zstandard`"
            raise ImageUnsupportedError(msg) from error
        self._zstd = zstandard
        self._local = threading.local()

    def compress(self, data: bytes | memoryview) -> bytes:
        """One frame at zstd's default level."""
        context = getattr(self._local, "compressor", None)
        if context is None:
            context = self._zstd.ZstdCompressor(level=_ZSTD_LEVEL)
            self._local.compressor = context
        result: bytes = context.compress(data)
        return result

    def decompress(self, data: bytes | memoryview, size_bytes: int) -> bytes:
        """The frame's first `size_bytes`, without trusting the size it states."""
        context = getattr(self._local, "decompressor", None)
        if context is None:
            context = self._zstd.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW_BYTES)
            self._local.decompressor = context
        try:
            stated = self._zstd.frame_content_size(data)
            if stated > size_bytes:
                msg = "a compressed cluster is too long"
                raise ImageFormatError(msg)
            result: bytes = context.decompress(data, max_output_size=size_bytes, allow_extra_data=True)
        except self._zstd.ZstdError as error:
            msg = "a compressed cluster is damaged"
            raise ImageFormatError(msg) from error
        if len(result) != size_bytes:
            msg = "a compressed cluster is too short"
            raise ImageFormatError(msg)
        return result


def codec_for(compression_type: int) -> Codec:
    """The codec of a header's compression_type."""
    return ZstdCodec() if compression_type == CompressionType.ZSTD else DeflateCodec()
