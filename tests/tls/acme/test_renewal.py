"""When to renew, when to ask, when to try again: the numbers, and what holds for all of them."""

from __future__ import annotations

import datetime
import math

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from onebackend_proxy.records import Certificate, Issuance
from onebackend_proxy.tls.acme.renewal import (
    ask_again,
    failed,
    may_demand,
    may_try,
    renew_at,
    should_ask,
    succeeded,
)

from ...properties import OFTEN, PROPERTY

SECOND = datetime.timedelta(seconds=1)
MINUTE = datetime.timedelta(minutes=1)
HOUR = datetime.timedelta(hours=1)
DAY = datetime.timedelta(days=1)
BEGIN = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
LIVES = [90 * DAY, 45 * DAY, 6 * DAY, 60 * SECOND]
MOST = 8 * DAY
"""The longest that an authority is obeyed."""
TABLE = [1, 2, 2, 5, *[10] * 3, *[20] * 4, *[30] * 6, *[60] * 3, *[120] * 2, *[180] * 2, 360, 360, 360]
URL = "https://ca.test/directory"


def certified(life=90 * DAY, name="x.test", serial="A1", directory=URL):
    end = BEGIN + life
    return Certificate(name, (name,), "", "", name, "CA", serial, BEGIN, end, BEGIN, BEGIN, directory)


def windowed(start, end, serial="A1"):
    return Issuance("x.test", serial=serial, window_start=start, window_end=end)


lives = st.sampled_from(LIVES) | st.timedeltas(SECOND, 800 * DAY)
moments = st.timedeltas(-2 * DAY, 900 * DAY).map(lambda since: BEGIN + since)
problems = st.sampled_from(["", "no"])
retry_afters = st.none() | st.floats() | st.sampled_from([0.0, 3600.0, 1e9, -1.0])
certificates = st.builds(
    certified, lives, st.sampled_from(["x.test", "y.test"]), st.sampled_from(["A1", "B2"])
)
knowledge = st.none() | st.builds(windowed, moments, moments, st.sampled_from(["A1", "B2"]))
unsettled = st.none() | moments
issuances = st.builds(
    Issuance,
    st.just("x.test"),
    failures=st.integers(0, 1000),
    failing_since=unsettled,
    tried_at=unsettled,
    retry_at=unsettled,
    not_before=unsettled,
    challenge=st.sampled_from(["", "http-01"]),
)


# When to renew.


@pytest.mark.parametrize(
    ("life", "first", "last"),
    [
        (90 * DAY, 60 * DAY, 63 * DAY),
        (45 * DAY, 30 * DAY, 31.5 * DAY),
        (6 * DAY, 4 * DAY, 4.2 * DAY),
        (60 * SECOND, 40 * SECOND, 42 * SECOND),
    ],
)
def test_without_a_window_it_is_two_thirds_of_the_life_and_names_spread(life, first, last):
    at = [renew_at(certified(life, f"{number}.test"), None, BEGIN) - BEGIN for number in range(1000)]
    spread = last - first
    assert all(first <= each < last for each in at)
    assert min(at) < first + spread / 50
    assert max(at) > last - spread / 50
    assert len(set(at)) > 990
    # Nothing is random: the same after a restart.
    assert at == [renew_at(certified(life, f"{number}.test"), None, BEGIN) - BEGIN for number in range(1000)]


def test_a_new_certificate_of_a_name_has_its_own_moment():
    assert renew_at(certified(serial="A1"), None, BEGIN) != renew_at(certified(serial="B2"), None, BEGIN)


def test_moments_are_spread_over_the_window_and_stay_while_it_does():
    start, end = BEGIN + 50 * DAY, BEGIN + 52 * DAY
    at = [renew_at(certified(serial=f"{n}"), windowed(start, end, f"{n}"), BEGIN) for n in range(1000)]
    assert all(start <= each <= end for each in at)
    assert min(at) < start + HOUR
    assert max(at) > end - HOUR
    assert abs(sum((each - start for each in at), 0 * DAY) / 1000 - DAY) < 2 * HOUR
    known = windowed(start, end, "7")
    again = [renew_at(certified(serial="7"), known, BEGIN + day * DAY) for day in range(49)]
    assert set(again) == {at[7]}
    moved = attrs.evolve(known, window_end=end + HOUR)
    assert renew_at(certified(serial="7"), moved, BEGIN) != at[7]


def test_a_window_that_is_over_says_now():
    # So an authority asks for it that is about to revoke.
    now = BEGIN + DAY
    assert renew_at(certified(), windowed(BEGIN, BEGIN + HOUR), now) == now


@pytest.mark.parametrize(
    "known",
    [
        None,
        windowed(None, None),
        windowed(BEGIN + DAY, None),
        windowed(None, BEGIN + DAY),
        # RFC 9773, 4.2: as if nothing had been said.
        windowed(BEGIN + DAY, BEGIN + DAY),
        windowed(BEGIN + 2 * DAY, BEGIN + DAY),
        # That is for the certificate before.
        windowed(BEGIN + DAY, BEGIN + 2 * DAY, serial="B2"),
    ],
)
def test_a_window_that_is_none_is_not_heeded(known):
    assert renew_at(certified(), known, BEGIN) == renew_at(certified(), None, BEGIN)


@pytest.mark.parametrize("life", LIVES)
def test_a_twentieth_before_its_end_it_is_renewed_whatever_the_authority_says(life):
    certificate = certified(life)
    # A minute is so short that the order itself counts.
    late = certificate.not_after - (15 * SECOND if life == 60 * SECOND else life / 20)
    beyond = windowed(certificate.not_after + DAY, certificate.not_after + 2 * DAY)
    assert renew_at(certificate, beyond, BEGIN) == late
    assert renew_at(certificate, beyond, late + SECOND) == late + SECOND
    assert renew_at(certificate, None, certificate.not_after + DAY) == certificate.not_after + DAY


@pytest.mark.parametrize(
    ("life", "pause"), [(90 * DAY, 10 * MINUTE), (HOUR, 3 * MINUTE), (60 * SECOND, 3 * SECOND)]
)
def test_what_is_wrong_with_every_new_one_costs_no_flood_of_orders(life, pause):
    """A clock that is too far ahead, and an authority whose windows are always over."""
    over = windowed(BEGIN - DAY, BEGIN - HOUR)
    for begun in (BEGIN, BEGIN + life / 2, BEGIN + life - SECOND, BEGIN + 2 * life):
        certificate = attrs.evolve(certified(life), updated_at=begun)
        assert renew_at(certificate, over, begun) == begun + pause
        assert renew_at(certificate, over, begun + pause + SECOND) == begun + pause + SECOND
    ahead = attrs.evolve(certified(life), updated_at=BEGIN + 2 * life)
    assert renew_at(ahead, None, BEGIN + 2 * life) == BEGIN + 2 * life + pause
    # It was ahead, but is no more.
    assert renew_at(ahead, over, BEGIN) == BEGIN


@OFTEN
@given(certificates, knowledge, moments, moments)
def test_never_in_the_past_never_too_late_and_time_moves_it_only_to_now(certificate, known, one, other):
    now, later = max(BEGIN, min(one, other)), max(BEGIN, one, other)
    at, then = renew_at(certificate, known, now), renew_at(certificate, known, later)
    life = certificate.not_after - certificate.not_before
    assert max(now, BEGIN + min(life / 20, 10 * MINUTE)) <= at <= max(now, certificate.not_after - life / 20)
    assert at - now <= life * 3 / 4 or certificate.not_after - at >= 15 * SECOND
    assert then == max(at, later)


# When to ask.


@pytest.mark.parametrize(
    ("life", "retry_after", "wait"),
    [
        (90 * DAY, None, 6 * HOUR),
        (90 * DAY, 3600.0, HOUR),
        (90 * DAY, 0.0, MINUTE),
        (90 * DAY, -5.0, MINUTE),
        (90 * DAY, 1e12, DAY),
        (90 * DAY, math.inf, DAY),
        (90 * DAY, math.nan, MINUTE),
        (45 * DAY, 6 * 3600.0, 6 * HOUR),
        (6 * DAY, 6 * 3600.0, 6 * HOUR),
        (6 * DAY, 86400.0, 14.4 * HOUR),
        (60 * SECOND, None, 6 * SECOND),
        (60 * SECOND, 0.0, 6 * SECOND),
        (2 * SECOND, None, SECOND),
    ],
)
def test_when_to_ask_again(life, retry_after, wait):
    assert ask_again(retry_after, certified(life), BEGIN) == BEGIN + wait


@OFTEN
@given(certificates, retry_afters, moments)
def test_each_is_asked_about_before_it_is_renewed_and_nobody_is_flooded(certificate, retry_after, now):
    wait = ask_again(retry_after, certificate, now) - now
    life = certificate.not_after - certificate.not_before
    assert SECOND <= wait <= DAY
    if life >= 10 * MINUTE:
        assert wait >= MINUTE
    # Between its begin and 2/3 of its life there is always one asking.
    assert wait < life * 2 / 3 or life <= 2 * SECOND


def test_what_is_not_known_is_asked_and_then_at_its_time():
    now = BEGIN + DAY
    assert should_ask(certified(), None, now)
    assert should_ask(certified(), Issuance("x.test"), now)
    assert should_ask(certified(), Issuance("x.test", serial="B2", ask_at=now + HOUR), now)
    asked = Issuance("x.test", serial="A1", ask_at=now + HOUR)
    assert not should_ask(certified(), asked, now)
    assert should_ask(certified(), asked, now + HOUR)


def test_nobody_is_asked_about_what_has_expired_or_what_somebody_saved():
    assert not should_ask(certified(), None, BEGIN + 90 * DAY)
    assert not should_ask(certified(directory=""), None, BEGIN)


def test_a_clock_that_was_wrong_once_does_not_stop_the_asking():
    assert should_ask(certified(), Issuance("x.test", serial="A1", ask_at=BEGIN + 60 * DAY), BEGIN)


# When to try again.


def after(failures, life=None, **known):
    """When it is tried again after so many failures at once, from BEGIN on."""
    issuance = Issuance("x.test", failures=failures - 1, failing_since=BEGIN, **known)
    certificate = None if life is None else certified(life)
    found = failed(issuance, "no", URL, BEGIN, certificate=certificate)
    assert found.retry_at
    return found.retry_at - BEGIN


@pytest.mark.parametrize(("failures", "minutes"), list(enumerate(TABLE, 1)))
def test_the_table(failures, minutes):
    assert minutes * MINUTE <= after(failures) < 1.1 * minutes * MINUTE
    assert after(failures, 90 * DAY) == after(failures)
    assert after(failures, 6 * DAY) == after(failures)


def test_after_many_failures_it_stays_at_the_end_of_the_table():
    assert 6 * HOUR <= after(100_000) < 6.6 * HOUR


def test_names_that_fail_together_are_not_all_tried_together():
    found = {failed(Issuance(f"{n}.test", failures=30), "no", URL, BEGIN).retry_at for n in range(1000)}
    assert len(found) > 990


def test_after_thirty_days_once_a_day():
    issuance = Issuance("x.test", failures=200, failing_since=BEGIN)
    before = failed(issuance, "no", URL, BEGIN + 30 * DAY).retry_at
    later = failed(issuance, "no", URL, BEGIN + 30 * DAY + SECOND).retry_at
    assert before
    assert later
    assert before - (BEGIN + 30 * DAY) < 7 * HOUR
    assert DAY <= later - (BEGIN + 30 * DAY + SECOND) < 1.1 * DAY


def test_the_whole_month_costs_some_hundred_tries():
    issuance, now, tries = Issuance("x.test"), BEGIN, 0
    while now < BEGIN + 30 * DAY:
        issuance, tries = failed(issuance, "no", URL, now), tries + 1
        assert issuance.retry_at
        assert not may_try(issuance, issuance.retry_at - SECOND)
        now = issuance.retry_at
    assert 110 < tries < 145
    assert issuance.failing_since == BEGIN
    assert issuance.failures == tries


@pytest.mark.parametrize(
    ("life", "wait"), [(60 * SECOND, 5), (10 * SECOND, 5), (10 * MINUTE, 30), (HOUR, 180)]
)
def test_what_lives_shortly_is_tried_again_soon(life, wait):
    # The first minute of the table is longer, or at least the later steps are.
    assert min(wait, 60) * SECOND <= after(1, life) < min(wait, 60) * 1.1 * SECOND
    assert wait * SECOND <= after(50, life) < wait * 1.1 * SECOND


@pytest.mark.parametrize(
    ("retry_after", "wait"),
    [
        (3600.0, HOUR),
        (0.0, 0 * DAY),
        (-1.0, 0 * DAY),
        (1e12, MOST),
        (math.inf, MOST),
        (math.nan, 0 * DAY),
    ],
)
def test_an_authority_is_obeyed_for_a_week_and_a_day(retry_after, wait):
    found = failed(Issuance("x.test"), "wait", URL, BEGIN, retry_after=retry_after, certificate=certified())
    assert found.not_before == BEGIN + wait
    assert found.retry_at == max(BEGIN + after(1), BEGIN + wait)


def test_another_failure_does_not_undo_what_an_authority_asked_for():
    limited = failed(Issuance("x.test"), "rateLimited", URL, BEGIN, retry_after=3 * 3600.0)
    other = failed(limited, "down", "https://other.test/", BEGIN + MINUTE)
    assert other.not_before == BEGIN + 3 * HOUR
    assert other.retry_at == BEGIN + 3 * HOUR
    gone = failed(other, "no", URL, BEGIN + 4 * HOUR)
    assert gone.not_before is None
    assert gone.failures == 3


def test_what_is_kept_of_a_failure():
    known = Issuance("x.test", challenge="http-01", serial="A1", window_start=BEGIN, ask_at=BEGIN)
    found = failed(known, "DNS problem", URL, BEGIN)
    assert found == attrs.evolve(
        known,
        failures=1,
        failing_since=BEGIN,
        tried_at=BEGIN,
        problem="DNS problem",
        directory=URL,
        retry_at=found.retry_at,
    )


def test_a_success_forgets_all_but_how_it_was_had():
    known = failed(windowed(BEGIN, BEGIN + DAY), "no", URL, BEGIN, retry_after=60.0)
    assert succeeded(known, "tls-alpn-01") == Issuance("x.test", challenge="tls-alpn-01")
    # A proof may still count from the time before.
    proven = attrs.evolve(known, challenge="http-01")
    assert succeeded(proven, "") == Issuance("x.test", challenge="http-01")


@OFTEN
@given(issuances, problems, moments, retry_afters, st.none() | certificates)
@example(Issuance("x.test", failures=10**6, failing_since=BEGIN + 500 * DAY), "", BEGIN, None, None)
def test_after_a_failure_there_is_a_wait_within_bounds(issuance, problem, now, retry_after, certificate):
    found = failed(issuance, problem, URL, now, retry_after=retry_after, certificate=certificate)
    assert found.retry_at
    assert found.failing_since
    assert found.failures == issuance.failures + 1
    assert found.tried_at == now
    assert found.failing_since <= now
    assert 5 * SECOND <= found.retry_at - now <= MOST
    assert found.not_before is None or now <= found.not_before <= min(found.retry_at, now + MOST)
    assert not may_try(found, now)
    assert not may_try(found, found.retry_at - SECOND)
    assert may_try(found, found.retry_at)


@PROPERTY
@given(issuances, moments)
def test_the_next_wait_is_hardly_ever_shorter(issuance, now):
    # A step of the table is as long as the one before it; only what is drawn by hash may differ.
    fresh = attrs.evolve(issuance, not_before=None)
    one = failed(fresh, "", URL, now)
    two = failed(one, "", URL, now)
    assert one.retry_at
    assert two.retry_at
    assert (two.retry_at - now) * 1.1 >= one.retry_at - now


# Whether it may be tried.


def test_what_is_not_known_may_be_tried():
    for known in (None, Issuance("x.test")):
        assert may_try(known, BEGIN)
        assert may_demand(known, BEGIN)


def test_a_handshake_has_it_tried_again_after_a_quarter_of_an_hour():
    known = Issuance("x.test", tried_at=BEGIN, retry_at=BEGIN + 6 * HOUR)
    for now, tried, demanded in [
        (BEGIN, False, False),
        (BEGIN + 14 * MINUTE, False, False),
        (BEGIN + 15 * MINUTE, False, True),
        (BEGIN + 6 * HOUR, True, True),
    ]:
        assert may_try(known, now) is tried
        assert may_demand(known, now) is demanded


def test_a_handshake_has_it_tried_sooner_when_its_time_has_come():
    known = Issuance("x.test", tried_at=BEGIN, retry_at=BEGIN + MINUTE)
    assert not may_demand(known, BEGIN + MINUTE - SECOND)
    assert may_demand(known, BEGIN + MINUTE)


def test_no_handshake_has_it_tried_before_the_authority_allows():
    known = Issuance("x.test", tried_at=BEGIN, retry_at=BEGIN + DAY, not_before=BEGIN + DAY)
    assert not may_demand(known, BEGIN + DAY - SECOND)
    assert may_demand(known, BEGIN + DAY)


def test_a_clock_that_was_wrong_once_stops_nothing():
    # It was a year ahead when that failed.
    known = failed(Issuance("x.test"), "no", URL, BEGIN + 365 * DAY, retry_after=86400.0)
    assert may_try(known, BEGIN)
    assert may_demand(known, BEGIN)
    again = failed(known, "no", URL, BEGIN)
    assert again.failing_since == BEGIN
    assert again.not_before is None
    assert not may_try(again, BEGIN)


@OFTEN
@given(issuances, moments)
def test_what_may_be_tried_may_be_demanded_and_nothing_is_before_the_authority_allows(known, now):
    if may_try(known, now):
        assert may_demand(known, now)
    # What was tried in the future was noted by a clock that was wrong.
    believed = known.tried_at is None or known.tried_at <= now
    if believed and known.not_before is not None and now < known.not_before <= now + MOST:
        assert not may_demand(known, now)
