"""Secrets at rest: AES-256-GCM under a key derived from the encryption key setting."""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..errors import SettingError

_FORMAT = b"\x01"
_NONCE = 12
_INFO = b"onebackend_proxy store 1"


class Vault:
    """Seals bytes so that only the holder of `key` can open them, and only under the same name."""

    def __init__(self, key: str) -> None:
        if not key:
            raise SettingError("OB_ENCRYPTION_KEY is empty")
        derive = HKDF(algorithm=SHA256(), length=32, salt=None, info=_INFO)
        self._cipher = AESGCM(derive.derive(key.encode("utf-8", "surrogateescape")))

    def __repr__(self) -> str:
        return "<Vault>"

    def seal(self, name: str, value: bytes) -> bytes:
        """Encrypt `value`; `name` is bound in, so that one sealed value cannot stand in for another."""
        nonce = os.urandom(_NONCE)
        return _FORMAT + nonce + self._cipher.encrypt(nonce, value, name.encode())

    def open(self, name: str, sealed: bytes) -> bytes:
        """Decrypt what `seal` made; `errors.SettingError` if it was sealed with another key."""
        nonce, text = sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :]
        try:
            if sealed[:1] != _FORMAT:
                raise InvalidTag
            return self._cipher.decrypt(nonce, text, name.encode())
        except (InvalidTag, ValueError):
            raise SettingError(
                "OB_ENCRYPTION_KEY (or --encryption-key) is not the key this database was written with"
            ) from None
