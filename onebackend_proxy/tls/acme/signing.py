"""What an account signs: JSON Web Signatures with ACME's header (RFC 8555, 6.2), and its key's thumbprint."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from josepy.json_util import encode_b64jose
from josepy.jwa import ES256, HS256
from josepy.jwk import JWKEC

_CURVE = ec.SECP256R1
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,512}")
JSON = Mapping[str, Any]


def base64url(data: bytes) -> str:
    """Base64url without padding (RFC 4648, 5)."""
    return encode_b64jose(data)


@attrs.frozen
class Eab:
    """What binds an account to one that the authority has already (RFC 8555, 7.3.4); the key in base64url."""

    kid: str
    key: str = attrs.field(repr=False)


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new account key: P-256, which every directory takes."""
    return ec.generate_private_key(_CURVE())


def key_from_pem(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """The key that was kept; `ValueError` if it is none on P-256."""
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, _CURVE):
        raise ValueError("the account key that is kept is not one on P-256")
    return key


def is_token(text: object) -> bool:
    """Whether `text` is base64url, as nonces and tokens are, and not too long."""
    return isinstance(text, str) and _TOKEN.fullmatch(text) is not None


def key_authorization(token: str, key: ec.EllipticCurvePrivateKey) -> str:
    """What answers a challenge (RFC 8555, 8.1)."""
    return f"{token}.{Signer(key).thumbprint}"


def _signed(header: JSON, payload: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    protected, payload_text = base64url(json.dumps(header).encode("ascii")), base64url(payload)
    signature = base64url(sign(f"{protected}.{payload_text}".encode("ascii")))
    return json.dumps({"protected": protected, "payload": payload_text, "signature": signature}).encode(
        "ascii"
    )


class Signer:
    """Signs with one account key."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        jwk = JWKEC(key=key.public_key())
        self.jwk: dict[str, Any] = jwk.to_json()
        self.thumbprint = base64url(jwk.thumbprint())

    def sign(self, payload: JSON | None, url: str, nonce: str, account: str = "") -> bytes:
        """A request's body: by the account with this URL, or where there is none yet, by its key.

        None is POST-as-GET. The nonce is sent as it came: acme.jws decodes and encodes it again, which need
        not give the same text.
        """
        who = {"kid": account} if account else {"jwk": self.jwk}
        header = {"alg": "ES256", "nonce": nonce, "url": url, **who}
        data = b"" if payload is None else json.dumps(payload).encode("ascii")
        return _signed(header, data, lambda text: ES256.sign(self._key, text))

    def bind(self, eab: Eab, url: str) -> JSON:
        """The ``externalAccountBinding`` of this key, for a request to `url`; no error has `eab`'s key."""
        secret = base64.urlsafe_b64decode(eab.key + "=" * (-len(eab.key) % 4))
        header = {"alg": "HS256", "kid": eab.kid, "url": url}
        payload = json.dumps(self.jwk).encode("ascii")
        binding: JSON = json.loads(_signed(header, payload, lambda text: HS256.sign(secret, text)))
        return binding
