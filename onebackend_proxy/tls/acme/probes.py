"""Whether an address leads to this proxy: asked on ports 80 and 443, as an authority would.

Anybody may answer: that gets `PROBE_SECONDS`, is bounded, and next to nothing of it is told.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
from typing import Any

import attrs
from cryptography import x509
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TooLate
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.error import (
    ConnectError,
    ConnectionRefusedError,
    NoRouteError,
    TimeoutError,
)
from twisted.internet.interfaces import (
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ...errors import UpstreamFailed
from ...http1 import ResponseReader
from ...limits import Limits
from ...messages import Headers, ResponseHead
from ..challenges import ACME_IDENTIFIER
from ..client_hello import ACME_TLS_1
from .caa import shortly

PROBE_SECONDS = 5.0
"""For one look at one address."""
MAX_BODY = 1024
"""Bytes of an answer's body that are read; a proof is shorter."""
_LIMITS = Limits(answer_head_size=8192, interim_answers=4)
_UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


@attrs.frozen
class Probe:
    """What one address answered: `ok` as in `interfaces.Finding`, `said` goes on behind the address.

    `hidden` is whether it looks the same where this machine cannot reach its own public address.
    """

    address: str
    ok: bool | None
    said: str
    hidden: bool = False

    def __str__(self) -> str:
        return f"{self.address}: {self.said}"


class _Abandoned(Exception):
    """The other side has ended the connection before there was an answer."""


def is_own(address: str) -> bool:
    """Whether a network interface of this machine has this address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))
    except OSError:
        return False
    return True


def _endpoint(reactor: Any, address: str, port: int) -> IStreamClientEndpoint:
    kind = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
    made: IStreamClientEndpoint = kind(reactor, address, port, timeout=PROBE_SECONDS)
    return made


async def _talk(reactor: Any, endpoint: IStreamClientEndpoint, protocol: Any) -> Any:
    """What `protocol.done` fires with, within `PROBE_SECONDS` in all."""
    factory = Factory.forProtocol(lambda: protocol)
    factory.noisy = False
    talk: Deferred[Any] = endpoint.connect(factory)
    talk.addCallback(lambda _: protocol.done)
    talk.addTimeout(PROBE_SECONDS, reactor)
    return await talk


def _failed(address: str, error: Exception) -> Probe:
    """Why there was no answer at all."""
    hidden = not is_own(address)
    if isinstance(error, ConnectionRefusedError):
        return Probe(address, False, "refuses the connection", hidden)
    if isinstance(error, (TimeoutError, TooLate)):
        return Probe(address, None if hidden else False, f"does not answer in {PROBE_SECONDS:.0f} s", hidden)
    number = getattr(error, "osError", None)
    if isinstance(error, NoRouteError) or number in _UNREACHABLE:
        return Probe(address, None, "cannot be reached: this machine has no way to it")
    if isinstance(error, ConnectError):
        why = os.strerror(number) if isinstance(number, int) else "the connection fails"
        return Probe(address, None, f"cannot be reached: {why}", hidden)
    if isinstance(error, _Abandoned):
        return Probe(address, False, "closes the connection without an answer", hidden)
    raise error


class _Fetch(ResponseReader, Protocol):
    """Sends one request, and takes the answer up to a bound; `done` fires with the head and the body."""

    limits = _LIMITS

    def __init__(self, request: bytes) -> None:
        self.done: Deferred[tuple[ResponseHead, bytes]] = Deferred(lambda _: self._leave())
        self._request = request
        self._answer: ResponseHead | None = None
        self._body = b""

    def _leave(self) -> None:
        transport: Any = self.transport
        transport.abortConnection()

    def connectionMade(self) -> None:
        self.expect_answer(b"GET")
        transport: Any = self.transport
        transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        if self.done.called:
            return
        try:
            self.read(data)
        except UpstreamFailed as error:
            if not self.done.called:
                self.done.errback(error)
                self._leave()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.done.called and not self.read_eof():
            self.done.errback(_Abandoned())

    def interim_received(self, head: ResponseHead) -> None:
        pass

    def head_received(self, head: ResponseHead) -> None:
        self._answer = head

    def body_received(self, data: bytes) -> None:
        self._body += data[: MAX_BODY - len(self._body)]
        if len(self._body) >= MAX_BODY:
            self.answer_ended([])

    def answer_ended(self, trailers: Headers) -> None:
        if self._answer is not None and not self.done.called:
            self.done.callback((self._answer, self._body))
            self._leave()


async def fetch(reactor: Any, address: str, port: int, host: str, path: str, proof: str) -> Probe:
    """Ask `address` for ``http://host/path``, which is to be `proof` (RFC 8555, 8.3)."""
    lines = (f"GET {path} HTTP/1.1", f"Host: {host}", "User-Agent: onebackend-proxy", "Accept: */*")
    request = "\r\n".join((*lines, "Connection: close", "", "")).encode("ascii")
    try:
        head, body = await _talk(reactor, _endpoint(reactor, address, port), _Fetch(request))
    except UpstreamFailed:
        return Probe(address, False, "answers, but not in HTTP", not is_own(address))
    except Exception as error:
        return _failed(address, error)
    return _judge_answer(address, head, body, proof)


def _judge_answer(address: str, head: ResponseHead, body: bytes, proof: str) -> Probe:
    # White space behind it is overlooked (RFC 8555, 8.3).
    if head.status == 200 and body.rstrip() == proof.encode("ascii"):
        return Probe(address, True, "reaches this proxy")
    named = {name.lower(): value.decode("latin-1") for name, value in head.headers}
    hidden = not is_own(address)
    if 300 <= head.status < 400 and b"location" in named:
        place = shortly(named[b"location"].partition("?")[0])
        said = f"answers {head.status}, a redirection to {place}: it is not this proxy that answers"
        return Probe(address, False, said, hidden)
    server = shortly(named.get(b"server", ""))
    by = f" (Server: {server})" if server else ""
    return Probe(address, False, f"answers {head.status}, but is not this proxy{by}", hidden)


@implementer(IHandshakeListener, IOpenSSLClientConnectionCreator)
class _Greeting(Protocol):
    """Makes one handshake; `done` fires with the protocol chosen and the certificate shown."""

    transport: Any

    def __init__(self, host: str) -> None:
        self.done: Deferred[tuple[bytes | None, x509.Certificate]] = Deferred(
            lambda _: self.transport.abortConnection()
        )
        self._host = host

    def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        """See `twisted.internet.interfaces.IOpenSSLClientConnectionCreator`."""
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        connection = SSL.Connection(context)
        connection.set_app_data(tlsProtocol)
        connection.set_alpn_protos([ACME_TLS_1])
        connection.set_tlsext_host_name(self._host.encode("ascii"))
        # It is its own authority: what is in it is what counts (RFC 8737, 3).
        connection.set_verify(SSL.VERIFY_NONE)
        return connection

    def handshakeCompleted(self) -> None:
        """See `twisted.internet.interfaces.IHandshakeListener`."""
        if not self.done.called:
            shown = self.transport.getPeerCertificate()
            self.done.callback((self.transport.negotiatedProtocol, shown.to_cryptography()))
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.done.called:
            error = reason.value
            self.done.errback(error if isinstance(error, SSL.Error) else _Abandoned())


async def greet(reactor: Any, address: str, port: int, host: str, proof: str) -> Probe:
    """Make a handshake with `address` that asks for the proof for `host` by TLS-ALPN-01 (RFC 8737)."""
    greeting = _Greeting(host)
    endpoint = wrapClientTLS(greeting, _endpoint(reactor, address, port))
    try:
        chosen, certificate = await _talk(reactor, endpoint, greeting)
    except SSL.Error as error:
        said = f"refuses the handshake ({_alert(error)}): it is not this proxy that ends TLS there"
        return Probe(address, False, said, not is_own(address))
    except Exception as error:
        return _failed(address, error)
    return _judge_certificate(address, chosen == ACME_TLS_1, certificate, host, proof)


def _alert(error: SSL.Error) -> str:
    """OpenSSL's own words."""
    said = [reason for _library, _function, reason in (error.args[0] if error.args else ()) if reason]
    return shortly(said[-1]) if said else "no TLS"


def _judge_certificate(
    address: str, chosen: bool, certificate: x509.Certificate, host: str, proof: str
) -> Probe:
    digest = hashlib.sha256(proof.encode("ascii")).digest()
    hidden = not is_own(address)
    shown = _identifier(certificate, host) if chosen else None
    if shown == b"\x04\x20" + digest:
        return Probe(address, True, "reaches this proxy")
    if shown is None:
        said = "makes the handshake, but not as this proxy (no acme-tls/1): another one ends TLS there"
        return Probe(address, False, said, hidden)
    return Probe(address, None, "has the proof of another order: try again when that is done", hidden)


def _identifier(certificate: x509.Certificate, host: str) -> bytes | None:
    """The acmeIdentifier of a challenge certificate for `host` alone, None for any other certificate."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found: Any = certificate.extensions.get_extension_for_oid(ACME_IDENTIFIER)
        if found.critical and [name.value for name in names] == [host]:
            value: bytes = found.value.value
            return value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        # A stranger's certificate may be anything.
        pass
    return None
