"""Password hashes: scrypt (RFC 7914), with parameters that each hash carries with it.

Pure and slow by design: callers run these in a thread (`password_work`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re

import attrs

_SALT = 16
_HASH = 32
_ENCODED = re.compile(r"scrypt\$ln=(\d{1,2}),r=(\d{1,3}),p=(\d{1,2})\$([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+)")
# Far above any cost we would choose; a hash from a tampered database must not eat the machine.
_MAX_MEMORY = 512 * 1024 * 1024


@attrs.frozen
class Cost:
    """scrypt's parameters: 2 ** `ln` blocks of 128 * `r` bytes, `p` times."""

    ln: int = 15
    r: int = 8
    p: int = 1

    @property
    def memory(self) -> int:
        """About how many bytes one run takes."""
        return 128 * self.r * ((1 << self.ln) + self.p + 2)


DEFAULT_COST = Cost()


def _scrypt(password: str, salt: bytes, cost: Cost) -> bytes:
    # OpenSSL counts a little more than the formula says, hence the slack.
    return hashlib.scrypt(
        password.encode("utf-8", "surrogatepass"),
        salt=salt,
        n=1 << cost.ln,
        r=cost.r,
        p=cost.p,
        maxmem=cost.memory + 1024 * 1024,
        dklen=_HASH,
    )


def _encode(salt: bytes, digest: bytes, cost: Cost) -> str:
    b64 = [base64.b64encode(part).decode("ascii") for part in (salt, digest)]
    return f"scrypt$ln={cost.ln},r={cost.r},p={cost.p}${b64[0]}${b64[1]}"


def hash_password(password: str, cost: Cost = DEFAULT_COST) -> str:
    """A fresh salted hash of `password`, as ``scrypt$ln=15,r=8,p=1$SALT$HASH``.

    It has no NUL in it: HMAC, below scrypt, fills up short keys with those (RFC 2104, 2).
    """
    if "\0" in password:
        raise ValueError("a password has no NUL in it")
    salt = os.urandom(_SALT)
    return _encode(salt, _scrypt(password, salt, cost), cost)


def decoy(cost: Cost = DEFAULT_COST) -> str:
    """A hash that no password has; checking against it takes as long as against a real one."""
    return _encode(os.urandom(_SALT), os.urandom(_HASH), cost)


def check_password(password: str, encoded: str) -> bool:
    """Whether `encoded` is a hash of `password`; raises `ValueError` if it is no hash of ours."""
    match = _ENCODED.fullmatch(encoded)
    if match is None:
        raise ValueError("not a password hash of this program")
    cost = Cost(int(match[1]), int(match[2]), int(match[3]))
    if cost.memory > _MAX_MEMORY:
        raise ValueError("a password hash asks for too much memory")
    try:
        salt, digest = (base64.b64decode(match[part], validate=True) for part in (4, 5))
    except binascii.Error as error:
        raise ValueError("not a password hash of this program") from error
    same = hmac.compare_digest(_scrypt(password, salt, cost), digest)
    return same and "\0" not in password
