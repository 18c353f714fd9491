"""Connecting in memory, where a test decides what comes of each attempt; and certificates for servers."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL.crypto import FILETYPE_PEM
from twisted.internet import ssl
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import Clock
from zope.interface import implementer

from onebackend_proxy.addresses import Address

from ..wire import Wire


@attrs.define(eq=False)
class Attempt:
    """One attempt to connect; `deferred` is what the caller waits for."""

    address: Address
    timeout: float
    factory: IProtocolFactory
    deferred: Deferred[IProtocol]
    cancelled: bool = False


@implementer(IStreamClientEndpoint)
@attrs.define(eq=False)
class _Endpoint:
    network: Network
    address: Address
    timeout: float

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        attempt: Attempt

        def cancel(_: Deferred[IProtocol]) -> None:
            attempt.cancelled = True
            self.network.attempts.remove(attempt)

        attempt = Attempt(self.address, self.timeout, protocolFactory, Deferred(cancel))
        self.network.attempts.append(attempt)
        return attempt.deferred


class Network:
    """Its `endpoint_for` stands in for `upstream.connecting.endpoint_for`."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.attempts: list[Attempt] = []

    def endpoint_for(self, reactor: Any, address: Address, timeout: float) -> IStreamClientEndpoint:
        assert reactor is self.clock
        return _Endpoint(self, address, timeout)

    def accept(self) -> Wire:
        """Let the longest waiting attempt connect; returns the wire to it."""
        attempt = self.attempts.pop(0)
        wire = Wire(self.clock)
        protocol = attempt.factory.buildProtocol(wire.getPeer())
        assert protocol is not None
        wire.attach(protocol)
        attempt.deferred.callback(protocol)
        return wire

    def fail(self, error: Exception | None = None) -> None:
        """Let the longest waiting attempt fail."""
        self.attempts.pop(0).deferred.errback(error or ConnectionRefusedError())


class Authority:
    """Makes certificates as files on no disk: PEM bytes, for servers of tests."""

    def __init__(self, name: str = "") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name(
            [x509.NameAttribute(x509.NameOID.COMMON_NAME, f"the tests' own {name}".strip())]
        )
        self.certificate = self._certificate(self.name, self.key, [], 0, 1, ca=True)

    @property
    def roots(self) -> Any:
        """What a client has to trust to trust it."""
        return ssl.trustRootFromCertificates([_loaded(self.certificate)])

    def options(
        self, *names: str, starts: int = -1, ends: int = 1, self_signed: bool = False
    ) -> ssl.CertificateOptions:
        """What a server needs to be these names or addresses, from and to so many days from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a server")])
        certificate = self._certificate(subject, key, names, starts, ends, self_signed=self_signed)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return ssl.CertificateOptions(
            privateKey=ssl.KeyPair.load(pem, FILETYPE_PEM).original,
            certificate=_loaded(certificate).original,
            acceptableProtocols=[b"h2", b"http/1.1"],
        )

    def _certificate(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        names: Sequence[str],
        starts: int,
        ends: int,
        ca: bool = False,
        self_signed: bool = False,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if self_signed else self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=starts, hours=-1))
            .not_valid_after(now + datetime.timedelta(days=ends))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            alternatives = x509.SubjectAlternativeName(map(_alternative, names))
            builder = builder.add_extension(alternatives, critical=False)
        return builder.sign(key if self_signed else self.key, hashes.SHA256())


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _loaded(certificate: x509.Certificate) -> ssl.Certificate:
    return ssl.Certificate.loadPEM(certificate.public_bytes(serialization.Encoding.PEM))
