"""The examples of docs/access.rst."""

from __future__ import annotations

from .examples import assert_as_shown, write_files
from .policies import Reply, Service
from .raw_backend import RawBackend
from .recording import Received


def test_the_examples(front, tmp_path):
    def check(received: Received) -> Reply:
        if b"session=ada" in received.all(b"cookie"):
            return Reply(b"", ("X-User: ada",))
        return Reply(b"log in", ("Location: https://login.example.com/",), "302 Found")

    service, login = Service(), Service(check)
    with RawBackend(service) as backend, RawBackend(login) as asked:
        write_files(
            "access.rst",
            tmp_path,
            {"http://127.0.0.1:3000": backend.url, "http://127.0.0.1:9000": asked.url},
        )
        front.certify("intranet.example.com", "app.example.com")
        assert_as_shown("access.rst", front, tmp_path)
    first, second = service.requests
    assert first.all(b"authorization") == []
    assert (second.target, second.all(b"x-user")) == (b"/reports?year=2026", [b"ada"])
    question = login.requests[-1]
    assert (question.method, question.target) == (b"GET", b"/check")
    assert question.all(b"x-forwarded-uri") == [b"/reports?year=2026"]
    assert question.all(b"x-forwarded-method") == [b"GET"]
    assert question.all(b"x-forwarded-host") == [b"app.example.com"]
    assert question.all(b"host") == [asked.url.removeprefix("http://").encode()]
