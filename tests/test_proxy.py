"""The embeddable part: what it opens, when it is ready, what it lets go of."""

from __future__ import annotations

import types
from typing import Any, cast
from unittest.mock import Mock

import attrs
import pytest
from twisted.internet.defer import Deferred

from onebackend_proxy import ProxyService, SettingError
from onebackend_proxy import proxy as proxy_module
from onebackend_proxy.api.exposition import READINGS
from onebackend_proxy.balancing import Upstream
from onebackend_proxy.errors import ProxyError, StoreUnavailable
from onebackend_proxy.messages import Answer
from onebackend_proxy.records import Redirect, Route

from .assembly import AssemblyTests
from .conformance import instance
from .tls import making
from .wire import Wire


class TestProxyService(AssemblyTests):
    """The embeddable part."""

    def test_it_makes_its_folder_and_its_secrets(self) -> None:
        proxy = ProxyService(self.settings, self.reactor)
        assert self.folder.stat().st_mode & 0o777 == 0o700
        for name in ("encryption.key", "admin-password"):
            assert (self.folder / name).stat().st_mode & 0o777 == 0o600
        proxy.startService()
        assert self.passwords == [(self.folder / "admin-password").read_text().strip()]

    def test_secrets_that_are_given_are_not_written(self) -> None:
        changed = attrs.evolve(self.settings, encryption_key="key", admin_password="secret")
        ProxyService(changed, self.reactor).startService()
        assert list(self.folder.iterdir()) == []
        assert self.passwords == ["secret"]

    def test_a_folder_that_cannot_be_used(self) -> None:
        self.folder.write_text("a file")
        with pytest.raises(SettingError, match="--folder"):
            ProxyService(self.settings, self.reactor)

    def test_it_is_ready_when_the_store_is_read(self) -> None:
        self.store.save_instance(instance("http://10.0.0.1:8000"))
        self.hashing = Deferred()
        proxy = ProxyService(self.settings, self.reactor)
        proxy.startService()
        self.assertNoResult(proxy.ready)
        assert proxy.registry.lookup("svc") is None
        self.hashing.callback(None)
        self.successResultOf(proxy.ready)
        assert proxy.registry.lookup("svc") is not None
        assert set(proxy.resource._built_in) == {b"user-svc", b"registry-svc", b"proxy-svc"}
        (options,) = self.opened
        slug_in_use = options.pop("slug_in_use")
        assert (slug_in_use("svc"), slug_in_use("other")) == (True, False)
        assert options == {"open_registration": False}

    def test_instances_are_looked_at_from_then_on(self) -> None:
        self.store.save_instance(instance("http://10.0.0.1:8000"))
        proxy = ProxyService(self.settings, self.reactor)
        proxy.startService()
        assert [client[:2] for client in self.reactor.tcpClients] == [("10.0.0.1", 8000)]
        self.upstream()
        assert [view.status for view in proxy.registry.instances()] == ["Healthy"]
        proxy.registry.register(instance("http://10.0.0.2:8000"))
        assert [client[:2] for client in self.reactor.tcpClients] == [("10.0.0.2", 8000)]

    def test_a_store_that_cannot_be_read_is_told_to_who_waits(self) -> None:
        self.store.failure = StoreUnavailable("locked")
        proxy = ProxyService(self.settings, self.reactor)
        proxy.startService()
        self.failureResultOf(proxy.ready, StoreUnavailable)

    def test_stopping_lets_go_of_everything(self) -> None:
        proxy = ProxyService(self.settings, self.reactor)
        proxy.startService()
        self.successResultOf(proxy.stopService())
        assert self.store.failure is not None
        assert self.reactor.getDelayedCalls() == []

    def test_stopping_before_it_is_ready_ends_the_start(self) -> None:
        self.hashing = Deferred()
        proxy, _listening = self.started()
        self.successResultOf(proxy.stopService())
        self.hashing.callback(None)
        self.flushLoggedErrors(StoreUnavailable)
        assert self.reactor.stops == 0
        assert self.reactor.hooks == []
        assert self.reactor.getDelayedCalls() == []

    def test_the_default_reactor_is_the_one_that_runs(self) -> None:
        from twisted.internet import reactor

        assert ProxyService(self.settings)._reactor is reactor

    def test_the_client_behind_a_trusted_proxy(self) -> None:
        proxy = ProxyService(self.settings, self.reactor)
        made: list[Any] = []

        def built_in(store: object, registry: object, accounts: object, address: Any, **more: Any) -> Any:
            made.append(address)
            return {}

        self.patch(proxy_module, "built_in_services", built_in)
        proxy.startService()
        wire = Wire(self.reactor, "192.0.2.9")
        request = types.SimpleNamespace(getClientAddress=wire.getPeer, isSecure=lambda: False)
        assert made[0](request) == "192.0.2.9"


class TestMetrics(AssemblyTests):
    """What is counted, on whichever site, and where a scrape finds it."""

    def ask(self, listening: Any, line: bytes, *fields: bytes, site: int = 0, host: bytes = b"x.com") -> Any:
        client = self.connect(listening, site)
        return client.send(b"\r\n".join((line + b" HTTP/1.1", b"Host: " + host, *fields, b"", b"")))

    def served(self, proxy: ProxyService) -> dict[str, list[int]]:
        return {name: sorted(counts.outcomes) for name, counts in proxy.counts.all()}

    def test_all_sites_count_together(self) -> None:
        self.store.save_routes([Route("x.com", "http://10.0.0.1:8000")])
        self.store.save_instance(instance("http://10.0.0.2:8000"))
        proxy, listening = self.started(edge=True)
        self.ask(listening, b"GET /nobody/x")
        self.ask(listening, b"GET /", site=1)
        self.ask(listening, b"GET /", site=2)
        assert self.served(proxy) == {"": [3, 4]}
        picture = proxy._metrics().picture()
        assert (picture.readings["connections"], picture.readings["exchanges_in_flight"]) == (3, 1)
        # The health checks have connected to both before.
        self.upstream(), self.upstream()
        self.upstream().receive(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert self.served(proxy) == {"": [3, 4], "x.com": [2]}
        upstreams = proxy._metrics().picture().upstreams
        addresses = [(route, endpoint.address.authority) for route, endpoint in upstreams]
        assert sorted(addresses) == [("", "10.0.0.1:8000"), ("/svc", "10.0.0.2:8000")]

    def test_what_is_deleted_is_forgotten_at_the_next_change(self) -> None:
        self.store.save_routes([Route(f"{name}.com", "http://10.0.0.1:8000") for name in "abc"])
        self.store.save_instance(instance("http://10.0.0.2:8000"))
        proxy, _listening = self.started()
        for name in ("", "a.com", "b.com", "c.com", "/svc", "/gone"):
            proxy.counts.add(name, 200, 0.1)
        self.store.delete_routes(["b.com"])
        assert sorted(self.served(proxy)) == ["", "/svc", "a.com", "c.com"]
        self.store.delete_routes(["c.com"])
        assert len(proxy._metrics().picture().requests) == 3
        proxy._publish(attrs.evolve(cast(Any, proxy._published), instances=()))
        assert len(proxy._metrics().picture().requests) == 2

    def test_every_reading_has_a_name_and_a_help(self) -> None:
        proxy, _listening = self.started(edge=True)
        assert set(proxy.readings) == set(READINGS)
        assert all(value >= 0 for value in proxy._metrics().picture().readings.values())

    def test_certificates(self) -> None:
        proxy, _listening = self.started()
        assert proxy._metrics().picture().certificates == []
        self.store.save_certificates([making.record("x.com")])
        assert [each.id for each in proxy._metrics().picture().certificates] == ["x.com"]

    def test_the_token_is_that_of_the_settings(self) -> None:
        proxy, _listening = self.started(metrics_token="a token for metrics")
        assert proxy._metrics().token == "a token for metrics"

    def test_a_trace_is_begun_where_that_is_wanted(self) -> None:
        self.store.save_instance(instance("http://10.0.0.2:8000"))
        for trace in True, False:
            _proxy, listening = self.started(trace=trace)
            self.upstream()
            self.ask(listening, b"GET /svc/x")
            assert (b"\r\ntraceparent: 00-" in self.upstream().take()) is trace


class TestFollowingTheStore(AssemblyTests):
    """What the store publishes is served at once, from whichever process it came."""

    def edge_to(self, proxy: ProxyService, host: bytes, target: bytes = b"/") -> Any:
        """What the edge chooses: the upstream's name, a location, or the error."""
        try:
            chosen = proxy.edge.choose(Mock(host=host, target=target))
        except ProxyError as error:
            return error.status
        if isinstance(chosen, Answer):
            return dict(chosen.headers)[b"Location"]
        return chosen if chosen is None else cast(Any, chosen).name

    def test_routes_and_redirects(self) -> None:
        self.store.save_routes([Route("x.com", "http://10.0.0.1:8000")])
        proxy, _listening = self.started(edge=True)
        assert self.edge_to(proxy, b"x.com") == "x.com"
        self.store.save_redirects([Redirect("x.com/old", "/new")])
        assert self.edge_to(proxy, b"x.com", b"/old/x") == b"/new/x"
        self.store.delete_redirects(["x.com/old"])
        self.store.save_routes([Route("x.com/old", "http://10.0.0.2:8000")])
        assert self.edge_to(proxy, b"x.com", b"/old/x") == "x.com/old"
        self.store.delete_routes(["x.com", "x.com/old"])
        assert self.edge_to(proxy, b"x.com") == 404

    def test_targets_of_routes_are_looked_at_as_instances_are(self) -> None:
        proxy, _listening = self.started(edge=True)
        self.store.save_routes([Route("x.com", "http://10.0.0.9:8000")])
        self.edge_to(proxy, b"x.com")
        self.reactor.advance(60)
        assert ("10.0.0.9", 8000) in [client[:2] for client in self.reactor.tcpClients]

    def test_certificates(self) -> None:
        proxy, _listening = self.started(edge=True)
        assert proxy.certificates.certificate_for("x.com") is None
        self.store.save_certificates([making.record("x.com")])
        found = proxy.certificates.certificate_for("x.com")
        assert found is not None and found.id == "x.com" and found.private_key == ""
        self.store.delete_certificates(["x.com"])
        assert proxy.certificates.certificate_for("x.com") is None

    def test_local_names_are_those_of_routes_and_redirects(self) -> None:
        proxy, _listening = self.started(edge=True)
        names = ("localhost", "127.0.0.1", "[::1]", "a.localhost")
        assert [proxy.certificates.certificate_for(name) for name in names] == [None] * 4
        self.store.save_routes([Route("localhost", "http://10.0.0.1"), Route("[::1]", "http://10.0.0.1")])
        self.store.save_redirects([Redirect("127.0.0.1", "https://localhost")])
        shown = [proxy.certificates.certificate_for(name) for name in names]
        assert [found is not None for found in shown] == [True, True, True, False]
        assert shown[0] is not None and (shown[0].issuer, shown[0].serial) == ("local authority", "")

    def test_what_did_not_change_is_not_taken_over_again(self) -> None:
        proxy, _listening = self.started(edge=True)
        certificates = Mock()
        self.patch(proxy, "certificates", certificates)
        self.store.save_routes([Route("x.com", "http://10.0.0.1:8000")])
        assert certificates.publish.mock_calls == []
        self.store.save_certificates([making.record("x.com")])
        assert len(certificates.publish.mock_calls) == 1

    def test_explain_sees_the_same(self) -> None:
        proxy, _listening = self.started(edge=True)
        self.store.save_routes([Route("x.com", "http://10.0.0.1:8000")])
        view = proxy._edge_view()
        request: Any = Mock(host=b"x.com", target=b"/p")
        assert view.published().routes.get("x.com") is not None
        assert isinstance(proxy.edge.choose(request), Upstream)
        answer = proxy.plain_edge.choose(request)
        assert answer is not None
        assert dict(answer.headers)[b"Location"] == b"https://x.com/p"
