"""When to renew a certificate, and when to try again what failed: pure decisions, all times in UTC.

Nothing here is random: each delay is drawn by a hash of what it is for, so that every process that shares
the store comes to the same moment, also after a restart, and thousands of names still spread.
"""

from __future__ import annotations

import datetime
import hashlib

import attrs

from ...records import Certificate, Issuance

_Time = datetime.datetime
_SECOND = datetime.timedelta(seconds=1)
_MINUTE = datetime.timedelta(minutes=1)
_HOUR = datetime.timedelta(hours=1)
_DAY = datetime.timedelta(days=1)

_WAITS = (
    *(1 * _MINUTE, 2 * _MINUTE, 2 * _MINUTE, 5 * _MINUTE),
    *(3 * [10 * _MINUTE] + 4 * [20 * _MINUTE] + 6 * [30 * _MINUTE]),
    *(3 * [1 * _HOUR] + 2 * [2 * _HOUR] + 2 * [3 * _HOUR] + [6 * _HOUR]),
)
"""How long to wait after the first failure in a row, the second and so on; the last goes for all others."""
_EAGER = 30 * _DAY
"""After failing for so long a name is tried once a day only: nobody seems to miss it."""
LONGEST_WAIT = 8 * _DAY
"""Nobody is heeded who wants to be left alone for longer; the longest limits of authorities last a week."""
_SHORTEST_WAIT = 5 * _SECOND
_BETWEEN_DEMANDS = 15 * _MINUTE
"""Let's Encrypt forgives five failures for a name within an hour: this leaves one to spare."""
_ORDER_TAKES = 15 * _SECOND
"""Whatever an authority says, there is always so much time left for an order, or 1/4 of the lifetime."""
_ASK_AGAIN = 6 * _HOUR
_APART = 10 * _MINUTE


def _share(*of: str) -> float:
    """A number in [0, 1), always the same one for these words."""
    digest = hashlib.sha256("\0".join(of).encode()).digest()
    # 48 bits: more would be rounded, and up to 1.
    return int.from_bytes(digest[:6], "big") / 2**48


def _lifetime(certificate: Certificate) -> datetime.timedelta:
    return certificate.not_after - certificate.not_before


def _window(certificate: Certificate, issuance: Issuance | None) -> tuple[_Time, _Time] | None:
    """When the authority would have this very certificate renewed, if it says so (RFC 9773, 4.2)."""
    if issuance is None or issuance.serial != certificate.serial:
        return None
    start, end = issuance.window_start, issuance.window_end
    if start is None or end is None or end <= start:
        return None
    return start, end


def renew_at(certificate: Certificate, issuance: Issuance | None, now: _Time) -> _Time:
    """When to renew it, `now` at the earliest.

    That is a moment within the authority's window, as long as this stays the same; without one it is 2/3 of
    the lifetime, or at most 1/30 of it later. When less than 1/20 of the lifetime is left, or no more
    than an order takes, it is now. All that is for one that was stored a moment ago only after a pause: else
    a clock that is months ahead, or an authority whose windows are always over, would have it ordered again
    and again.
    """
    lifetime = _lifetime(certificate)
    window = _window(certificate, issuance)
    if window:
        start, end = window
        share = _share(certificate.serial, start.isoformat(), end.isoformat())
        at = start + share * (end - start)
    else:
        share = _share(certificate.id, certificate.serial)
        at = certificate.not_before + 2 * lifetime / 3 + share * lifetime / 30
    at = min(at, certificate.not_after - max(lifetime / 20, min(_ORDER_TAKES, lifetime / 4)))
    # From a clock that was ahead only once we are not held up.
    rested = certificate.updated_at + min(_APART, lifetime / 20) if certificate.updated_at <= now else now
    return max(now, at, rested)


def should_ask(certificate: Certificate, issuance: Issuance | None, now: _Time) -> bool:
    """Whether it is time to ask the authority when to renew it (RFC 9773, 4.3): never once it has expired."""
    if not certificate.directory or now >= certificate.not_after:
        return False
    if issuance is None or issuance.serial != certificate.serial:
        return True
    return _has_come(issuance.ask_at, now)


def ask_again(retry_after: float | None, certificate: Certificate, now: _Time) -> _Time:
    """When to ask the authority again, which said in how many seconds, or did not (RFC 9773, 4.3).

    A short-lived certificate is asked about some times before it is renewed, whatever was said.
    """
    wait = _ASK_AGAIN if retry_after is None else max(_MINUTE, _seconds(retry_after, _DAY))
    return now + min(wait, max(_SECOND, _lifetime(certificate) / 10))


def _seconds(number: float, most: datetime.timedelta) -> datetime.timedelta:
    # In this order, so that what is not a number becomes 0.
    return datetime.timedelta(seconds=min(max(0.0, number), most.total_seconds()))


def failed(
    issuance: Issuance,
    problem: str,
    directory: str,
    now: _Time,
    *,
    retry_after: float | None = None,
    certificate: Certificate | None = None,
) -> Issuance:
    """What is known after one more failure: `problem`, in the words of the authority at `directory`.

    It may want not to be asked for `retry_after` seconds. `certificate` is the one that is to be renewed: the
    shorter it lives, the sooner it is tried again.
    """
    failures = issuance.failures + 1
    since = min(issuance.failing_since or now, now)
    wait = _wait(failures, now - since, certificate)
    wait += _share(issuance.name, str(failures)) * wait / 10
    not_before = _not_before(issuance, retry_after, now)
    return attrs.evolve(
        issuance,
        failures=failures,
        failing_since=since,
        tried_at=now,
        problem=problem,
        directory=directory,
        retry_at=max(now + wait, not_before or now),
        not_before=not_before,
    )


def _wait(
    failures: int, failing_for: datetime.timedelta, certificate: Certificate | None
) -> datetime.timedelta:
    wait = _DAY if failing_for > _EAGER else _WAITS[min(failures, len(_WAITS)) - 1]
    if certificate is None:
        return wait
    return min(wait, max(_SHORTEST_WAIT, _lifetime(certificate) / 20))


def _not_before(issuance: Issuance, retry_after: float | None, now: _Time) -> _Time | None:
    """What an authority asked for, now or earlier, as far as it is still to come."""
    moments = [issuance.not_before] if not _has_come(issuance.not_before, now) else []
    if retry_after is not None:
        moments.append(now + _seconds(retry_after, LONGEST_WAIT))
    return max((moment for moment in moments if moment is not None), default=None)


def succeeded(issuance: Issuance, challenge: str) -> Issuance:
    """What is known once the name has a new certificate, by this kind of challenge ("" if none was needed).

    Failures are forgotten, and so is what the authority said on the certificate before.
    """
    return Issuance(issuance.name, challenge=challenge or issuance.challenge)


def _has_come(moment: _Time | None, now: _Time) -> bool:
    # No wait is longer than that: whoever wrote this moment had a clock that was wrong.
    return moment is None or moment <= now or moment > now + LONGEST_WAIT


def forbidden_until(issuance: Issuance | None, now: _Time) -> _Time | None:
    """Until when an authority wants to be left alone, whoever asks; None if it does not."""
    if issuance is None or _by_a_clock_ahead(issuance, now) or _has_come(issuance.not_before, now):
        return None
    return issuance.not_before


def waits_until(issuance: Issuance | None, now: _Time) -> _Time | None:
    """Until when it is not tried while nobody demands it; None if it is time to try, or to try again."""
    if issuance is None or _by_a_clock_ahead(issuance, now):
        return None
    moments = (issuance.not_before, issuance.retry_at)
    return max((each for each in moments if each is not None and not _has_come(each, now)), default=None)


def _by_a_clock_ahead(issuance: Issuance, now: _Time) -> bool:
    """Whether it was tried in the future: nothing that was noted then can be believed."""
    return issuance.tried_at is not None and issuance.tried_at > now + _MINUTE


def may_try(issuance: Issuance | None, now: _Time) -> bool:
    """Whether it is time to try, or to try again, while nobody demands it."""
    return waits_until(issuance, now) is None


def may_demand(issuance: Issuance | None, now: _Time) -> bool:
    """Whether to try for a handshake that waits: sooner, but never before an authority allows it."""
    if issuance is None or may_try(issuance, now):
        return True
    if forbidden_until(issuance, now) is not None:
        return False
    return issuance.tried_at is None or now - issuance.tried_at >= _BETWEEN_DEMANDS
