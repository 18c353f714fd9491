"""PEM text (RFC 7468) taken apart: certificates and one private key, checked as far as each goes alone.

Every `ValueError` reads as what follows the name of a field, and none repeats what was in a block.
"""

from __future__ import annotations

import base64
import re

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

MAX_TEXT = 64 * 1024
MAX_CERTIFICATES = 10
MIN_RSA = 2048
MAX_RSA = 8192
"""Bits. A handshake with a longer key keeps everybody else waiting."""
CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_MARK = re.compile(r"-----(BEGIN|END) ([^\r\n-]*)-----")
_CERTIFICATES = ("CERTIFICATE", "X509 CERTIFICATE")
_KEYS = ("PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY")
_IS_ENCRYPTED = "has a private key that is encrypted: decrypt it first (openssl pkey)"
# What `openssl ecparam` writes before a key, and what servers once wanted behind a certificate.
_IGNORED = ("EC PARAMETERS", "DH PARAMETERS")
_LABEL = re.compile(r"[A-Z0-9 ]{1,32}")
_PROBE = b"onebackend_proxy: does this key sign?"


@attrs.frozen
class Block:
    """One PEM block: its place in the text from 1, its label, and the base64 (or more) between its marks."""

    number: int
    label: str
    body: str = attrs.field(repr=False)

    def der(self) -> bytes:
        """The bytes of the block; `ValueError` if it is not base64."""
        try:
            data = base64.b64decode("".join(self.body.split()), validate=True)
        except ValueError:
            data = b""
        if not data:
            raise ValueError(f"has a broken block: number {self.number} ({self.label}) is not base64")
        return data


def blocks(text: str) -> list[Block]:
    """The blocks of `text`; what stands between them is commentary.

    Raises `ValueError` for a text that is too long, has no block, or has a torn one.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(f"is longer than {MAX_TEXT // 1024} KiB")
    found: list[Block] = []
    begun: re.Match[str] | None = None
    for mark in _MARK.finditer(text):
        if mark[1] == "BEGIN" and begun is None:
            begun = mark
        elif mark[1] == "END" and begun is not None and begun[2] == mark[2]:
            label = mark[2] if _LABEL.fullmatch(mark[2]) else "unknown"
            found.append(Block(len(found) + 1, label, text[begun.end() : mark.start()]))
            begun = None
        else:
            raise ValueError(f"has a broken block: number {len(found) + 1} has no {_missing(begun)}")
    if begun is not None:
        raise ValueError(f"has a broken block: number {len(found) + 1} has no end")
    if not found:
        raise ValueError("is not PEM: it has no -----BEGIN ...----- block")
    return found


def _missing(begun: re.Match[str] | None) -> str:
    return "beginning" if begun is None else "end of its own"


def read_parts(text: str) -> tuple[PrivateKey, list[x509.Certificate]]:
    """The one private key and the certificates in `text`, in its order, each once.

    Raises `ValueError` for any other number of keys, for no certificate or more than `MAX_CERTIFICATES`, and
    for a block that cannot be read.
    """
    keys, certificates = [], []
    for block in blocks(text):
        if block.label in _KEYS:
            keys.append(block)
        elif block.label in _CERTIFICATES:
            certificates.append(block)
        elif block.label not in _IGNORED:
            raise ValueError(
                f"holds what is neither certificate nor key: block {block.number} ({block.label})"
            )
    if not keys:
        raise ValueError("holds no private key")
    if len(keys) > 1:
        raise ValueError("holds more than one private key")
    if not certificates:
        raise ValueError("holds no certificate")
    if len(certificates) > MAX_CERTIFICATES:
        raise ValueError(f"holds more than {MAX_CERTIFICATES} certificates")
    key = read_key(keys[0])
    # A dict keeps the order: `cat cert.pem fullchain.pem` has the leaf twice.
    return key, list(dict.fromkeys(map(read_certificate, certificates)))


def read_certificate(block: Block) -> x509.Certificate:
    """The certificate in `block`, readable in all its parts; `ValueError` if it is not."""
    data = block.der()
    try:
        certificate = x509.load_der_x509_certificate(data)
        # These are parsed when they are first asked for, each with errors of its own.
        _ = certificate.extensions, certificate.subject, certificate.issuer, certificate.serial_number
        _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        certificate.public_key()
        if certificate.serial_number <= 0:
            raise ValueError
    except UnsupportedAlgorithm:
        raise ValueError(f"has a certificate (block {block.number}) whose key is of no known kind") from None
    except (
        ValueError,
        # What older versions of the library make of a name of an unknown type.
        KeyError,
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ):
        raise ValueError(f"has a broken certificate (block {block.number})") from None
    return certificate


def read_key(block: Block) -> PrivateKey:
    """The private key in `block` (PKCS 8, PKCS 1 or SEC 1); `ValueError` if it is none that can be used."""
    if "Proc-Type:" in block.body:
        # How OpenSSL marked them before PKCS 8 (RFC 1421, 4.6.1.1).
        raise ValueError(_IS_ENCRYPTED)
    data = block.der()
    try:
        # The library's own check looks for primes: 0.3 s for 4096 bits, seconds for 8192. See _sound.
        key = serialization.load_der_private_key(data, None, unsafe_skip_rsa_key_validation=True)
    except TypeError:
        raise ValueError(_IS_ENCRYPTED) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"has a broken private key (block {block.number})") from None
    if not isinstance(key, PrivateKey):
        raise ValueError("has a private key that is neither RSA nor ECDSA nor Ed25519")
    if isinstance(key, rsa.RSAPrivateKey) and not _sound(key):
        raise ValueError(f"has a broken private key (block {block.number})")
    check_strength(key.public_key(), "a private key")
    return key


def _sound(private: rsa.RSAPrivateKey) -> bool:
    """Whether the numbers belong together, which is all that OpenSSL needs so as to compute with them.

    That p and q are prime is not asked: if they are not, `signs` finds out.
    """
    key = private.private_numbers()
    return (
        key.p % 2 == key.q % 2 == 1
        and min(key.p, key.q) > 1
        and key.p * key.q == key.public_numbers.n
        and key.public_numbers.e * key.dmp1 % (key.p - 1) == 1
        and key.public_numbers.e * key.dmq1 % (key.q - 1) == 1
        and key.d % (key.p - 1) == key.dmp1
        and key.d % (key.q - 1) == key.dmq1
        and key.q * key.iqmp % key.p == 1
    )


def check_strength(key: object, whose: str) -> None:
    """Raise `ValueError` for a public key that clients refuse; `whose` is what the message says has it."""
    if isinstance(key, rsa.RSAPublicKey):
        if not MIN_RSA <= key.key_size <= MAX_RSA:
            raise ValueError(f"has {whose} of {key.key_size} bits: RSA needs {MIN_RSA} to {MAX_RSA}")
    elif isinstance(key, ec.EllipticCurvePublicKey):
        if not isinstance(key.curve, CURVES):
            raise ValueError(f"has {whose} on the curve {key.curve.name}: use P-256, P-384 or P-521")
    elif not isinstance(key, ed25519.Ed25519PublicKey):
        raise ValueError(f"has {whose} that is neither RSA nor ECDSA nor Ed25519")


def signs(key: PrivateKey) -> bool:
    """Whether what `key` signs is what its public key verifies."""
    try:
        if isinstance(key, rsa.RSAPrivateKey):
            rsa_scheme = padding.PKCS1v15(), hashes.SHA256()
            key.public_key().verify(key.sign(_PROBE, *rsa_scheme), _PROBE, *rsa_scheme)
        elif isinstance(key, ec.EllipticCurvePrivateKey):
            scheme = ec.ECDSA(hashes.SHA256())
            key.public_key().verify(key.sign(_PROBE, scheme), _PROBE, scheme)
        else:
            key.public_key().verify(key.sign(_PROBE), _PROBE)
    except (InvalidSignature, ValueError):
        return False
    return True


def key_pem(key: PrivateKey) -> str:
    """The PEM text of a private key: PKCS 8, in clear."""
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain).decode()


def certificate_pem(certificate: x509.Certificate) -> str:
    """The PEM text of one certificate."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
