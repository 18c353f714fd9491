"""Encrypted records that no TLS library would send, made from what the client's own library knows.

The first is made right after the handshake: a client that has one of these sends nothing itself any more.
"""

from __future__ import annotations

import hashlib
import hmac
import pathlib
import ssl

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .loopback import Client, versions

APPLICATION_DATA, HANDSHAKE = 23, 22
CLIENT_HELLO = b"\x01\0\0\0"
"""The shortest: in the middle of a TLS 1.2 connection it asks for a renegotiation."""


def keylogged(version: ssl.TLSVersion, path: pathlib.Path) -> ssl.SSLContext:
    """A client of this version that writes its secrets to this file, with a cipher that is known here."""
    context = versions(version)
    context.keylog_filename = str(path)
    if version == ssl.TLSVersion.TLSv1_2:
        context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    return context


def _secrets(path: pathlib.Path) -> dict[str, bytes]:
    """Of the last connection in the file: label to secret."""
    lines = (line.split() for line in path.read_text(encoding="ascii").splitlines() if line[0] != "#")
    return {label: bytes.fromhex(secret) for label, _random, secret in lines}


class Records13:
    """What a client of TLS 1.3 may encrypt (RFC 8446, 5.2 and 7.1)."""

    def __init__(self, client: Client, path: pathlib.Path) -> None:
        cipher = client.tls.cipher()
        assert cipher is not None
        name, _, bits = cipher
        self._digest = name.rpartition("_")[2]
        self._key_size = bits // 8
        self._use(_secrets(path)["CLIENT_TRAFFIC_SECRET_0"])

    def _expanded(self, label: bytes, size: int) -> bytes:
        label = b"tls13 " + label
        info = size.to_bytes(2, "big") + bytes((len(label),)) + label + b"\0\x01"
        return hmac.digest(self._secret, info, self._digest)[:size]

    def _use(self, secret: bytes) -> None:
        self._secret = secret
        self._key = AESGCM(self._expanded(b"key", self._key_size))
        self._iv = int.from_bytes(self._expanded(b"iv", 12), "big")
        self._number = 0

    def record(self, data: bytes, kind: int = APPLICATION_DATA) -> bytes:
        """One record."""
        plain = data + bytes((kind,))
        head = b"\x17\x03\x03" + (len(plain) + 16).to_bytes(2, "big")
        nonce = (self._iv ^ self._number).to_bytes(12, "big")
        self._number += 1
        return head + self._key.encrypt(nonce, plain, head)

    def key_update(self, requested: bool = False) -> bytes:
        """A record that says that the next one has a new key, and may ask for the same (RFC 8446, 4.6.3)."""
        made = self.record(b"\x18\0\0\x01" + bytes((requested,)), HANDSHAKE)
        self._use(self._expanded(b"traffic upd", len(self._secret)))
        return made


class Records12:
    """What a client of TLS 1.2 may encrypt (RFC 5246, 6.3; RFC 5288)."""

    def __init__(self, client: Client, path: pathlib.Path) -> None:
        lines = path.read_text(encoding="ascii").splitlines()
        _, random, master = lines[-1].split()
        # From the ServerHello, which is the first thing in clear: record 5, head 4, version 2.
        server_random = client.wire[11:43]
        seed = a = b"key expansion" + server_random + bytes.fromhex(random)
        block = b""
        while len(block) < 40:
            a = hmac.digest(bytes.fromhex(master), a, hashlib.sha256)
            block += hmac.digest(bytes.fromhex(master), a + seed, hashlib.sha256)
        self._key, self._iv = AESGCM(block[:16]), block[32:36]
        # The client's Finished was the first.
        self._number = 1

    def record(self, data: bytes, kind: int = APPLICATION_DATA) -> bytes:
        """One record."""
        number = self._number.to_bytes(8, "big")
        self._number += 1
        head = bytes((kind,)) + b"\x03\x03"
        sealed = self._key.encrypt(self._iv + number, data, number + head + len(data).to_bytes(2, "big"))
        return head + (8 + len(sealed)).to_bytes(2, "big") + number + sealed
