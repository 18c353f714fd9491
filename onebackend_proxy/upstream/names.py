"""Looking up the names of services, so that one whose name servers are silent holds up no other.

getaddrinfo keeps its thread until it knows, which may be 20 s. The reactor's threads are few, others need
them, and a program that ends waits for them; so these are our own, and nobody waits for them.
"""

from __future__ import annotations

import functools
import socket
import threading
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import DNSLookupError

KEPT = 5.0
"""Seconds that an answer is good for."""
FAILURE_KEPT = 1.0
"""Seconds that a failure is."""
SLOW = 1.0
"""Seconds above which a look-up counts as slow."""
MAX_KEPT = 1024
"""Names of which something is remembered."""
# Below how many threads at work another look-up begins, by what the last one of that name was like: one that
# was quick finds a thread, whatever is the matter with the others.
QUICK, NEW, SLOWLY = 32, 24, 16
# Its answer is on this machine. It always has a thread.
_LOCAL = "localhost"
_NO_ADDRESS = frozenset((socket.EAI_NONAME, socket.EAI_NODATA))

Hosts = tuple[str, ...]


class LookupGivenUp(CancelledError):
    """The name was not looked up by the time that who wanted it gave up."""


class LookupFailed(Exception):
    """Whether the name has an address could not be found out; the text says why, for the log."""


@attrs.frozen
class _Answer:
    result: Hosts | Exception
    until: float
    slow: bool


def _in_thread(name: str, work: Callable[[], None]) -> None:
    # A daemon: the end of the process does not wait for it.
    threading.Thread(target=work, name=f"looks up {name}", daemon=True).start()


class Names:
    """Looks names up, each once at a time whoever asks, in threads of its own.

    `reactor` provides IReactorTime and IReactorFromThreads; `getaddrinfo` is called in what `in_thread`
    starts.
    """

    def __init__(
        self,
        reactor: Any,
        getaddrinfo: Callable[..., Any] = socket.getaddrinfo,
        in_thread: Callable[[str, Callable[[], None]], None] = _in_thread,
    ) -> None:
        self._reactor = reactor
        self._getaddrinfo = getaddrinfo
        self._in_thread = in_thread
        # The oldest first.
        self._answers: dict[str, _Answer] = {}
        # Who waits for each name that is being looked up, or is to be.
        self._waiting: dict[str, list[Deferred[Hosts]]] = {}
        # Those that are to be, in order.
        self._queues: dict[int, dict[str, None]] = {QUICK: {}, NEW: {}, SLOWLY: {}}
        self._at_work = 0

    def __repr__(self) -> str:
        queued = sum(map(len, self._queues.values()))
        return f"<Names {len(self._answers)} kept, {self._at_work} at work, {queued} queued>"

    def look_up(self, name: str) -> Deferred[Hosts]:
        """The IP addresses of an ASCII name, as texts, in the order in which to try them.

        Fails with `DNSLookupError` if it has none, with `LookupFailed` if that could not be found out, and
        with `LookupGivenUp` when it is cancelled. What was known a moment ago comes at once.
        """
        last = self._answers.get(name)
        if last is not None and self._reactor.seconds() < last.until:
            return fail(last.result) if isinstance(last.result, Exception) else succeed(last.result)
        found: Deferred[Hosts] = Deferred(functools.partial(self._give_up, name))
        waiting = self._waiting.get(name)
        if waiting is not None:
            waiting.append(found)
            return found
        self._waiting[name] = [found]
        if name == _LOCAL:
            self._begin(name)
        else:
            self._queues[NEW if last is None else SLOWLY if last.slow else QUICK][name] = None
            self._begin_next()
        return found

    def _give_up(self, name: str, found: Deferred[Hosts]) -> None:
        waiting = self._waiting.get(name, [])
        if found in waiting:
            waiting.remove(found)
        if not waiting:
            for queue in self._queues.values():
                if name in queue:
                    del queue[name], self._waiting[name]
        found.errback(LookupGivenUp("looking up its name took too long"))

    def _begin_next(self) -> None:
        for limit, queue in self._queues.items():
            while queue and self._at_work < limit:
                name = next(iter(queue))
                del queue[name]
                self._at_work += 1
                self._begin(name)

    def _begin(self, name: str) -> None:
        began = self._reactor.seconds()

        def work() -> None:
            self._reactor.callFromThread(self._ended, name, began, _ask(self._getaddrinfo, name))

        try:
            self._in_thread(name, work)
        except RuntimeError as error:
            # As many threads as the system allows.
            self._reactor.callLater(0, self._ended, name, began, _failed(error))

    def _ended(self, name: str, began: float, result: Hosts | Exception) -> None:
        now = self._reactor.seconds()
        kept = FAILURE_KEPT if isinstance(result, Exception) else KEPT
        self._answers.pop(name, None)
        self._answers[name] = _Answer(result, now + kept, now - began > SLOW)
        if len(self._answers) > MAX_KEPT:
            del self._answers[next(iter(self._answers))]
        waiting = self._waiting.pop(name)
        if name != _LOCAL:
            self._at_work -= 1
            self._begin_next()
        for found in waiting:
            # One may have given up because of what another did with the answer.
            if found.called:
                continue
            if isinstance(result, Exception):
                found.errback(result)
            else:
                found.callback(result)


def _ask(getaddrinfo: Callable[..., Any], name: str) -> Hosts | Exception:
    """What the system says, in its order of addresses (RFC 6724)."""
    try:
        # As bytes: Python would check text by the rules of IDNA, which not all names in use keep.
        found = getaddrinfo(name.encode("ascii"), 0, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        return DNSLookupError(f"no address for {name}") if error.errno in _NO_ADDRESS else _failed(error)
    except Exception as error:
        return _failed(error)
    hosts = tuple(to[0] for family, *_, to in found if family in (socket.AF_INET, socket.AF_INET6))
    return hosts or DNSLookupError(f"no address for {name}")


def _failed(error: Exception) -> LookupFailed:
    return LookupFailed(f"looking up its name failed: {getattr(error, 'strerror', None) or error}")


@functools.lru_cache(8)
def names_of(reactor: Any) -> Names:
    """The look-ups of this reactor: all that use it share threads and answers."""
    return Names(reactor)
