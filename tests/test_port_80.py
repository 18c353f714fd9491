"""Port 80 of the whole program: challenges from the store, and what is answered beside them."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

from onebackend_proxy.messages import Answer
from onebackend_proxy.records import Challenge, Route
from onebackend_proxy.tls.challenges import HTTP_01

from .assembly import AssemblyTests
from .tls import making

TARGET = b"/.well-known/acme-challenge/token"
GET = b"GET %b HTTP/1.1\r\nHost: x.com\r\n\r\n" % TARGET


class TestPort80(AssemblyTests):
    """With a Route for ``x.com``, and a challenge that another process has placed."""

    def setUp(self) -> None:
        super().setUp()
        self.reads = 0
        plain = self.store.challenges

        def challenges(now: Any) -> Any:
            self.reads += 1
            return plain(now)

        self.store.save_routes([Route("x.com", "http://10.0.0.1:8000")])
        # Clocks here begin with 1970.
        challenge = Challenge(HTTP_01, "x.com", "token", "token.thumbprint", making.now())
        self.store.save_challenge(challenge, making.now() - making.DAY)
        self.patch(self.store, "challenges", challenges)

    def test_a_challenge_is_answered(self) -> None:
        _proxy, listening = self.started(edge=True)
        client = self.connect(listening, 1)
        assert client.send(GET).answer().body == b"token.thumbprint"
        assert self.reads == 1
        # On the same connection, all else is as ever, and nothing is relayed.
        for target in (b"/", b"/user-svc/login", TARGET + b"2"):
            answer = client.send(b"GET %b HTTP/1.1\r\nHost: x.com\r\n\r\n" % target).answer()
            assert (answer.status, answer.field(b"Location")) == (308, [b"https://x.com" + target])
        assert client.send(b"GET / HTTP/1.1\r\nHost: y.com\r\n\r\n").answer().status == 404
        assert self.reads == 2 and self.reactor.tcpClients == []

    def test_nowhere_else(self) -> None:
        _proxy, listening = self.started(edge=True)
        self.connect(listening, 0).send(GET)
        self.connect(listening, 2).send(GET)
        assert self.reads == 0

    def test_in_test_mode_it_is_a_path_like_any_other(self) -> None:
        proxy, listening = self.started(edge=True, edge_test_mode=True)
        self.connect(listening, 1).send(GET)
        assert self.reads == 0 and proxy.plain_edge.challenges is None
        assert {client[:2] for client in self.reactor.tcpClients} == {("10.0.0.1", 8000)}

    def test_explained_is_what_nobody_proves(self) -> None:
        proxy, _listening = self.started(edge=True)
        asked: Any = Mock(host=b"x.com", target=TARGET, method=b"GET")
        answer = proxy._edge_view().http(asked)
        assert isinstance(answer, Answer) and answer.status == 308
        assert self.reads == 0
