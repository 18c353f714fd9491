"""Bodies in content codings (RFC 9110, 8.4.1): whole, or as a stream whose every flush can be decoded.

Levels are those at which a proxy gains: three quarters of what the highest ones save, at a tenth of the time.
A stream takes, with nothing but a first event in it and after megabytes: gzip 80 and 240 KiB, br 250 and
750, zstd 160 and 470. The decoder's window is never over 128 KiB (RFC 9659 lets zstd have 8 MiB).
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

GZIP_LEVEL = 5
BROTLI_QUALITY = 4
BROTLI_STREAM_QUALITY = 3
"""One less takes half the memory: thousands of event streams may be open."""
ZSTD_LEVEL = 3
WINDOW = 17
"""How far back it is looked for repetitions, as a power of two of bytes."""
_ZSTD_TABLES = 14
_GZIP_FORMAT = 16 + zlib.MAX_WBITS


class Encoder(Protocol):
    """One body on its way. What a call returns may be b"": it is still held."""

    def write(self, data: bytes, /) -> bytes:
        """Take a piece, and give what is ready."""

    def flush(self) -> bytes:
        """Give all that is needed to decode what was written."""

    def finish(self) -> bytes:
        """Give the rest; nothing may come after it."""


class _Gzip:
    def __init__(self) -> None:
        self._stream = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, _GZIP_FORMAT)
        self.write = self._stream.compress
        self.finish = self._stream.flush

    def flush(self) -> bytes:
        return self._stream.flush(zlib.Z_SYNC_FLUSH)


class _Brotli:
    def __init__(self) -> None:
        stream = library("brotli").Compressor(quality=BROTLI_STREAM_QUALITY, lgwin=WINDOW)
        self.write: Callable[[bytes], bytes] = stream.process
        self.flush: Callable[[], bytes] = stream.flush
        self.finish: Callable[[], bytes] = stream.finish


class _Zstd:
    def __init__(self) -> None:
        self._stream = _zstd().compressobj()
        self.write: Callable[[bytes], bytes] = self._stream.compress
        self.finish: Callable[[], bytes] = self._stream.flush
        self._block = library("zstandard").COMPRESSOBJ_FLUSH_BLOCK

    def flush(self) -> bytes:
        flushed: bytes = self._stream.flush(self._block)
        return flushed


def _zstd() -> Any:
    zstandard = library("zstandard")
    # Small tables lose nothing in a small window, and a stream takes an eighth of the memory.
    parameters = zstandard.ZstdCompressionParameters.from_level(
        ZSTD_LEVEL, window_log=WINDOW, hash_log=_ZSTD_TABLES, chain_log=_ZSTD_TABLES
    )
    return zstandard.ZstdCompressor(compression_params=parameters)


# Bodies that are there as a whole need its tables one after the other.
_whole_zstd = functools.cache(_zstd)


def _gzip_whole(data: bytes) -> bytes:
    return zlib.compress(data, GZIP_LEVEL, _GZIP_FORMAT)


def _brotli_whole(data: bytes) -> bytes:
    encoded: bytes = library("brotli").compress(data, quality=BROTLI_QUALITY, lgwin=WINDOW)
    return encoded


def _zstd_whole(data: bytes) -> bytes:
    encoded: bytes = _whole_zstd().compress(data)
    return encoded


_Coding = tuple[Callable[[], Encoder], Callable[[bytes], bytes], str]
_CODINGS: dict[str, _Coding] = {
    "zstd": (_Zstd, _zstd_whole, "zstandard"),
    "br": (_Brotli, _brotli_whole, "brotli"),
    "gzip": (_Gzip, _gzip_whole, "zlib"),
}
CODINGS = tuple(_CODINGS)
"""All codings, those that we like better first.

zstd is four times as fast as the others at the same size; br is a little smaller than gzip. Caddy puts zstd
before gzip as well; nginx, which has gzip only, leaves the order to whoever compiles more into it.
"""


@functools.cache
def library(name: str) -> Any:
    """The module of this name, loaded when first asked for; None if it is not installed."""
    try:
        return import_module(name)
    except ImportError:
        return None


def available(coding: str) -> bool:
    """Whether there is what this one of `CODINGS` needs."""
    return library(_CODINGS[coding][2]) is not None


def encoder(coding: str) -> Encoder:
    """A stream in this one of `CODINGS`."""
    return _CODINGS[coding][0]()


def encoded(coding: str, data: bytes) -> bytes:
    """A whole body in this one of `CODINGS`."""
    return _CODINGS[coding][1](data)
