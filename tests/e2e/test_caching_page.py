"""The example of docs/caching.rst."""

from __future__ import annotations

import re

from .examples import commands, run, write_files
from .policies import Reply, Service
from .raw_backend import RawBackend

STORY = b"Once upon a time there was a proxy.\n"
FIELDS = ("Content-Type: text/plain", "Cache-Control: max-age=3600", 'ETag: "v1"')


def timeless(line: str) -> str:
    """The same without what a slow machine changes."""
    return re.sub(r"(ttl=|age: )\d+$", r"\1N", line.strip())


def test_the_example(front, tmp_path):
    service = Service(lambda received: Reply(STORY, FIELDS))
    with RawBackend(service) as backend:
        write_files("caching.rst", tmp_path, {"http://127.0.0.1:3000": backend.url})
        front.certify("shop.example")
        for command, shown in commands("caching.rst"):
            output = run(front, command, tmp_path)
            lines = iter([timeless(line) for line in output.splitlines()])
            for line in shown:
                assert timeless(line) in lines, f"{command}: no {line!r} in\n{output}"
        assert len(service.requests) == 1
        assert run(front, ["oo", "cache", "purge", "--all"], tmp_path) is not None
        front.curl("https://shop.example/story.txt")
        assert len(service.requests) == 2
