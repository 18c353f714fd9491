"""Names that are served over TLS: their certificates, and connections that ask for one of them."""

from __future__ import annotations

import datetime
import functools
import http.client
import pathlib
import socket
import ssl
import tempfile
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

STRANGER = "stranger.bench.example"
"""A name that is none of any site's, with a certificate beside theirs."""

_made = tempfile.TemporaryDirectory(prefix="bench-certificates-")


@dataclass(frozen=True)
class Site:
    """The names and, of each, `bundles`/NAME.pem: certificate, intermediate and key, ECDSA P-256.

    `contexts` is how many contexts we may keep; 0 is our default.
    """

    names: tuple[str, ...]
    bundles: pathlib.Path
    roots: pathlib.Path
    stranger: pathlib.Path
    contexts: int = 0

    def bundle(self, name: str) -> pathlib.Path:
        """The file with this name's certificate and key."""
        return self.bundles / f"{name}.pem"

    def names_file(self) -> pathlib.Path:
        """The names for the loader, one a line."""
        return self.roots.with_name("names")


@functools.cache
def site(count: int, contexts: int = 0) -> Site:
    """A site of so many names; their certificates are made at the first use."""
    files = _certificates(count)
    names = tuple(files.joinpath("names").read_text().split())
    return Site(names, files / "bundles", files / "roots.pem", files / "stranger.pem", contexts)


@functools.cache
def _certificates(count: int) -> pathlib.Path:
    files = pathlib.Path(_made.name, str(count))
    (files / "bundles").mkdir(parents=True)
    root_key, between_key = _key(), _key()
    root = _signed("bench root", root_key, "bench root", root_key, authority=True)
    between = _signed("bench intermediate", between_key, "bench root", root_key, authority=True)
    (files / "roots.pem").write_bytes(_pem(root))
    names = [f"s{number:04}.bench.example" for number in range(count)]
    (files / "names").write_text("\n".join(names) + "\n")
    targets = {name: files / "bundles" / f"{name}.pem" for name in names}
    targets[STRANGER] = files / "stranger.pem"
    for name, target in targets.items():
        key = _key()
        leaf = _signed(name, key, "bench intermediate", between_key)
        target.write_bytes(_pem(leaf) + _pem(between) + _pem_of_key(key))
    return files


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_of_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _signed(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    authority: bool = False,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_common_name(name))
        .issuer_name(_common_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if not authority:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class NamedConnection(http.client.HTTPSConnection):
    """HTTP over TLS 1.3 to 127.0.0.1 under one of a site's names, whose certificate must be good."""

    def __init__(self, name: str, port: int, roots: pathlib.Path, timeout: float) -> None:
        super().__init__(name, port, timeout=timeout)
        self._agreed = ssl.create_default_context(cafile=str(roots))
        self._agreed.minimum_version = ssl.TLSVersion.TLSv1_3

    def connect(self) -> None:
        """Connect to this machine, whatever the name; `ssl.SSLError` for another name's certificate."""
        raw = socket.create_connection(("127.0.0.1", self.port), self.timeout)
        try:
            self.sock = self._agreed.wrap_socket(raw, server_hostname=self.host)
        except BaseException:
            raw.close()
            raise
