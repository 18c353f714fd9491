"""What the DNS says of a name that is to be certified: its addresses, and its CAA records.

Everything here blocks, in a thread, and no longer than `LOOKUP_SECONDS`.
"""

from __future__ import annotations

import time
from typing import Any

import attrs
import dns.exception
import dns.name
import dns.resolver

from .caa import Policy, shortly

LOOKUP_SECONDS = 10.0
"""For all questions about one thing."""
ASK_SECONDS = 5.0
"""For one question."""
MAX_ALIASES = 4
"""Aliases that are told."""


class LookupFailed(Exception):
    """Nothing could be found out; `refused` says that name servers answered, with a failure."""

    def __init__(self, message: str, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


@attrs.frozen
class Addresses:
    """The addresses of a name, and the aliases on the way; `exists` is whether there is such a name at all.

    `failed` says why those of IPv4 or of IPv6 could not be found out, and is "" where they could.
    """

    found: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    exists: bool = True
    failed: str = ""


@attrs.frozen
class _Found:
    """What one question brought."""

    records: tuple[Any, ...] = ()
    aliases: tuple[str, ...] = ()
    exists: bool = True


def make_resolver(resolver: tuple[str, int] | None) -> dns.resolver.Resolver:
    """One that asks this address and port, or the system's own; raises `LookupFailed` if that names none."""
    try:
        made = dns.resolver.Resolver(configure=resolver is None)
    except dns.resolver.NoResolverConfiguration:
        raise LookupFailed("this system names no resolver: set one (--acme-resolver)") from None
    if resolver is not None:
        made.nameservers, made.port = [resolver[0]], resolver[1]
    return made


class Resolving:
    """Questions to the resolver at this address and port, the system's own if it is None.

    Raises `LookupFailed` where the system names none.
    """

    def __init__(self, resolver: tuple[str, int] | None = None) -> None:
        self._resolver = make_resolver(resolver)
        self._late = time.monotonic() + LOOKUP_SECONDS

    def _ask(self, name: str, kind: str) -> _Found:
        lifetime = min(ASK_SECONDS, self._late - time.monotonic())
        if lifetime <= 0:
            raise LookupFailed(f"no answer in {LOOKUP_SECONDS:.0f} s")
        try:
            asked = dns.name.from_text(name)
            answer = self._resolver.resolve(
                asked, kind, raise_on_no_answer=False, lifetime=lifetime, search=False
            )
        except dns.resolver.NXDOMAIN:
            return _Found(exists=False)
        except dns.resolver.LifetimeTimeout:
            raise LookupFailed(f"no answer in {lifetime:.0f} s") from None
        except dns.resolver.NoNameservers:
            raise LookupFailed("its name servers fail or refuse to answer (SERVFAIL)", refused=True) from None
        except (dns.exception.DNSException, OSError) as error:
            raise LookupFailed(shortly(str(error)) or type(error).__name__) from None
        chain = answer.chaining_result.cnames
        aliases = tuple(shortly(next(iter(each)).target.to_text(True)) for each in chain[:MAX_ALIASES])
        return _Found(tuple(answer.rrset or ()), aliases)

    def addresses(self, host: str) -> Addresses:
        """Those of IPv6 and IPv4; fails only if neither can be found out."""
        found: dict[str, _Found] = {}
        failed: dict[str, LookupFailed] = {}
        for kind in ("AAAA", "A"):
            try:
                found[kind] = self._ask(host, kind)
            except LookupFailed as error:
                failed[kind] = error
        if not found:
            raise failed["A"]
        return Addresses(
            tuple(record.address for each in found.values() for record in each.records),
            next((each.aliases for each in found.values() if each.aliases), ()),
            any(each.exists for each in found.values()),
            next((f"{kind} records: {error}" for kind, error in failed.items()), ""),
        )

    def policies(self, host: str) -> tuple[str, tuple[Policy, ...]]:
        """The CAA records that count for `host`, and whose they are: the nearest ancestor's that has any.

        ("", ()) if none has (RFC 8659, 3). An alias has those of where it leads.
        """
        labels = host.split(".")
        for start in range(len(labels)):
            name = ".".join(labels[start:])
            records = self._ask(name, "CAA").records
            if records:
                return name, tuple(_policy(each) for each in records)
        return "", ()


def _policy(record: Any) -> Policy:
    tag, value = record.tag.decode("latin-1").lower(), record.value.decode("latin-1")
    return Policy(tag, value, bool(record.flags & 0x80))
