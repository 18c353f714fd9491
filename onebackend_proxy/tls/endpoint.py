"""A server endpoint that speaks TLS, and chooses the certificate by the name that the client wants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IProtocolNegotiationFactory,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.internet.tcp import Port
from zope.interface import implementer

from ..headers import Network, is_trusted
from ..limits import DEFAULTS
from ..transports import ImmediateServer, ImmediateUnixServer, prepare_port
from .client_hello import ClientHello
from .contexts import Contexts
from .transport import Chosen, Handshaking, Ordered, SecuredServer, SecuredUnixServer, UnderWay

_SECURED: dict[Any, Any] = {ImmediateServer: SecuredServer, ImmediateUnixServer: SecuredUnixServer}


@attrs.frozen(eq=False)
class _Choice:
    """See `transport.Choice`: the protocols are one port's, the contexts all ports'."""

    contexts: Contexts
    protocols: tuple[bytes, ...]

    def base(self) -> SSL.Context:
        return self.contexts.base()

    def choose(
        self, hello: ClientHello, address: str, may_order: bool
    ) -> Chosen | Deferred[Chosen] | Ordered:
        return self.contexts.choose(hello, address, may_order)

    def refused(self, reason: str) -> None:
        self.contexts.refused(reason)


class _HandshakeFactory(Factory):
    noisy = False

    def __init__(
        self,
        factory: IProtocolFactory,
        choice: _Choice,
        timeout: float,
        reactor: Any,
        under_way: UnderWay,
        trusted: Sequence[Network],
    ) -> None:
        self._factory = factory
        self._choice = choice
        self._timeout = timeout
        self._reactor = reactor
        self._under_way = under_way
        self._trusted = trusted

    def doStart(self) -> None:
        self._factory.doStart()

    def doStop(self) -> None:
        self._factory.doStop()

    def buildProtocol(self, addr: Any) -> Handshaking:
        build = self._factory.buildProtocol
        ip = getattr(addr, "host", "").partition("%")[0].encode("ascii")
        named = is_trusted(ip, self._trusted)
        return Handshaking(self._choice, build, self._timeout, self._reactor, self._under_way, named)


@implementer(IStreamServerEndpoint)
class TlsEndpoint:
    """`endpoint` with TLS: what listens there gets connections whose handshake is complete.

    It must be one of sockets that the reactor accepts from: ``tcp:``, ``tcp6:``, ``unix:``, ``systemd:``. A
    factory says by `IProtocolNegotiationFactory` which protocols it speaks, the best first (ALPN, RFC 7301).
    Who connects from a network in `trusted` may say first, in clear, who the client is (PROXY protocol).
    """

    def __init__(
        self,
        reactor: Any,
        endpoint: IStreamServerEndpoint,
        contexts: Contexts,
        timeout: float = DEFAULTS.handshake_timeout,
        trusted: Sequence[Network] = (),
    ) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._contexts = contexts
        self._timeout = timeout
        self._trusted = tuple(trusted)
        self._under_way = UnderWay(reactor)

    def handshakes_done(self, seconds: float) -> Deferred[None]:
        """Fires when no handshake is under way, or after `seconds`: who closes a port may wait for them.

        Those that wait until a certificate is ordered wait no longer.
        """
        self._under_way.end_waits()
        return self._under_way.none(seconds)

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """See `twisted.internet.interfaces.IStreamServerEndpoint`."""
        protocols: Sequence[bytes] = ()
        if IProtocolNegotiationFactory.providedBy(protocolFactory):
            protocols = protocolFactory.acceptableProtocols()
        choice = _Choice(self._contexts, tuple(protocols))
        factory = _HandshakeFactory(
            protocolFactory, choice, self._timeout, self._reactor, self._under_way, self._trusted
        )
        listening: Deferred[IListeningPort] = self._endpoint.listen(factory)
        return listening.addCallback(_secure, factory)


def _secure(port: Any, factory: _HandshakeFactory) -> IListeningPort:
    """Let the port make connections that speak TLS, and no others."""
    prepare_port(port)
    # One with another factory between (ssl:, haproxy:) gives its connections something else first.
    plain = isinstance(port, Port) and port.factory is factory
    secured = _SECURED.get(port.transport) if plain else None
    if secured is None:
        port.stopListening()
        raise ValueError(f"TLS needs an endpoint of plain TCP or Unix sockets, which {port!r} is not")
    port.transport = secured
    return port  # type: ignore[no-any-return]
