"""The local authority: certificates for localhost and IP addresses, for which no public one would be asked.

Its root is kept by the store, and trusted on a machine by `oo trust`. Name constraints (RFC 5280, 4.2.1.10)
hold it to those names: whoever steals it can pretend to be no domain.
"""

from __future__ import annotations

import datetime
import functools
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..addresses import bracketed, canonical_host
from ..records import Certificate
from .certificates import bare_host
from .pem import certificate_pem, key_pem, read_parts

ROOT_LIFE = datetime.timedelta(days=3650)
LEAF_LIFE = datetime.timedelta(days=7)
ROOT_BEGINS = datetime.timedelta(days=1)
LEAF_BEGINS = datetime.timedelta(hours=1)
"""How long before it was made a certificate is valid: not all clocks are right."""
_CURVE = ec.SECP256R1
_LOCALHOST = "localhost"


def is_local(host: str) -> bool:
    """Whether the local authority is for this host: localhost, any name below it, or an IP address."""
    host = bare_host(host)
    try:
        return host == canonical_host(bracketed(host)) and (
            host == _LOCALHOST or host.endswith(f".{_LOCALHOST}") or _address(host) is not None
        )
    except ValueError:
        return False


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


@functools.cache
def _leaf_key() -> tuple[ec.EllipticCurvePrivateKey, str]:
    """One key for all leaves of this process, which nobody else ever sees, and its PEM."""
    key = ec.generate_private_key(_CURVE())
    return key, key_pem(key)


def _key_usage(*uses: str) -> x509.KeyUsage:
    known = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign "
        "crl_sign encipher_only decipher_only"
    )
    return x509.KeyUsage(**{use: use in uses for use in known.split()})


def _constraints() -> x509.NameConstraints:
    everything = [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]
    permitted = [x509.DNSName(_LOCALHOST), *map(x509.IPAddress, everything)]
    return x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=None)


class LocalAuthority:
    """A root key and certificate, by which certificates of a few days are issued without asking anybody."""

    def __init__(self, root_key: ec.EllipticCurvePrivateKey, root_certificate: x509.Certificate) -> None:
        self._key = root_key
        self._root = root_certificate
        identifier = root_certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        self._identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
        [name] = root_certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        self._name = str(name.value)

    def __repr__(self) -> str:
        return f"<LocalAuthority: {self._name}>"

    @classmethod
    def make(cls, now: datetime.datetime) -> LocalAuthority:
        """A new authority, for ten years. Its name tells it from that of another machine, and no more."""
        key = ec.generate_private_key(_CURVE())
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        text = f"onebackend-proxy local authority {now:%Y-%m-%d} {identifier.digest[:4].hex()}"
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - ROOT_BEGINS)
            .not_valid_after(now + ROOT_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage("key_cert_sign", "crl_sign"), critical=True)
            .add_extension(_constraints(), critical=True)
            .add_extension(identifier, critical=False)
        )
        return cls(key, builder.sign(key, hashes.SHA256()))

    @classmethod
    def from_pem(cls, text: str) -> LocalAuthority:
        """What `to_pem` wrote; raises `ValueError` for anything else."""
        key, [root, *others] = read_parts(text)
        if others or not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != root.public_key():
            raise ValueError("is not the key and the certificate of a local authority")
        try:
            return cls(key, root)
        except (ValueError, x509.ExtensionNotFound):
            raise ValueError("is not the certificate of a local authority") from None

    def to_pem(self) -> str:
        """The root's private key and certificate: a secret."""
        return key_pem(self._key) + self.root_pem

    @property
    def root_pem(self) -> str:
        """The root's certificate, for those who are to trust it."""
        return certificate_pem(self._root)

    @property
    def not_after(self) -> datetime.datetime:
        """When the root ends; nothing can be issued then, and a new one is to be made."""
        return self._root.not_valid_after_utc

    def issue(self, host: str, now: datetime.datetime) -> Certificate:
        """A certificate for `host`, for seven days or until the root ends, with its private key.

        Raises `ValueError` if the host is not local (see `is_local`), or the root has ended.
        """
        host = bare_host(host)
        if not is_local(host):
            raise ValueError(f"{host[:253]!r} is not localhost, below it, or an IP address")
        if now >= self.not_after:
            raise ValueError(f"the local authority ended on {self.not_after:%Y-%m-%d}")
        key, key_text = _leaf_key()
        leaf = self._leaf(host, key.public_key(), now)
        return Certificate(
            id=host,
            names=(host,),
            chain=certificate_pem(leaf),
            private_key=key_text,
            common_name=host,
            issuer=self._name,
            serial=f"{leaf.serial_number:X}",
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
            created_at=now,
            updated_at=now,
        )

    def _leaf(self, host: str, key: ec.EllipticCurvePublicKey, now: datetime.datetime) -> x509.Certificate:
        address = _address(host)
        name = x509.DNSName(host) if address is None else x509.IPAddress(address)
        builder = (
            x509.CertificateBuilder()
            # A common name ends at 64 letters; without a subject the names are critical (RFC 5280, 4.2.1.6).
            .subject_name(x509.Name([]))
            .issuer_name(self._root.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - LEAF_BEGINS)
            .not_valid_after(min(now + LEAF_LIFE, self.not_after))
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage("digital_signature"), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(self._identifier, critical=False)
        )
        return builder.sign(self._key, hashes.SHA256())
