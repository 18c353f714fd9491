"""From an address to a connected protocol: TCP, Unix sockets, and TLS that verifies whom it talks to."""

from __future__ import annotations

import functools
from typing import Any

from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
    _WrappingProtocol,
    wrapClientTLS,
)
from twisted.internet.interfaces import (
    IHandshakeListener,
    IHostnameResolver,
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import CertificateOptions, platformTrust
from twisted.internet.tcp import BaseClient
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from ..addresses import Address
from .names import Hosts, names_of

_PROTOCOL = b"http/1.1"
_FAULTS = {
    SSL.X509VerificationCodes.ERR_CERT_HAS_EXPIRED: "has expired",
    SSL.X509VerificationCodes.ERR_CERT_NOT_YET_VALID: "is not valid yet",
    SSL.X509VerificationCodes.ERR_DEPTH_ZERO_SELF_SIGNED_CERT: "is self-signed",
    SSL.X509VerificationCodes.ERR_SELF_SIGNED_CERT_IN_CHAIN: "is from an authority that is not trusted",
    SSL.X509VerificationCodes.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY: "is from an authority that is not known",
    SSL.X509VerificationCodes.ERR_CERT_SIGNATURE_FAILURE: "is not signed by whom it says",
    SSL.X509VerificationCodes.ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE: "is from an authority that is not known",
}


class HandshakeFailed(Exception):
    """TLS could not be agreed upon, or the certificate is not right; the text says why, for the log."""


@implementer(IHostnameResolver)
class _NameEndpoint(HostnameEndpoint):
    """Connects to what our own look-ups find, as Twisted connects to what the reactor's resolver finds.

    That one's threads are shared with everything else, and it takes a look-up that was cancelled for a name
    that is not known.
    """

    _hosts: Hosts = ()

    @staticmethod
    def _hostAsBytesAndText(host: bytes | str) -> tuple[bool, bytes, str]:
        # Twisted's own check is IDNA's, for names that people type; an Address holds canonical ASCII, and
        # underscores too: Docker Compose makes such names, and DNS does not mind.
        text = host.decode("ascii") if isinstance(host, bytes) else host
        return False, text.encode("ascii"), text

    def _getNameResolverAndMaybeWarn(self, reactor: object) -> IHostnameResolver:
        return self

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `twisted.internet.interfaces.IStreamClientEndpoint`; fails as `Names.look_up` does, too."""

        def found(hosts: Hosts) -> Deferred[IProtocol]:
            self._hosts = hosts
            return HostnameEndpoint.connect(self, protocolFactory)

        return names_of(self._reactor).look_up(self._hostText).addCallback(found)

    def resolveHostName(
        self, resolutionReceiver: IResolutionReceiver, hostName: str, portNumber: int = 0, *rest: Any
    ) -> Any:
        """See `twisted.internet.interfaces.IHostnameResolver`: tells what was found."""
        for host in self._hosts:
            kind = IPv6Address if ":" in host else IPv4Address
            resolutionReceiver.addressResolved(kind("TCP", host, portNumber))
        resolutionReceiver.resolutionComplete()


def endpoint_for(reactor: Any, address: Address, timeout: float, trust: Any = None) -> IStreamClientEndpoint:
    """The Twisted endpoint that connects to `address` within `timeout` seconds.

    https is connected when the handshake is done: against the roots in `trust` (the system's if None) and the
    address's host by service-identity (RFC 9525), else it fails with `HandshakeFailed`.
    `reactor` provides IReactorTCP, IReactorUNIX and IReactorFromThreads. To look up a name takes as long as
    it takes: whoever does not want to wait cancels.
    """
    if address.socket:
        return UNIXClientEndpoint(reactor, address.socket, timeout)
    endpoint: IStreamClientEndpoint
    if isIPAddress(address.host):
        endpoint = TCP4ClientEndpoint(reactor, address.host, address.port, timeout)
    elif isIPv6Address(address.host):
        endpoint = TCP6ClientEndpoint(reactor, address.host, address.port, timeout)
    else:
        endpoint = _NameEndpoint(reactor, address.host, address.port, timeout)
    if address.scheme == "https":
        endpoint = _TLSEndpoint(endpoint, address, trust)
    return endpoint


def unwrap(transport: Any) -> None:
    """Take the endpoint's wrapper, which has done its work, off the way of every read of a connection."""
    raw = transport
    while isinstance(raw, (TLSMemoryBIOProtocol, _WrappingProtocol)):
        raw = raw.transport
    if isinstance(raw, BaseClient) and isinstance(raw.protocol, _WrappingProtocol):
        raw.protocol = raw.protocol._wrappedProtocol


# A context costs milliseconds, for it reads all roots; what is of one host only is set on its connections.
@functools.lru_cache(8)
def _context(verify: bool, trust: Any) -> SSL.Context:
    if verify:
        return CertificateOptions(trustRoot=trust or platformTrust()).getContext()
    return CertificateOptions(verify=False).getContext()


@implementer(IStreamClientEndpoint)
class _TLSEndpoint:
    """TLS over another endpoint, connected when the handshake is done and the certificate found right."""

    def __init__(self, endpoint: IStreamClientEndpoint, address: Address, trust: Any) -> None:
        self.endpoint = endpoint
        self._address = address
        self._context = _context(address.verify, trust)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `twisted.internet.interfaces.IStreamClientEndpoint`."""
        handshake = _Handshake(self._address, self._context, protocolFactory)
        factory = Factory.forProtocol(lambda: handshake)
        factory.noisy = False
        connecting: Deferred[IProtocol] = wrapClientTLS(handshake, self.endpoint).connect(factory)
        return connecting.addCallback(lambda _: handshake.done)


@implementer(IHandshakeListener, IOpenSSLClientConnectionCreator)
class _Handshake(Protocol):
    """Stands for the protocol until the handshake is done, so that nothing is sent to anybody else."""

    transport: Any

    def __init__(self, address: Address, context: SSL.Context, factory: IProtocolFactory) -> None:
        self.done: Deferred[IProtocol] = Deferred(lambda _: self.transport.abortConnection())
        self._address = address
        self._context = context
        self._factory = factory
        self._fault = ""

    @property
    def _is_name(self) -> bool:
        return not (isIPAddress(self._address.host) or isIPv6Address(self._address.host))

    def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        """See `twisted.internet.interfaces.IOpenSSLClientConnectionCreator`."""
        connection = SSL.Connection(self._context)
        connection.set_app_data(tlsProtocol)
        connection.set_alpn_protos([_PROTOCOL])
        if self._is_name:
            connection.set_tlsext_host_name(self._address.host.encode("ascii"))
        if self._address.verify:
            connection.set_verify(SSL.VERIFY_PEER, self._chain_looked_at)
        return connection

    def _chain_looked_at(self, _connection: object, _cert: object, code: int, _depth: int, ok: int) -> bool:
        """What OpenSSL says of one certificate of the chain; we only remember what was wrong."""
        if not ok and not self._fault:
            self._fault = f"its certificate {_FAULTS.get(code, f'is not right (X.509 error {code})')}"
        return bool(ok)

    def handshakeCompleted(self) -> None:
        """See `twisted.internet.interfaces.IHandshakeListener`: it is whom we want to talk to, or is not."""
        if self.done.called:
            return
        if self._address.verify:
            self._fault = self._wrong_name()
            if self._fault:
                self.transport.abortConnection()
                return
        connection = self._factory.buildProtocol(self.transport.getPeer())
        if connection is None:
            self.transport.abortConnection()
            return
        self.transport.wrappedProtocol = connection
        connection.makeConnection(self.transport)
        self.done.callback(connection)

    def _wrong_name(self) -> str:
        host = self._address.host
        certificate = self.transport.getPeerCertificate().to_cryptography()
        try:
            if self._is_name:
                verify_certificate_hostname(certificate, host)
            else:
                verify_certificate_ip_address(certificate, host)
        except (VerificationError, CertificateError, ValueError):
            # It is another's; it is nobody's; or it cannot be read.
            return f"its certificate is not one for {host}"
        return ""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The handshake failed."""
        if not self.done.called:
            self.done.errback(HandshakeFailed(self._fault or _why(reason)))


def _why(reason: Failure) -> str:
    error = reason.value
    if isinstance(error, SSL.Error) and error.args and error.args[0]:
        return f"no TLS: {', '.join(text for _library, _function, text in error.args[0])}"
    return f"it closed the connection during the TLS handshake: {reason.getErrorMessage()}"
