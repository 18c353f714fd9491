"""Bodies in content codings: what real decoders make of them, in any split, and after each flush."""

from __future__ import annotations

import gzip
import random
import sys
import zlib

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.policies.encoders import CODINGS, WINDOW, encoded, encoder

from ..properties import PROPERTY, pieces

TEXT = b"".join(b"<li>%d: %x</li>\n" % (n, n * n * n) for n in range(20000))


def decoder(coding):
    """What takes pieces and gives what they make."""
    if coding == "gzip":
        return zlib.decompressobj(31).decompress
    if coding == "br":
        return _brotli_decoder()
    return zstandard.ZstdDecompressor(max_window_size=2**WINDOW).decompressobj().decompress


def _brotli_decoder():
    stream = brotli.Decompressor()

    def read(data):
        # One call does not give all that there is (brotli 1.2.1).
        got = [stream.process(data)]
        while got[-1]:
            got.append(stream.process(b""))
        return b"".join(got)

    return read


def whole(coding, data):
    if coding == "gzip":
        return gzip.decompress(data)
    if coding == "br":
        return brotli.decompress(data)
    # Several frames would be read as one.
    reader = zstandard.ZstdDecompressor().decompressobj()
    body = reader.decompress(data)
    assert reader.eof
    assert not reader.unused_data
    return body


BODIES = st.binary(max_size=3000) | st.builds(
    lambda start, size: TEXT[start : start + size], st.integers(0, 1000), st.integers(0, 200_000)
)


@PROPERTY
@given(
    st.sampled_from(CODINGS),
    BODIES,
    st.lists(st.integers(0, 200_000), max_size=6),
    st.lists(st.booleans(), min_size=8, max_size=8),
)
def test_what_was_flushed_can_be_read(coding, body, cuts, flushes):
    stream = encoder(coding)
    sent = b""
    came = b""
    for piece, flush in zip(pieces(body, cuts), flushes, strict=False):
        came += stream.write(piece)
        sent += piece
        if flush:
            came += stream.flush()
            assert decoder(coding)(came) == sent
    assert whole(coding, came + stream.finish()) == body


@PROPERTY
@given(st.sampled_from(CODINGS), BODIES)
def test_whole_bodies(coding, body):
    assert whole(coding, encoded(coding, body)) == body


@pytest.mark.parametrize("coding", CODINGS)
def test_text_gets_small(coding):
    assert len(encoded(coding, TEXT)) < len(TEXT) / 2
    stream = encoder(coding)
    assert len(stream.write(TEXT) + stream.finish()) < len(TEXT) / 2


@pytest.mark.parametrize("coding", CODINGS)
def test_streams_do_not_meet(coding):
    """Two at a time, and whole bodies between: each its own."""
    one, other = encoder(coding), encoder(coding)
    first = one.write(b"one" * 1000)
    second = other.write(b"other" * 1000)
    between = encoded(coding, b"between" * 1000)
    first += one.flush() + one.write(b"one") + one.finish()
    second += other.finish()
    assert whole(coding, first) == b"one" * 1001
    assert whole(coding, second) == b"other" * 1000
    assert whole(coding, between) == b"between" * 1000


@pytest.mark.parametrize("coding", CODINGS)
def test_the_same_body_is_the_same_bytes(coding):
    assert encoded(coding, TEXT[:5000]) == encoded(coding, TEXT[:5000])


def test_the_windows_are_small():
    """Of a body far larger than the window a decoder that has no larger one can read all."""
    body = random.Random(1).randbytes(2**WINDOW * 3)
    for make in (lambda: encoded("zstd", body), lambda: (s := encoder("zstd")).write(body) + s.finish()):
        frame = zstandard.get_frame_parameters(make())
        assert frame.window_size <= max(2**WINDOW, len(body) if frame.content_size == len(body) else 0)
    stream = encoder("zstd")
    assert zstandard.get_frame_parameters(stream.write(body)).window_size == 2**WINDOW
    # The first bits of a brotli stream are its window's size (RFC 7932, 9.1): 0001 is 17.
    stream = encoder("br")
    assert (stream.write(body) + stream.flush())[0] & 0b1111111 == 0b0000001


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("coding, kib", [("gzip", 150), ("br", 400), ("zstd", 300)])
def test_an_event_stream_takes_little_memory(coding, kib):
    def used():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4

    warm = encoder(coding)
    warm.write(b"data: 0\n\n")
    warm.flush()
    before = used()
    streams = [encoder(coding) for _ in range(40)]
    for stream in streams:
        stream.write(b"data: 1\n\n")
        stream.flush()
    assert (used() - before) / len(streams) < kib
