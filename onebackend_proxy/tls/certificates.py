"""Certificates: a PEM bundle becomes a checked `records.Certificate`, and a table finds the one for a name.

What a client would refuse is refused here, when it is saved, where somebody reads the message.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
from collections.abc import Iterable

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..addresses import bracketed, canonical_host
from ..records import Certificate
from ..routing import wildcard_over
from .pem import PrivateKey, certificate_pem, check_strength, key_pem, read_parts, signs

EARLY = datetime.timedelta(days=1)
"""How far ahead a certificate may begin: it is saved now so as to be shown then."""


def certificate_name(text: str) -> str:
    """The canonical form of a name in a certificate: a host name or an IP address.

    ``*.`` may stand before a host name; IPv6 addresses have no brackets. Raises `ValueError` that says what
    is wrong.
    """
    if ":" in text:
        return canonical_host(bracketed(text))
    host = canonical_host(text.removeprefix("*."))
    if text.startswith("*."):
        if _is_address(host):
            raise ValueError(f"{text!r} has a wildcard before an IP address")
        return f"*.{host}"
    return host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def read_bundle(text: str, now: datetime.datetime, *, id: str = "") -> Certificate:
    """Check a bundle, one private key and a chain in any order, and make it the record that is kept.

    `id` must be one of the certificate's names; the first is taken where it is empty. Raises `ValueError`
    that reads on after the name of a field, and never repeats what is secret.
    """
    key, certificates = read_parts(text)
    leaf = _leaf(key, certificates)
    _check_time(leaf, now)
    names = _names(leaf)
    _check_purpose(leaf)
    for certificate in certificates:
        _check_strength(certificate, certificate == leaf)
    chain = _chain(leaf, certificates)
    if not signs(key):
        raise ValueError("has a broken private key: what it signs cannot be verified")
    name = certificate_name(id) if id else names[0]
    if name not in names:
        raise ValueError(f"is not for {name}, but for {_some(names)}")
    return Certificate(
        id=name,
        names=names,
        chain="".join(certificate_pem(certificate) for certificate in chain),
        private_key=key_pem(key),
        common_name=_shown(leaf.subject, NameOID.COMMON_NAME) or names[0],
        issuer=_shown(leaf.issuer, NameOID.COMMON_NAME) or _shown(leaf.issuer, NameOID.ORGANIZATION_NAME),
        serial=f"{leaf.serial_number:X}",
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        created_at=now,
        updated_at=now,
    )


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _leaf(key: PrivateKey, certificates: list[x509.Certificate]) -> x509.Certificate:
    """The certificate that `key` is for."""
    public_key = key.public_key()
    for certificate in certificates:
        if certificate.public_key() == public_key:
            return certificate
    if all(map(_is_authority, certificates)):
        raise ValueError("holds no certificate of a server, only those of authorities")
    raise ValueError("has a private key that does not match the certificate")


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _chain(leaf: x509.Certificate, certificates: list[x509.Certificate]) -> list[x509.Certificate]:
    """All of `certificates`, the leaf first and each issuer behind what it issued (RFC 8446, 4.4.2).

    A root stands behind its cross-signed twin, for clients that read the chain as a line.
    """
    chain = [leaf]
    others = [certificate for certificate in certificates if certificate != leaf]
    others.sort(key=lambda certificate: certificate.subject == certificate.issuer)
    for issued in chain:
        issuers = [other for other in others if _issued(other, issued)]
        chain += issuers
        others = [other for other in others if other not in issuers]
    if others:
        subject = _shown(others[0].subject, NameOID.COMMON_NAME) or "without a common name"
        raise ValueError(f"holds a certificate that does not belong to the chain: {subject}")
    return chain


def _check_time(leaf: x509.Certificate, now: datetime.datetime) -> None:
    if leaf.not_valid_after_utc <= now:
        raise ValueError(f"has a certificate that expired on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if leaf.not_valid_before_utc > now + EARLY:
        raise ValueError(
            f"has a certificate that begins on {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC only"
        )


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    """The canonical names, each once. Browsers have not looked at the common name for years."""
    try:
        alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        alternative = x509.SubjectAlternativeName([])
    names = [_dns_name(name) for name in alternative.get_values_for_type(x509.DNSName)]
    names += [certificate_name(str(ip)) for ip in alternative.get_values_for_type(x509.IPAddress)]
    if not names:
        raise ValueError("has a certificate without a DNS name or IP address (subjectAltName)")
    return tuple(dict.fromkeys(names))


def _dns_name(text: str) -> str:
    # A client compares labels: blanks, a last dot, or digits that only look like an address never match.
    with contextlib.suppress(ValueError):
        name = certificate_name(text)
        if name == text.lower() and not _is_address(name):
            return name
    raise ValueError(f"has a certificate for {text[:253]!r}, which is not a host name")


def _check_purpose(leaf: x509.Certificate) -> None:
    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if (
        ExtendedKeyUsageOID.SERVER_AUTH not in usage
        and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in usage
    ):
        raise ValueError(
            "has a certificate that is not for servers (its extended key usage has no serverAuth)"
        )


def _check_strength(certificate: x509.Certificate, is_leaf: bool) -> None:
    """Raise `ValueError` for a key or a signature that clients refuse, and OpenSSL with them."""
    whose = "a certificate" if is_leaf else "an authority's certificate"
    check_strength(certificate.public_key(), f"{whose} with a key")
    if not is_leaf and certificate.subject == certificate.issuer:
        # Nobody looks at how a root signed itself.
        return
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        raise ValueError(f"has {whose} with a signature of no known kind") from None
    if isinstance(algorithm, (hashes.MD5, hashes.SHA1)):
        raise ValueError(f"has {whose} signed with {algorithm.name.upper()}, which clients refuse")


def _shown(name: x509.Name, oid: x509.ObjectIdentifier) -> str:
    """The first such part of `name`, fit for a terminal; "" if there is none."""
    for attribute in name.get_attributes_for_oid(oid):
        value = attribute.value
        text = value if isinstance(value, str) else value.decode("utf-8", "replace")
        return "".join(letter if letter.isprintable() else "?" for letter in text[:253])
    return ""


def bare_host(host: str) -> str:
    """The canonical `host` as a certificate has it: routes have IPv6 addresses in brackets."""
    return host[1:-1] if host.startswith("[") else host


def covers(certificate: Certificate, host: str) -> bool:
    """Whether a client that asked for the canonical `host` takes this certificate for it."""
    host = bare_host(host)
    return host in certificate.names or wildcard_over(host) in certificate.names


def is_valid(certificate: Certificate, now: datetime.datetime) -> bool:
    """Whether it has begun and has not ended."""
    return certificate.not_before <= now < certificate.not_after


class CertificateTable:
    """An immutable set of certificates; `find` has the one to show for a name."""

    __slots__ = ("_by_name",)

    def __init__(self, certificates: Iterable[Certificate] = ()) -> None:
        by_name: dict[str, list[Certificate]] = {}
        for certificate in certificates:
            for name in certificate.names:
                by_name.setdefault(name, []).append(certificate)
        for several in by_name.values():
            several.sort(key=lambda each: (each.not_after, each.updated_at, each.id), reverse=True)
        self._by_name = by_name

    def __repr__(self) -> str:
        return f"<CertificateTable: {len(self._by_name)} names>"

    def find(self, host: str, now: datetime.datetime) -> Certificate | None:
        """The certificate for a canonical `host`, or None.

        What is valid goes first, then what has the exact name and no wildcard, then what ends last. With
        nothing valid there is still one to show: its date tells a visitor more than a broken handshake.
        """
        host = bare_host(host)
        found: list[Certificate] = [*self._by_name.get(host, ()), *self._by_name.get(wildcard_over(host), ())]
        for certificate in found:
            if is_valid(certificate, now):
                return certificate
        return found[0] if found else None
