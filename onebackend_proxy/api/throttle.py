"""Who has guessed too often: pure bookkeeping, the time is passed in.

Successes are never counted: thirty services on one machine may all log in as it starts.
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable

from ..errors import TooManyRequests

WINDOW = 60.0
PER_ACCOUNT = 5
PER_ADDRESS = 20
MAX_KEYS = 4096
_UNIX_SOCKET = ("", "unix:")


def network_of(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 that one IPv6 customer has."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


def is_local(address: str) -> bool:
    """Whether it is a program on this machine: at a loopback address, or at a Unix socket."""
    if address in _UNIX_SOCKET:
        return True
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    # Not every Python looks into an IPv4-mapped address by itself.
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


class EventWindow:
    """Counts events per key over the last `window` seconds; of more than `max_keys` the oldest go."""

    def __init__(self, limit: int, window: float = WINDOW, max_keys: int = MAX_KEYS) -> None:
        self._limit = limit
        self._window = window
        self._max_keys = max_keys
        self._events: OrderedDict[Hashable, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._events)

    def wait(self, key: Hashable, now: float) -> int:
        """Whole seconds until one more event is within the limit; 0 if it is now."""
        times = self._events.get(key)
        if times is None:
            return 0
        while times and times[0] <= now - self._window:
            times.popleft()
        if not times:
            del self._events[key]
        if len(times) < self._limit:
            return 0
        # Rounded first: a sum of floats may come out a hair above a whole second.
        return max(1, math.ceil(round(times[0] + self._window - now, 3)))

    def add(self, key: Hashable, now: float) -> None:
        """Count one event."""
        # More than `limit` newest times never change an answer.
        self._events.setdefault(key, deque(maxlen=self._limit)).append(now)
        self._events.move_to_end(key)
        while len(self._events) > self._max_keys:
            self._events.popitem(last=False)

    def forget(self, key: Hashable) -> None:
        """Count from zero again."""
        self._events.pop(key, None)


class LoginThrottle:
    """Limits failed logins: 5 a minute per client and slug, 20 a minute per client on another machine.

    All programs on this machine are one client: a few with stale passwords must not lock out the others.

    Ask `check` before the password is looked at, and again before the answer is given: otherwise
    guesses sent all at once would all be judged before the first of them is counted.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        # Two tables, so that one client's many slugs cannot push out what is known of clients.
        self._pairs = EventWindow(PER_ACCOUNT)
        self._clients = EventWindow(PER_ADDRESS)

    def check(self, address: str, slug: str) -> None:
        """Raise `errors.TooManyRequests` if this client has to wait."""
        now, client = self._seconds(), network_of(address)
        wait = self._pairs.wait((client, slug), now)
        if not is_local(address):
            wait = max(wait, self._clients.wait(client, now))
        if wait:
            raise TooManyRequests(f"too many failed logins: try again in {wait} s", retry_after=wait)

    def failed(self, address: str, slug: str) -> None:
        """Count a wrong password or slug."""
        now, client = self._seconds(), network_of(address)
        self._pairs.add((client, slug), now)
        self._clients.add(client, now)

    def succeeded(self, address: str, slug: str) -> None:
        """Forget this client's failures with this slug."""
        self._pairs.forget((network_of(address), slug))


class RegistrationThrottle:
    """Limits open registration: 20 tries a minute per client, successful or not."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clients = EventWindow(PER_ADDRESS)

    def attempt(self, address: str) -> None:
        """Count one, or raise `errors.TooManyRequests`."""
        now, client = self._seconds(), network_of(address)
        wait = self._clients.wait(client, now)
        if wait:
            raise TooManyRequests(f"too many registrations: try again in {wait} s", retry_after=wait)
        self._clients.add(client, now)
