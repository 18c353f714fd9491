"""One https exchange: bounded in bytes and in time, to a server whose certificate is verified.

Whatever goes wrong is `problems.Unreachable`. Redirects are not followed: no directory needs them. Twisted's
Agent does it and not treq, which spells URLs anew, while those of ACME are signed as they are, and which
decompresses without a bound.
"""

from __future__ import annotations

import importlib.metadata
import pathlib
import re
from collections.abc import Iterable
from io import BytesIO
from typing import Any
from urllib.parse import urljoin, urlsplit

import attrs
from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.internet._sslverify import IOpenSSLTrustRoot
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import optionsForClientTLS, platformTrust
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import (
    URI,
    Agent,
    FileBodyProducer,
    HTTPConnectionPool,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseNeverReceived,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from .problems import Unreachable

MAX_BODY = 1024 * 1024
MAX_URL = 2048
_MAX_HEAD = 64 * 1024
IDLE_SECONDS = 10
"""How long a connection is kept for the next request: less than any server keeps it."""
_CONNECTIONS = 4
_MAX_HOSTS = 8
_URL = re.compile(rf"[!-~]{{1,{MAX_URL}}}")
_BODY_TYPE = b"application/jose+json"


def user_agent() -> bytes:
    """What every request says it is from (RFC 8555, 6.1)."""
    try:
        return b"onebackend-proxy/" + importlib.metadata.version("onebackend_proxy").encode("ascii")
    except importlib.metadata.PackageNotFoundError:
        return b"onebackend-proxy/0"


def host_of(url: str) -> str:
    """The host in an https URL that we would ask, fit for a message; it holds nothing else of the URL.

    Raises `Unreachable` for any other.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        fine = parts.scheme == "https" and parts.port != 0 and "@" not in parts.netloc and host.isascii()
    except ValueError:
        fine, host = False, ""
    if not (fine and host and _URL.fullmatch(url)):
        raise Unreachable("a URL was given that is not one of https")
    return host


def joined(base: str, url: object) -> str:
    """The URL that the server means by `url`, which may be relative to `base`, the one that was asked.

    Raises `Unreachable` if it is none of https.
    """
    try:
        whole = urljoin(base, url) if isinstance(url, str) and url else ""
    except ValueError:
        whole = ""
    host_of(whole)
    return whole


@attrs.frozen
class Reply:
    """An answer, read to its end; the URL is the one that was asked."""

    url: str
    status: int
    headers: Headers = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)

    def header(self, name: str) -> str:
        """The first such field, or ""."""
        # Bytes, for what is not UTF-8 must not end in an error of another kind.
        [value, *_] = self.headers.getRawHeaders(name.encode("ascii")) or [b""]
        return value.decode("latin-1")

    @property
    def content_type(self) -> str:
        """Its media type without parameters, in lower case."""
        return self.header("content-type").partition(";")[0].strip().lower()


@implementer(IOpenSSLTrustRoot)
class _Roots:
    """The system's roots and more."""

    def __init__(self, certificates: list[x509.Certificate]) -> None:
        self._certificates = [crypto.X509.from_cryptography(each) for each in certificates]

    def _addCACertsToContext(self, context: SSL.Context) -> None:
        platformTrust()._addCACertsToContext(context)
        store = context.get_cert_store()
        assert store is not None
        for certificate in self._certificates:
            store.add_cert(certificate)


def trust_roots(ca_file: pathlib.Path | None) -> Any:
    """What a directory's own certificate may go back to: the system's roots, and those in this PEM file.

    Raises `OSError` and `ValueError`.
    """
    if ca_file is None:
        return platformTrust()
    return _Roots(x509.load_pem_x509_certificates(ca_file.read_bytes()))


class _TooLong(Exception):
    """An answer has no end, or too far away."""


class _Counted(ProtocolWrapper):
    """Ends a connection whose answer is too long, in its head or in its body."""

    transport: Any
    wrappedProtocol: Any
    _received = 0

    def dataReceived(self, data: bytes) -> None:
        self._received += len(data)
        if self._received <= _MAX_HEAD + MAX_BODY:
            super().dataReceived(data)
        else:
            self.transport.abortConnection()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """A request, and so the end of the answer before."""
        self._received = 0
        super().writeSequence(data)

    def loseConnection(self) -> None:
        """Without waiting for the other side: nothing that was sent is still of use."""
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._received > _MAX_HEAD + MAX_BODY:
            reason = Failure(_TooLong("its answer is too long"))
        super().connectionLost(reason)


class _Body(Protocol):
    """Reads an answer; `whole` fires at its end, and cancelling it ends the connection."""

    transport: Any

    def __init__(self) -> None:
        self.whole: Deferred[bytes] = Deferred(lambda _: self.transport.loseConnection())
        self._parts: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        self._parts.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.whole.called:
            return
        if reason.check(ResponseDone):
            self.whole.callback(b"".join(self._parts))
        else:
            self.whole.errback(reason)


class _CountedFactory(WrappingFactory):
    protocol = _Counted
    noisy = False


@implementer(IStreamClientEndpoint)
@attrs.frozen
class _CountedEndpoint:
    """Connects the protocols of `endpoint` behind `_Counted`, and yields what is behind it."""

    endpoint: IStreamClientEndpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        connecting: Deferred[Any] = self.endpoint.connect(_CountedFactory(protocolFactory))
        return connecting.addCallback(lambda counted: counted.wrappedProtocol)


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """TLS to a host, verified; its context is kept, for it reads all roots."""

    def __init__(self, reactor: Any, trust: Any) -> None:
        self._reactor = reactor
        self._trust = trust
        self._options: dict[str, Any] = {}

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        host = uri.host.decode("ascii").removeprefix("[").removesuffix("]")
        if host not in self._options:
            if len(self._options) >= _MAX_HOSTS:
                self._options.clear()
            self._options[host] = optionsForClientTLS(host, trustRoot=self._trust)
        plain = HostnameEndpoint(self._reactor, host.encode("ascii"), uri.port)
        return _CountedEndpoint(wrapClientTLS(self._options[host], plain))


class _QuietFactory(HTTPConnectionPool._factory):  # type: ignore[misc, valid-type]
    noisy = False


class _Pool(HTTPConnectionPool):
    """Kept connections, of which the log has not two lines each."""

    _factory = _QuietFactory


class Fetching:
    """Connections to the servers of one directory."""

    def __init__(self, reactor: Any, trust: Any = None) -> None:
        self._reactor = reactor
        self._pool = _Pool(reactor)
        self._pool.cachedConnectionTimeout = IDLE_SECONDS
        self._pool.maxPersistentPerHost = _CONNECTIONS
        endpoints = _Endpoints(reactor, trust or platformTrust())
        self._agent = Agent.usingEndpointFactory(reactor, endpoints, self._pool)
        self._user_agent = user_agent()

    async def fetch(
        self, method: bytes, url: str, seconds: float, *, body: bytes | None = None, accept: str = ""
    ) -> Reply:
        """Ask, and read the answer, whatever its status, within `seconds`."""
        host = host_of(url)
        asking = Deferred.fromCoroutine(self._ask(method, url, body, accept))
        try:
            reply: Reply = await self._within(asking, seconds, host)
        except (Unreachable, CancelledError):
            raise
        except Exception as error:
            # Of every kind: the connection's, TLS's, a broken answer's, a name's that cannot be looked up.
            raise Unreachable(f"{host}: {_why(Failure(error))}") from None
        if 300 <= reply.status < 400:
            raise Unreachable(f"{host} answered with a redirect ({reply.status})")
        return reply

    async def _ask(self, method: bytes, url: str, body: bytes | None, accept: str) -> Reply:
        headers = Headers({b"User-Agent": [self._user_agent]})
        if accept:
            headers.addRawHeader("Accept", accept)
        if body is not None:
            headers.addRawHeader(b"Content-Type", _BODY_TYPE)

        def request() -> Any:
            producer = None if body is None else FileBodyProducer(BytesIO(body))
            return self._agent.request(method, url.encode("ascii"), headers, producer)

        try:
            response = await request()
        except (RequestTransmissionFailed, ResponseNeverReceived) as error:
            # One whose answer was too long fails otherwise.
            if not any(reason.check(ConnectionDone, ConnectionLost) for reason in error.reasons):
                raise
            # A kept connection, it seems, that was closed meanwhile: none of its age is used again. A request
            # that arrived after all is not done twice, for its nonce is spent.
            self.close().addErrback(lambda _: None)
            response = await request()
        body_read = _Body()
        response.deliverBody(body_read)
        return Reply(url, response.code, response.headers, await body_read.whole)

    def _within(self, asking: Deferred[Reply], seconds: float, host: str) -> Deferred[Reply]:
        """As `asking`; but its end does not depend on what that makes of being cancelled."""
        answer: Deferred[Reply] = Deferred(lambda _: give_up(CancelledError()))

        def give_up(error: Exception) -> None:
            if not answer.called:
                answer.errback(Failure(error))
            asking.cancel()

        late = f"{host} gave no whole answer within {seconds:.3g} seconds"
        timer = self._reactor.callLater(seconds, lambda: give_up(Unreachable(late)))

        def ended(result: Reply | Failure) -> None:
            if timer.active():
                timer.cancel()
            if not answer.called:
                answer.callback(result)

        asking.addBoth(ended)
        return answer

    def close(self) -> Deferred[None]:
        """Let go of the connections that are kept."""
        closing: Deferred[None] = self._pool.closeCachedConnections()
        return closing


def _why(failure: Failure) -> str:
    """What went wrong, in the words of the layer that knows."""
    error = failure.value
    for reason in getattr(error, "reasons", None) or ():
        return _why(reason)
    if isinstance(error, PotentialDataLoss):
        return "the end of its answer is missing"
    if isinstance(error, SSL.Error):
        texts = [part[-1] for part in (error.args[0] if error.args else ()) if part]
        return f"TLS failed: {', '.join(texts) or 'it closed the connection'}"
    return failure.getErrorMessage() or type(error).__name__
