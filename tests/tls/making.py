"""Keys, certificates and bundles of all kinds, made while a test runs.

`made("x.com")` is a leaf with its key, by an authority of ours unless told otherwise; `.bundle` is what
people save, `record("x.com")` what the store keeps.
"""

from __future__ import annotations

import datetime
import functools
import ipaddress
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from onebackend_proxy.records import Certificate
from onebackend_proxy.tls.certificates import read_bundle

DAY = datetime.timedelta(days=1)
PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8
TRADITIONAL = serialization.PrivateFormat.TraditionalOpenSSL
CURVES: dict[str, type[Any]] = {
    "P-256": ec.SECP256R1,
    "P-384": ec.SECP384R1,
    "P-521": ec.SECP521R1,
    "P-224": ec.SECP224R1,
    "secp256k1": ec.SECP256K1,
}


def now():
    """The time, in whole seconds as in certificates: real clients look at the real clock."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def new_key(kind="P-256"):
    """A fresh private key: a curve of `CURVES`, ``Ed25519``, ``Ed448``, ``RSA-2048``, ``DSA-1024``."""
    if kind in CURVES:
        return ec.generate_private_key(CURVES[kind]())
    if kind.startswith("RSA-"):
        return rsa.generate_private_key(65537, int(kind.removeprefix("RSA-")))
    if kind.startswith("DSA-"):
        return dsa.generate_private_key(int(kind.removeprefix("DSA-")))
    return (ed25519.Ed25519PrivateKey if kind == "Ed25519" else ed448.Ed448PrivateKey).generate()


@functools.cache
def known_key(kind="P-256"):
    """As `new_key`, the same each time: RSA keys take long to find."""
    return new_key(kind)


def key_pem(key, form=PKCS8, password=None):
    """The PEM text of a private key, encrypted where there is a password."""
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(PEM, form, encryption).decode()


@attrs.frozen(eq=False)
class Made:
    """A certificate with its key and what issued it (None: it signed itself)."""

    certificate: x509.Certificate
    key: object
    issuer: Made | None = None

    @property
    def pem(self):
        """The certificate alone."""
        return self.certificate.public_bytes(PEM).decode()

    @property
    def key_pem(self):
        """The private key, in PKCS 8."""
        return key_pem(self.key)

    @property
    def chain(self):
        """The certificate and those of its issuers below the root."""
        above = self.issuer.chain if self.issuer is not None and self.issuer.issuer is not None else ""
        return self.pem + above

    @property
    def bundle(self):
        """The private key and the chain in one text, as 1Backend keeps them."""
        return self.key_pem + self.chain


def _subject(common_name, organization):
    parts = [(NameOID.COMMON_NAME, common_name), (NameOID.ORGANIZATION_NAME, organization)]
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in parts if text])


def alternative_names(names):
    """The subjectAltName for host names and IP addresses."""
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return x509.SubjectAlternativeName(found)


def signed(
    extensions, key, issuer=None, *, common_name="", organization="", begins=None, ends=None, digest="SHA256"
):
    """A certificate with these `extensions` (and whether each is critical), signed by `issuer` or itself."""
    begins = begins or now() - DAY
    subject = _subject(common_name, organization)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends or begins + 90 * DAY)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    signer = issuer.key if issuer else key
    edwards = isinstance(signer, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey))
    algorithm = None if edwards else getattr(hashes, digest)()
    return Made(builder.sign(signer, algorithm), key, issuer)


def _signs_certificates():
    no = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(key_cert_sign=True, crl_sign=True, **no)


def authority(name="Test Authority", issuer=None, *, kind="P-256", **more):
    """An authority: a root, or an intermediate where there is an `issuer`."""
    key = new_key(kind) if kind in CURVES else known_key(kind)
    extensions: list[Any] = [
        (x509.BasicConstraints(ca=True, path_length=None), True),
        # Python's own clients ask for it, from 3.13 on (RFC 5280, 4.2.1.3).
        (_signs_certificates(), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
    ]
    if issuer:
        above = issuer.certificate.public_key()
        extensions.append((x509.AuthorityKeyIdentifier.from_issuer_public_key(above), False))
    more.setdefault("organization", "Tests")
    return signed(extensions, key, issuer, common_name=name, **more)


@functools.cache
def root():
    """The root of all that is not told otherwise."""
    return authority("Test Root")


@functools.cache
def intermediate():
    """Between `root` and the leaves, as with real authorities."""
    return authority("Test Intermediate", root())


def made(*names, issuer=None, key=None, purpose=ExtendedKeyUsageOID.SERVER_AUTH, self_signed=False, **more):
    """A leaf for these host names and IP addresses (none: without subjectAltName), by `intermediate`."""
    key = key or new_key()
    issuer = None if self_signed else issuer or intermediate()
    extensions: list[Any] = [(x509.BasicConstraints(ca=False, path_length=None), True)]
    if names:
        extensions.append((alternative_names(names), not more.get("common_name")))
    if purpose:
        extensions.append((x509.ExtendedKeyUsage([purpose]), False))
    if issuer:
        above = issuer.certificate.public_key()
        extensions.append((x509.AuthorityKeyIdentifier.from_issuer_public_key(above), False))
    return signed(extensions, key, issuer, **more)


def record(*names, id="", **more) -> Certificate:
    """The checked record of a certificate for these names, with its private key."""
    return read_bundle(made(*names, **more).bundle, now(), id=id)
