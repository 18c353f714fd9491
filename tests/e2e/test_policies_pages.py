"""Maintenance by ``oo routes pause`` and ``resume``, and pages in the place of errors."""

from __future__ import annotations

import collections
import subprocess
import sys
import threading

import pytest

from .policies import Reply, door_to
from .proxy_process import environment
from .raw_client import RawClient
from .waiting import free_port

RUN = ("-c", "from onebackend_proxy.cli.main import main; main()")
PAGE = "<!doctype html><title>Soon</title><p>We are moving."


def oo(door, *arguments: str, code: int = 0) -> str:
    """What ``oo`` prints, as a user of the proxy's machine starts it."""
    command = [sys.executable, *RUN, "--url", door.edge.url, *arguments]
    env = environment(
        OB_ADMIN_PASSWORD=door.edge.variables["OB_ADMIN_PASSWORD"] or "", HOME=str(door.edge.folder)
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_pause_and_resume(door):
    oo(door, "routes", "pause", door.id, "--retry-after", "5m", "--message", "back <b>soon</b> & well")
    answer = door.ask("/x")
    assert (answer.status, answer.headers["retry-after"]) == (503, "300")
    assert answer.headers["content-type"].startswith("text/html")
    # The words are the operator's, and no markup.
    assert b"back &lt;b&gt;soon&lt;/b&gt; &amp; well" in answer.body
    assert answer.headers.get("cache-control") in (None, "no-store")
    assert door.service.requests == []
    oo(door, "routes", "resume", door.id)
    assert door.ask("/x").status == 200


def test_pause_of_what_is_not_there(door):
    said = oo(door, "routes", "pause", "nobody.test", code=1)
    assert "nobody.test" in said
    assert door.ask("/x").status == 200


def test_the_rest_of_the_policy_stays(door):
    door.policy(access={"allow": ["127.0.0.2"]})
    oo(door, "routes", "pause", door.id)
    assert door.ask("/x", source="127.0.0.2").status == 503
    oo(door, "routes", "resume", door.id)
    assert [door.ask("/x", source=source).status for source in ("127.0.0.2", "127.0.0.3")] == [200, 403]


@pytest.mark.once
def test_under_load_there_is_nothing_but_200_and_503(desk, front):
    counts: collections.Counter[object] = collections.Counter()
    stop = threading.Event()

    def ask(host: bytes) -> None:
        while not stop.is_set():
            with RawClient(desk.http_port) as client:
                open_still = True
                while open_still and not stop.is_set():
                    answer = client.get(b"/", (b"Host", host))
                    counts[answer.status] += 1
                    open_still = answer.header(b"connection") != b"close"

    def asking(host: bytes) -> None:
        try:
            ask(host)
        except BaseException as error:
            counts[repr(error)] += 1

    with door_to("edge", desk, front) as door:
        threads = [threading.Thread(target=asking, args=(door.name.encode(),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            oo(door, "routes", "pause", door.id)
            oo(door, "routes", "resume", door.id)
        stop.set()
        for thread in threads:
            thread.join(20)
        assert set(counts) == {200, 503}


def test_our_own_errors_have_a_page(door):
    door.policy(errorPages={"502": PAGE, "4xx": "<p>No."}, access={"deny": ["127.0.0.3"]})
    refused = door.ask("/x", source="127.0.0.3")
    assert (refused.status, refused.body) == (403, b"<p>No.")
    assert refused.headers["content-type"].startswith("text/html")
    head = door.ask("/x", "--head", source="127.0.0.3")
    assert (head.status, head.body, head.headers["content-length"]) == (403, b"", "6")


def test_a_service_that_is_down_has_a_page(desk, front):
    with door_to("edge", desk, front) as door:
        desk.route(door.name, f"http://127.0.0.1:{free_port()}", errorPages={"502": PAGE, "5xx": "other"})
        answer = door.ask("/x")
        assert (answer.status, answer.body) == (502, PAGE.encode())


@pytest.mark.parametrize("intercept", [False, True])
def test_a_services_errors_have_one_if_they_are_to(door, intercept):
    door.service.reply = lambda received: Reply(
        b"stack trace",
        ("Content-Type: text/plain", "Set-Cookie: a=b"),
        "500 Oops" if received.target.endswith(b"bad") else "200 OK",
    )
    door.policy(errorPages={"5xx": PAGE}, interceptErrors=intercept)
    answer = door.ask("/bad")
    assert (answer.status, answer.body) == (500, PAGE.encode() if intercept else b"stack trace")
    assert answer.headers["content-type"].startswith("text/html" if intercept else "text/plain")
    assert door.ask("/good").body == b"stack trace"


def test_connections_stay_in_step(desk, front):
    """Pages take the place of bodies: what follows on the same connection is the next answer."""
    with door_to("edge", desk, front) as door:
        door.service.reply = lambda _: Reply(b"x" * 100_000, (), "500 Oops")
        door.policy(errorPages={"5xx": PAGE}, interceptErrors=True)
        with RawClient(desk.http_port) as client:
            for _ in range(3):
                answer = client.get(b"/", (b"Host", door.name.encode()))
                assert (answer.status, answer.body) == (500, PAGE.encode())
