"""Password hashes: scrypt (RFC 7914), and bcrypt as others write it; each carries its parameters with it.

Pure and slow by design: callers run these in a thread (`password_work`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets

import attrs
import bcrypt

ALGORITHMS = ("scrypt", "bcrypt")
"""What `hash_password` can make, the better first."""
BCRYPT_COST = 12
MAX_BCRYPT_PASSWORD = 72
"""Bytes of a password that bcrypt reads: longer ones would all fit that begin alike."""

_SALT = 16
_HASH = 32
_MAX_SALT = 64
_SCRYPT = re.compile(
    r"scrypt\$ln=(\d{1,2}),r=(\d{1,3}),p=(\d{1,2})\$([A-Za-z0-9+/=]{1,128})\$([A-Za-z0-9+/=]{44})"
)
# The salt has 128 bits, so that its last character has two.
_BCRYPT = re.compile(r"(\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{21}[.Oeu])[./A-Za-z0-9]{31}")
_BCRYPT_LETTERS = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_BCRYPT_COSTS = range(4, 15)
# Far above any cost we would choose; a hash from a tampered database must not eat the machine.
_MAX_MEMORY = 512 * 1024 * 1024
_MAX_WORK = 1024 * 1024 * 1024


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


def hash_password(password: str, algorithm: str = "scrypt", cost: Cost = DEFAULT_COST) -> str:
    """A fresh salted hash of `password`: ``scrypt$ln=15,r=8,p=1$SALT$HASH``, or bcrypt's ``$2b$12$...``.

    Raises `ValueError` for one with a NUL in it, since HMAC, below scrypt, fills up short keys with those
    (RFC 2104, 2), and for one that is too long for bcrypt. `cost` is scrypt's.
    """
    if "\0" in password:
        raise ValueError("a password has no NUL in it")
    if algorithm == "scrypt":
        salt = os.urandom(_SALT)
        return _encode(salt, _scrypt(password, salt, cost), cost)
    if algorithm != "bcrypt":
        raise ValueError(f"a password hash is one of {', '.join(ALGORITHMS)}")
    data = _bytes_of(password)
    if len(data) > MAX_BCRYPT_PASSWORD:
        raise ValueError(f"bcrypt reads {MAX_BCRYPT_PASSWORD} bytes of a password, and this one is longer")
    return bcrypt.hashpw(data, bcrypt.gensalt(BCRYPT_COST)).decode("ascii")


def check_password(password: str, encoded: str) -> bool:
    """Whether `encoded` is a hash of `password`; raises `ValueError` as `check_hash` does.

    With bcrypt none fits that has more bytes than it reads.
    """
    parsed = _parse(encoded)
    if isinstance(parsed, str):
        data = _bytes_of(password)
        digest = bcrypt.hashpw(data[:MAX_BCRYPT_PASSWORD], parsed.encode("ascii"))
        fits = len(data) <= MAX_BCRYPT_PASSWORD
        same = hmac.compare_digest(digest, encoded.encode("ascii"))
    else:
        cost, salt, kept = parsed
        fits = True
        same = hmac.compare_digest(_scrypt(password, salt, cost), kept)
    return same and fits and "\0" not in password


def check_hash(encoded: str) -> None:
    """Raise `ValueError`, which never repeats it, if `encoded` is no password hash that can be checked.

    Taken are ours, and bcrypt's ``$2a$``, ``$2b$`` and ``$2y$`` with a cost from 4 to 14.
    """
    _parse(encoded)


def decoy(cost: Cost = DEFAULT_COST) -> str:
    """A hash that no password has; checking against it takes as long as against a real one."""
    return _encode(os.urandom(_SALT), os.urandom(_HASH), cost)


def decoy_like(encoded: str) -> str:
    """A decoy that takes as long to check as this hash."""
    parsed = _parse(encoded)
    if isinstance(parsed, str):
        return parsed + "".join(secrets.choice(_BCRYPT_LETTERS) for _ in range(31))
    return decoy(parsed[0])


def _bytes_of(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")


def _scrypt(password: str, salt: bytes, cost: Cost) -> bytes:
    # OpenSSL counts a little more than the formula says, hence the slack.
    return hashlib.scrypt(
        _bytes_of(password),
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


def _parse(encoded: str) -> tuple[Cost, bytes, bytes] | str:
    """Cost, salt and digest of scrypt's; of bcrypt's all that stands before the digest."""
    match = _BCRYPT.fullmatch(encoded)
    if match is not None:
        if int(match[2]) not in _BCRYPT_COSTS:
            raise ValueError("a bcrypt hash has a cost from 4 to 14")
        return match[1]
    match = _SCRYPT.fullmatch(encoded)
    if match is None:
        raise ValueError("not a password hash, of scrypt or bcrypt, as `oo hash-password` prints it")
    cost = Cost(int(match[1]), int(match[2]), int(match[3]))
    if not (cost.ln and cost.r and cost.p):
        raise ValueError("a password hash has a parameter that is 0")
    if cost.memory > _MAX_MEMORY:
        raise ValueError("a password hash asks for too much memory")
    if cost.memory * cost.p > _MAX_WORK:
        raise ValueError("a password hash asks for too much work")
    try:
        salt, digest = (base64.b64decode(match[part], validate=True) for part in (4, 5))
    except binascii.Error as error:
        raise ValueError("not a password hash that this program knows: its base64 is broken") from error
    if len(digest) != _HASH or len(salt) > _MAX_SALT:
        raise ValueError("not a password hash that this program knows: it has another length")
    return cost, salt, digest
