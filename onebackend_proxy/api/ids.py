"""Ids in 1Backend's form: a prefix that tells what it is, a dash, and randomness."""

from __future__ import annotations

import secrets
import string

_ALPHABET = string.ascii_letters + string.digits
# 62 ** 22 is a little more than the 122 random bits of a UUID.
_LENGTH = 22


def new_id(prefix: str) -> str:
    """A fresh id such as ``usr-3kTMd...``."""
    return f"{prefix}-{''.join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))}"
