"""Proofs that a name is ours, answered from the store: whichever process ordered, any may be asked."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..errors import ProxyError
from ..interfaces import IStore
from ..records import Certificate, Challenge
from .pem import certificate_pem, key_pem

HTTP_01, TLS_ALPN_01 = "http-01", "tls-alpn-01"
SUMMARY_SECONDS = 60.0
"""A store that cannot be read is told of once in so many: anybody can ask any number of times."""
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,512}")
"""RFC 8555, 8.3: base64url. Those of today have 43 letters."""
ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
"""The extension that holds the proof (RFC 8737, 6.1)."""
_BEGINS, _LIFE = datetime.timedelta(hours=1), datetime.timedelta(days=1)


@attrs.frozen(eq=False)
class _Asked:
    """Somebody who waits for the store."""

    kind: str
    name: str
    token: str
    answer: Deferred[str | None]


class Challenges:
    """The challenges that may be asked for now; `now` is in Unix seconds.

    However many ask at once, one read of the store is under way, and one more waits at most: made-up tokens
    cost no memory, and keep nobody else from the store. Whoever asks gets what a read found that began
    later, so that a challenge which was placed before is seen.
    """

    def __init__(self, store: IStore, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        self._placed: dict[tuple[str, str], dict[str, Challenge]] = {}
        self._asked: list[_Asked] = []
        self._reading = False
        self._next_line = 0.0
        self._log = Logger()

    def __repr__(self) -> str:
        placed = sum(map(len, self._placed.values()))
        return f"<Challenges: {placed} placed here, {len(self._asked)} wait to ask the store>"

    def find(self, kind: str, name: str, token: str = "") -> Deferred[str | None]:
        """The key authorization for this canonical name, None if there is none or the store fails.

        Who asks by TLS-ALPN-01 does not know the token: of several the one that expires last is meant.
        """
        if not _TOKEN.fullmatch(token) and (token or kind != TLS_ALPN_01):
            return succeed(None)
        known = _answer(self._placed.get((kind, name), {}).values(), token, self._moment())
        if known is not None:
            return succeed(known)
        asked = _Asked(kind, name, token, Deferred())
        self._asked.append(asked)
        if not self._reading:
            self._read()
        return asked.answer

    def place(self, challenge: Challenge) -> Deferred[None]:
        """From now on it is answered, here and by all that share the store; fails as the store does."""
        moment = self._moment()
        for placed in list(self._placed.values()):
            for old in list(placed.values()):
                if old.expires_at <= moment:
                    self._drop(old)
        self._placed.setdefault((challenge.kind, challenge.name), {})[challenge.token] = challenge

        def failed(failure: Failure) -> Failure:
            self._drop(challenge)
            return failure

        return self._store.save_challenge(challenge, moment).addErrback(failed)

    def remove(self, challenge: Challenge) -> Deferred[None]:
        """From now on it is not; fails as the store does."""
        self._drop(challenge)
        return self._store.delete_challenge(challenge)

    def _drop(self, challenge: Challenge) -> None:
        key = challenge.kind, challenge.name
        placed = self._placed.get(key, {})
        placed.pop(challenge.token, None)
        if not placed:
            self._placed.pop(key, None)

    def _read(self) -> None:
        asked, self._asked = self._asked, []
        self._reading = True
        reading = self._store.challenges(self._moment())
        reading.addErrback(self._failed).addCallback(self._found, asked)

    def _found(self, challenges: Sequence[Challenge], asked: list[_Asked]) -> None:
        self._reading = False
        if self._asked:
            self._read()
        by_name: dict[tuple[str, str], list[Challenge]] = {}
        for challenge in challenges:
            by_name.setdefault((challenge.kind, challenge.name), []).append(challenge)
        moment = self._moment()
        for each in asked:
            each.answer.callback(_answer(by_name.get((each.kind, each.name), ()), each.token, moment))

    def _failed(self, failure: Failure) -> Sequence[Challenge]:
        now = self._now()
        if now >= self._next_line:
            self._next_line = now + SUMMARY_SECONDS
            if failure.check(ProxyError):
                self._log.error("challenges cannot be read: {error}", error=failure.value)
            else:
                self._log.failure("challenges cannot be read", failure)
        return ()

    def _moment(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self._now(), datetime.UTC)


def _answer(challenges: Iterable[Challenge], token: str, moment: datetime.datetime) -> str | None:
    """Of those for one name, that of the token; of any, if it is ""."""
    fitting = [each for each in challenges if (not token or each.token == token) and moment < each.expires_at]
    return max(fitting, key=lambda each: each.expires_at).answer if fitting else None


def challenge_certificate(name: str, answer: str, now: datetime.datetime) -> Certificate:
    """What is shown to an authority that looks for this key authorization (RFC 8737, 3), with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a proof of control, and no certificate")])
    # An OCTET STRING of DER: its tag, its length, and what it holds.
    digest = b"\x04\x20" + sha256(answer.encode("ascii")).digest()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEGINS)
        .not_valid_after(now + _LIFE)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.UnrecognizedExtension(ACME_IDENTIFIER, digest), critical=True)
    )
    made = builder.sign(key, hashes.SHA256())
    return Certificate(
        id=name,
        names=(name,),
        chain=certificate_pem(made),
        private_key=key_pem(key),
        common_name=name,
        issuer=name,
        serial=f"{made.serial_number:X}",
        not_before=made.not_valid_before_utc,
        not_after=made.not_valid_after_utc,
        created_at=now,
        updated_at=now,
    )
