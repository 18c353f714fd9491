from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.api.throttle import (
    EventWindow,
    LoginThrottle,
    RegistrationThrottle,
    is_local,
    network_of,
)
from onebackend_proxy.errors import TooManyRequests


class Time:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def time():
    return Time()


def wait(throttle, address, slug="shop-svc"):
    try:
        throttle.check(address, slug)
    except TooManyRequests as error:
        return error.retry_after
    return 0


def test_five_failures_a_minute_for_a_client_and_slug(time):
    throttle = LoginThrottle(time)
    for second in range(5):
        assert wait(throttle, "192.0.2.1") == 0
        throttle.failed("192.0.2.1", "shop-svc")
        time.now = 1001.0 + second
    assert wait(throttle, "192.0.2.1") == 55
    assert wait(throttle, "192.0.2.1", "other-svc") == 0
    assert wait(throttle, "192.0.2.2") == 0
    time.now = 1059.5
    assert wait(throttle, "192.0.2.1") == 1
    time.now = 1060.0
    assert wait(throttle, "192.0.2.1") == 0
    throttle.failed("192.0.2.1", "shop-svc")
    assert wait(throttle, "192.0.2.1") == 1


def test_twenty_failures_a_minute_for_a_client(time):
    throttle = LoginThrottle(time)
    for number in range(20):
        assert wait(throttle, "192.0.2.1", f"svc-{number}") == 0
        throttle.failed("192.0.2.1", f"svc-{number}")
    assert wait(throttle, "192.0.2.1", "new-svc") == 60
    assert wait(throttle, "192.0.2.2", "new-svc") == 0


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "", "unix:"])
def test_programs_on_this_machine_do_not_lock_each_other_out(time, address):
    throttle = LoginThrottle(time)
    for slug in ("a-svc", "b-svc", "c-svc", "d-svc", "e-svc"):
        for _ in range(5):
            assert wait(throttle, address, slug) == 0
            throttle.failed(address, slug)
    assert wait(throttle, address, "1backend") == 0
    assert wait(throttle, address, "a-svc") == 60


@pytest.mark.parametrize("address", ["128.0.0.1", "::2", "fe80::1%lo", "::ffff:192.0.2.1", "unknown"])
def test_others_are_not_on_this_machine(address):
    assert not is_local(address)


def test_success_clears_the_pair_but_not_the_client(time):
    throttle = LoginThrottle(time)
    for _ in range(4):
        for _ in range(5):
            throttle.failed("192.0.2.1", "shop-svc")
        throttle.succeeded("192.0.2.1", "shop-svc")
    assert wait(throttle, "192.0.2.1", "other-svc") == 60
    throttle = LoginThrottle(time)
    for _ in range(5):
        throttle.failed("192.0.2.1", "shop-svc")
    throttle.succeeded("192.0.2.1", "shop-svc")
    assert wait(throttle, "192.0.2.1") == 0


def test_ipv6_counts_by_the_64(time):
    throttle = LoginThrottle(time)
    for number in range(5):
        throttle.failed(f"2001:db8::{number}", "shop-svc")
    assert wait(throttle, "2001:db8::ffff:1") == 60
    assert wait(throttle, "2001:db8:0:1::1") == 0


@pytest.mark.parametrize(
    "address, network",
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("/run/socket", ""),
    ],
)
def test_network_of(address, network):
    assert network_of(address) == network


def test_the_table_is_bounded_and_the_oldest_go():
    window = EventWindow(limit=1, max_keys=3)
    for key in ("a", "b", "c"):
        window.add(key, 0.0)
    window.add("a", 1.0)
    window.add("d", 2.0)
    assert len(window) == 3
    assert [bool(window.wait(key, 3.0)) for key in "abcd"] == [True, False, True, True]


def test_what_is_over_is_forgotten():
    window = EventWindow(limit=1)
    window.add("a", 0.0)
    assert window.wait("a", 60.0) == 0
    assert len(window) == 0


@given(st.lists(st.floats(0, 300), min_size=1, max_size=60), st.integers(1, 6))
def test_never_more_than_the_limit_within_any_window(times, limit):
    window, let_through = EventWindow(limit), []
    for now in sorted(times):
        found = window.wait("key", now)
        assert 0 <= found <= 60
        if not found:
            window.add("key", now)
            let_through.append(now)
    for first, past in zip(let_through, let_through[limit:], strict=False):
        assert past - first >= 60 - 1e-9


def test_registrations(time):
    throttle = RegistrationThrottle(time)
    for _ in range(20):
        throttle.attempt("192.0.2.1")
    with pytest.raises(TooManyRequests) as caught:
        throttle.attempt("192.0.2.1")
    assert caught.value.retry_after == 60
    throttle.attempt("192.0.2.2")
    time.now += 60
    throttle.attempt("192.0.2.1")
