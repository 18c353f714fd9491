"""Bearer tokens: JWTs (RFC 7519) signed with RS256, with 1Backend's claims."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import attrs
import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from twisted.internet.threads import deferToThread

from ..errors import SettingError, Unauthenticated
from ..interfaces import IStore
from ..password_work import InThread
from ..records import ADMIN_ROLE, Account, Token
from .ids import new_id

KEY_NAME = "jwt-signing-key"
DEFAULT_LIFETIME = 3600
_ALGORITHM = "RS256"
_TEXT_CLAIMS = ("1ui", "1ai", "1sl", "1de", "jti")
# The time is ours to judge: PyJWT would ask the machine's clock, and tests pass their own.
_OPTIONS: Any = {
    "require": [*_TEXT_CLAIMS, "1ro", "iat", "exp"],
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
}


@attrs.frozen
class Claims:
    """Who a valid token speaks for."""

    account_id: str
    app_id: str
    slug: str
    roles: tuple[str, ...]
    device: str
    token_id: str
    expires_at: datetime.datetime

    @property
    def is_admin(self) -> bool:
        """Whether the account has the admin role."""
        return ADMIN_ROLE in self.roles


def new_signing_key() -> bytes:
    """A fresh RSA key in PEM; it takes a good part of a second."""
    key = generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class TokenIssuer:
    """Signs and verifies tokens that live `lifetime` seconds; make one with `open_issuer`."""

    def __init__(self, key: bytes, seconds: Callable[[], float], lifetime: int = DEFAULT_LIFETIME) -> None:
        private = load_pem_private_key(key, None)
        if not isinstance(private, RSAPrivateKey):
            raise SettingError("the key that signs tokens is not an RSA key")
        public = private.public_key()
        self._private = private
        self._public = public
        self._seconds = seconds
        self._lifetime = datetime.timedelta(seconds=lifetime)
        self.public_key_pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(
            "ascii"
        )

    def __repr__(self) -> str:
        return f"<TokenIssuer: {self._lifetime}>"

    def now(self) -> datetime.datetime:
        """The time in UTC, in whole seconds as claims have it."""
        return datetime.datetime.fromtimestamp(int(self._seconds()), datetime.UTC)

    def issue(self, account: Account, app_id: str, device: str) -> tuple[Token, str]:
        """A new token of `account`: the record to keep, and the JWT to hand out."""
        now = self.now()
        token = Token(
            id=new_id("tok"),
            app_id=app_id,
            account_id=account.id,
            device=device,
            created_at=now,
            updated_at=now,
            expires_at=now + self._lifetime,
        )
        claims = {
            "1ui": account.id,
            "1ai": app_id,
            "1sl": account.slug,
            "1ro": list(account.roles),
            "1de": device,
            "jti": token.id,
            "iat": int(now.timestamp()),
            "exp": int(token.expires_at.timestamp()),
        }
        return token, jwt.encode(claims, self._private, algorithm=_ALGORITHM)

    def verify(self, text: str, *, allow_expired: bool = False) -> Claims:
        """Whom the JWT speaks for; `errors.Unauthenticated` if it is not ours, or has expired."""
        try:
            found = jwt.decode(text, self._public, algorithms=[_ALGORITHM], options=_OPTIONS)
            claims = _claims(found)
        # A time that no calendar has is an OverflowError, ValueError or OSError, by its size.
        except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError, OSError) as error:
            raise Unauthenticated("the token is not valid", detail=str(error)) from None
        if not allow_expired and claims.expires_at.timestamp() <= self._seconds():
            raise Unauthenticated("the token has expired")
        return claims


def _claims(found: dict[str, Any]) -> Claims:
    account_id, app_id, slug, device, token_id = (found[name] for name in _TEXT_CLAIMS)
    return Claims(
        account_id=account_id,
        app_id=app_id,
        slug=slug,
        roles=tuple(found["1ro"]),
        device=device,
        token_id=token_id,
        expires_at=datetime.datetime.fromtimestamp(found["exp"], datetime.UTC),
    )


async def open_issuer(
    store: IStore,
    seconds: Callable[[], float],
    lifetime: int = DEFAULT_LIFETIME,
    in_thread: InThread = deferToThread,
) -> TokenIssuer:
    """The issuer with the key that `store` keeps; one is made at the first start."""
    key = await store.secret(KEY_NAME)
    if key is None:
        key = await store.create_secret(KEY_NAME, await in_thread(new_signing_key))
    return TokenIssuer(key, seconds, lifetime)
