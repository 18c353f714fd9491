"""DNS-01 (RFC 8555, 8.4): a host is proved by a TXT record, the one way that wildcards can be.

Who can write that record is an `IDnsProvider`. `rfc2136` is one that comes with this program; others are
found by entry points of the group `onebackend_proxy.dns_providers`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import Deferred, TimeoutError, gatherResults, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import Interface

from ...errors import ProxyError
from .problems import AcmeError
from .signing import base64url

if TYPE_CHECKING:
    # It loads dnspython, which nobody needs who has no provider.
    from .nameservers import Nameservers

GROUP = "onebackend_proxy.dns_providers"
"""The group of entry points: a name, and what to call with the reactor and the words of the setting."""
PROVIDER_SECONDS = 90.0
"""In which a provider has done what it was asked to."""


class IDnsProvider(Interface):
    """Writes TXT records into a zone. Names are lower-case ASCII without a dot at their end.

    Neither Deferred is cancelled before it has had `PROVIDER_SECONDS`, and a text is removed only after
    `present` of it has come to an end. What fails should do so with an `errors.ProxyError`, in words for
    people; of other exceptions only the kind is shown.
    """

    def present(name: str, value: str) -> Deferred[None]:
        """Have a TXT record `value` at `name`, beside others there: ``x.com`` and ``*.x.com`` share a name.

        Fires when the provider has taken it; that all servers show it is waited for elsewhere. It may be
        there already.
        """

    def remove(name: str, value: str) -> Deferred[None]:
        """Have this value gone from `name`, and leave all others; it may be gone already."""


def challenge_name(host: str) -> str:
    """Where an authority looks for the proof of `host`, which may be a wildcard's name."""
    return f"_acme-challenge.{host.removeprefix('*.')}"


def challenge_value(key_authorization: str) -> str:
    """The text that it expects there."""
    return base64url(hashlib.sha256(key_authorization.encode("ascii")).digest())


def dns_provider(text: str, reactor: Any) -> IDnsProvider:
    """The provider of the setting ``PROVIDER:WORD:NAME=WORD``, where ``\\:`` is a colon in a word.

    Raises `ValueError` that names what is wrong, and does not repeat words: they may be secret.
    """
    (name, *words), named = split_words(text)
    make = _maker(name)
    signature = inspect.signature(make)
    try:
        signature.bind(reactor, *words, **named)
    except TypeError as error:
        raise ValueError(f"{name}: {error}; it is {_usage(name, signature)}") from None
    try:
        provider = make(reactor, *words, **named)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if not IDnsProvider.providedBy(provider):
        raise ValueError(f"{name}: what it makes does not provide IDnsProvider")
    return provider


def split_words(text: str) -> tuple[list[str], dict[str, str]]:
    """The words and the named words of a text in the spelling of Twisted's endpoints.

    ``:`` separates them, the first ``=`` of one ends its name, and what follows a backslash is no sign.
    """
    words: list[str] = []
    named: dict[str, str] = {}
    name: str | None = None
    current = ""
    signs = iter([*text, None])
    for sign in signs:
        if sign == "\\":
            following = next(signs)
            if following is None:
                raise ValueError("ends with a backslash, behind which a character is missing")
            current += following
        elif sign == "=" and name is None:
            name, current = current, ""
        elif sign == ":" or sign is None:
            if name is None:
                words.append(current)
            elif not words:
                break
            elif name in named:
                raise ValueError(f"gives {name!r} twice")
            else:
                named[name] = current
            name, current = None, ""
        else:
            current += sign
    if not words or not words[0]:
        raise ValueError("does not begin with the name of a DNS provider")
    return words, named


def _maker(name: str) -> Callable[..., object]:
    if name == "rfc2136":
        from .rfc2136 import rfc2136

        return rfc2136
    found = importlib.metadata.entry_points(group=GROUP)
    if name not in found.names:
        there = ", ".join(sorted({"rfc2136", *found.names}))
        raise ValueError(f"there is no DNS provider {name!r}, there is {there}")
    try:
        make: Callable[..., object] = found[name].load()
    except Exception as error:
        raise ValueError(f"the DNS provider {name} cannot be loaded: {error}") from error
    return make


def _usage(name: str, signature: inspect.Signature) -> str:
    """As the setting spells it: ``rfc2136:SERVER:key=KEY[:zone=ZONE]``."""
    usage = name
    for each in list(signature.parameters.values())[1:]:
        word = each.name.upper()
        part = f":{each.name}={word}" if each.kind is each.KEYWORD_ONLY else f":{word}"
        usage += part if each.default is each.empty else f"[{part}]"
    return usage


@attrs.define(eq=False)
class _Record:
    """One text that was given to the provider; `added` fires, and never fails, when that is done."""

    name: str
    value: str
    added: Deferred[None] = attrs.field(factory=Deferred)
    removing: Deferred[None] | None = None


class Dns01Responder:
    """Has a provider write the records that prove hosts, waits until they are seen, and has them removed."""

    def __init__(self, provider: IDnsProvider, nameservers: Nameservers, reactor: Any) -> None:
        self._provider = provider
        self._nameservers = nameservers
        self._reactor = reactor
        # By host and key authorization, until it is removed.
        self._records: dict[tuple[str, str], _Record] = {}
        self._log = Logger()

    def __repr__(self) -> str:
        return f"<Dns01Responder by {self._provider!r}: {len(self._records)}>"

    async def present(self, host: str, key_authorization: str) -> None:
        """Return when the servers of the zone show it, or have not for two minutes.

        Raises `AcmeError`. After that, and when it is cancelled, the record is being removed already.
        """
        await self.remove(host, key_authorization)
        name = await self._nameservers.canonical(challenge_name(host))
        value = challenge_value(key_authorization)
        record = self._records[host, key_authorization] = _Record(name, value)
        try:
            await self._add(record)
            await self._nameservers.published(name, value)
        except BaseException:
            self._begin_removal((host, key_authorization), record)
            raise

    async def remove(self, host: str, key_authorization: str) -> None:
        """Return when it is gone, or cannot be removed: that is noted in the log, and no more.

        What was begun goes on when this is cancelled.
        """
        key = (host, key_authorization)
        record = self._records.get(key)
        if record is not None:
            await _watched(self._begin_removal(key, record))

    def close(self) -> Deferred[None]:
        """Remove all that is left; fires when that is done."""
        removals = [self._begin_removal(key, record) for key, record in list(self._records.items())]
        return gatherResults([_watched(each) for each in removals]).addCallback(lambda _: None)

    def _add(self, record: _Record) -> Deferred[None]:
        """Fires when the provider has taken it; cancelled, it leaves the provider to its work."""
        taken: Deferred[None] = Deferred()

        def end(result: Any) -> None:
            record.added.callback(None)
            taken.callback(result)

        self._call(self._provider.present, record.name, record.value).addBoth(end)
        return taken

    def _begin_removal(self, key: tuple[str, str], record: _Record) -> Deferred[None]:
        if record.removing is None:
            record.removing = Deferred()
            Deferred.fromCoroutine(self._take_away(key, record)).addBoth(record.removing.callback)
        return record.removing

    async def _take_away(self, key: tuple[str, str], record: _Record) -> None:
        # A text that a thread is still adding would come after its removal.
        await record.added
        try:
            await self._call(self._provider.remove, record.name, record.value)
        except AcmeError as error:
            self._log.warn(
                "the TXT record {value} stays at {name}: {error}",
                name=record.name,
                value=record.value,
                error=error,
            )
        finally:
            if self._records.get(key) is record:
                del self._records[key]

    def _call(self, work: Callable[[str, str], Deferred[None]], name: str, value: str) -> Deferred[None]:
        """Fails with nothing but `AcmeError`."""
        done: Deferred[None] = maybeDeferred(work, name, value)
        done.addTimeout(PROVIDER_SECONDS, self._reactor)
        return done.addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, AcmeError):
            raise error
        if isinstance(error, ProxyError):
            raise AcmeError(error.message, detail=error.detail) from error
        if isinstance(error, TimeoutError):
            raise AcmeError(f"the DNS provider took longer than {PROVIDER_SECONDS:.0f} s")
        # Its words may be a URL that has a password.
        self._log.failure("a DNS provider failed in a way that it does not explain", failure)
        raise AcmeError(f"the DNS provider failed: {type(error).__name__}") from error


def _watched(shared: Deferred[None]) -> Deferred[None]:
    """Fires as `shared` does, which never fails; cancelled, it leaves `shared` alone."""
    watcher: Deferred[None] = Deferred()
    shared.addCallback(watcher.callback)
    return watcher


def dns01_responder(text: str, reactor: Any, resolver: tuple[str, int] | None = None) -> Dns01Responder:
    """The responder of the settings ``--acme-dns`` and ``--acme-resolver``; raises as `dns_provider`."""
    from .nameservers import Nameservers

    return Dns01Responder(dns_provider(text, reactor), Nameservers(reactor, resolver), reactor)
