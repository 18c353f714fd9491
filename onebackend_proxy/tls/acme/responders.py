"""How the challenges of an authority are answered (RFC 8555, 8): txacme's `IResponder`, one for each kind."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from txacme.interfaces import IResponder
from zope.interface import implementer

from ...records import Challenge
from ..challenges import Challenges
from .dns import Dns01Responder

LIFE = datetime.timedelta(hours=1)
"""After which a proof that nobody has removed is forgotten: its process has died."""
DNS_01 = "dns-01"


@implementer(IResponder)
class StoredResponder:
    """Answers from the store: any process that shares it may be asked. For HTTP-01 and TLS-ALPN-01."""

    def __init__(self, kind: str, challenges: Challenges, seconds: Callable[[], float]) -> None:
        self.challenge_type = kind
        self._challenges = challenges
        self._seconds = seconds

    def __repr__(self) -> str:
        return f"<StoredResponder: {self.challenge_type}>"

    def _challenge(self, name: str, challenge: Any, response: Any) -> Challenge:
        now = datetime.datetime.fromtimestamp(self._seconds(), datetime.UTC)
        return Challenge(self.challenge_type, name, challenge.token, response.key_authorization, now + LIFE)

    def start_responding(self, server_name: str, challenge: Any, response: Any) -> Deferred[None]:
        """See `txacme.interfaces.IResponder`: when it fires, every process can answer."""
        return self._challenges.place(self._challenge(server_name, challenge, response))

    def stop_responding(self, server_name: str, challenge: Any, response: Any) -> Deferred[None]:
        """See `txacme.interfaces.IResponder`."""
        return self._challenges.remove(self._challenge(server_name, challenge, response))


@implementer(IResponder)
class DnsResponder:
    """Answers by a TXT record: the one kind that proves wildcards (RFC 8555, 8.4)."""

    challenge_type = DNS_01

    def __init__(self, records: Dns01Responder) -> None:
        self._records = records

    def __repr__(self) -> str:
        return f"<DnsResponder: {self._records!r}>"

    def start_responding(self, server_name: str, challenge: Any, response: Any) -> Deferred[None]:
        """See `txacme.interfaces.IResponder`: when it fires, the name's servers have the record."""
        return Deferred.fromCoroutine(self._records.present(server_name, response.key_authorization))

    def stop_responding(self, server_name: str, challenge: Any, response: Any) -> Deferred[None]:
        """See `txacme.interfaces.IResponder`."""
        return Deferred.fromCoroutine(self._records.remove(server_name, response.key_authorization))
