"""Which endpoint connects to an address, and that https verifies."""

from __future__ import annotations

from typing import Any, cast

import pytest
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.interfaces import IHostnameResolver
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import optionsForClientTLS
from twisted.internet.testing import MemoryReactorClock

from onebackend_proxy.addresses import parse_instance_url
from onebackend_proxy.upstream import connecting
from onebackend_proxy.upstream.connecting import endpoint_for


def connect(url: str) -> Any:
    return endpoint_for(MemoryReactorClock(), parse_instance_url(url), 5)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("http://10.0.0.1:8000", TCP4ClientEndpoint),
        ("http://[::1]:8000", TCP6ClientEndpoint),
        ("http://service.example", HostnameEndpoint),
        ("http://my_service:8000", HostnameEndpoint),
    ],
)
def test_http_is_plain(url: str, kind: type) -> None:
    assert isinstance(connect(url), kind)


def test_it_goes_where_the_address_says() -> None:
    endpoint = connect("http://10.0.0.1:8000")
    assert (endpoint._host, endpoint._port, endpoint._timeout) == ("10.0.0.1", 8000, 5)


@pytest.mark.parametrize(
    ("url", "kind", "name"),
    [
        ("https://10.0.0.1:8443", TCP4ClientEndpoint, "10.0.0.1"),
        ("https://[::1]:8443", TCP6ClientEndpoint, "::1"),
        ("https://service.example", HostnameEndpoint, "service.example"),
        ("https://xn--bcher-kva.example", HostnameEndpoint, "xn--bcher-kva.example"),
    ],
)
def test_https_verifies_the_name_it_connects_to(
    monkeypatch: pytest.MonkeyPatch, url: str, kind: type, name: str
) -> None:
    # With nothing but the name, Twisted verifies by the system's roots and service-identity.
    asked: list[tuple[object, ...]] = []

    def options(*arguments: object, **named: object) -> object:
        asked.append((*arguments, named))
        return optionsForClientTLS(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(connecting, "optionsForClientTLS", options)
    wrapped = connect(url)
    assert isinstance(wrapped._wrappedEndpoint, kind)
    assert asked == [(name, {})]


def test_a_name_with_an_underscore_is_looked_up_as_it_is() -> None:
    reactor = MemoryReactorClock()
    asked: list[str] = []

    class Resolver:
        def resolveHostName(self, receiver: Any, name: str, *rest: Any, **named: Any) -> Any:
            asked.append(name)
            return receiver

    reactor.nameResolver = cast(IHostnameResolver, Resolver())
    address = parse_instance_url("http://my_service:8000")
    endpoint_for(reactor, address, 5).connect(Factory.forProtocol(Protocol)).addErrback(lambda _: None)
    assert asked == ["my_service"]


def test_a_name_that_no_certificate_can_have() -> None:
    with pytest.raises(UnicodeError):
        connect("https://my_service")
