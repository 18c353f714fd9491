"""The examples of docs/compression.rst and docs/rate-limits.rst."""

from __future__ import annotations

from .examples import assert_as_shown, write_files
from .policies import Reply, Service
from .raw_backend import RawBackend
from .recording import Received

STORY = b"Once upon a time there was a proxy.\n" * 100


def test_compression(front, tmp_path):
    def story(received: Received) -> Reply:
        return Reply(STORY, ("Content-Type: text/plain", 'ETag: "v1"'))

    with RawBackend(Service(story)) as backend:
        write_files("compression.rst", tmp_path, {"http://127.0.0.1:3000": backend.url})
        front.certify("shop.example")
        assert_as_shown("compression.rst", front, tmp_path)


def test_rate_limits(front, tmp_path):
    service = Service()
    with RawBackend(service) as backend:
        write_files("rate-limits.rst", tmp_path, {"http://127.0.0.1:3000": backend.url})
        front.certify("shop.example")
        assert_as_shown("rate-limits.rst", front, tmp_path)
    assert len(service.requests) == 2
