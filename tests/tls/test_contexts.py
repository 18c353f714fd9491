"""Which certificate is shown for a name: loaded once, kept in bounds, made anew in time."""

from __future__ import annotations

import datetime
from typing import Any, cast

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.logger import ILogObserver, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from onebackend_proxy.errors import StoreUnavailable
from onebackend_proxy.tls.client_hello import INTERNAL_ERROR, UNRECOGNIZED_NAME, BadHello, ClientHello
from onebackend_proxy.tls.contexts import MAX_ISSUED, RETRY_SECONDS, SUMMARY_SECONDS, TICKET_SECONDS
from onebackend_proxy.tls.transport import Chosen

from .loopback import Certificates
from .making import DAY, known_key, made, now, record


class ContextsTests(SynchronousTestCase):
    """A store of certificates, and what it says in the log."""

    def setUp(self) -> None:
        self.logged: list[str] = []
        self.failures = 0
        observer = cast(ILogObserver, self.observe)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def observe(self, event: dict[str, Any]) -> None:
        """Keep the line, and count those that have a traceback."""
        self.logged.append(formatEvent(event))
        self.failures += "log_failure" in event

    def loading(self, certificates: Certificates, name: str = "x.com") -> Deferred[Chosen]:
        """What is chosen is not there yet."""
        found = certificates.contexts.choose(ClientHello(name, ()), "")
        assert isinstance(found, Deferred) and not found.called
        return found

    def chosen(self, certificates: Certificates, name: str = "x.com", address: str = "192.0.2.1") -> Chosen:
        """What is chosen, at once or after it was loaded."""
        found = certificates.contexts.choose(ClientHello(name, ()), address)
        if isinstance(found, Deferred):
            found = self.successResultOf(found)
        assert isinstance(found, Chosen)
        return found

    def alert(self, certificates: Certificates, name: str = "x.com", address: str = "192.0.2.1") -> int:
        """The alert of a refusal."""
        try:
            found = certificates.contexts.choose(ClientHello(name, ()), address)
        except BadHello as error:
            return error.alert
        assert isinstance(found, Deferred)
        return self.failureResultOf(found, BadHello).value.alert


class TestChoosing(ContextsTests):
    """By name, else by the address that the client came to."""

    def test_the_exact_name_goes_before_the_wildcard(self) -> None:
        certificates = Certificates(record("*.x.com"), record("a.x.com"), record("x.com"))
        for name, wanted in (("a.x.com", "a.x.com"), ("b.x.com", "*.x.com"), ("x.com", "x.com")):
            assert self.chosen(certificates, name).certificate.id == wanted
        for name in ("a.b.x.com", "y.com", "com"):
            assert self.alert(certificates, name) == UNRECOGNIZED_NAME

    def test_a_stored_one_is_loaded_once_and_shown_without_its_key(self) -> None:
        certificates = Certificates(record("x.com", "y.com"))
        first = certificates.contexts.choose(ClientHello("x.com", ()), "")
        assert isinstance(first, Deferred)
        chosen = self.successResultOf(first)
        assert certificates.contexts.choose(ClientHello("y.com", ()), "") is chosen
        assert certificates.loads == ["x.com"]
        assert chosen.certificate.private_key == ""
        assert chosen.certificate == attrs.evolve(certificates.with_keys["x.com"], private_key="")
        assert repr(certificates.contexts) == "<Contexts: 1 of at most 2048, 0 issued here>"

    def test_a_client_without_a_name_gets_that_of_the_address(self) -> None:
        certificates = Certificates(record("192.0.2.1"), owned=lambda host: False)
        for address in ("192.0.2.1", "::ffff:192.0.2.1"):
            assert self.chosen(certificates, "", address).certificate.id == "192.0.2.1"
        assert self.alert(certificates, "", "192.0.2.2") == UNRECOGNIZED_NAME
        assert self.alert(certificates, "", "") == UNRECOGNIZED_NAME

    def test_a_stored_one_goes_before_one_of_ours(self) -> None:
        certificates = Certificates(record("localhost"))
        assert self.chosen(certificates, "localhost").certificate.issuer == "Test Intermediate"
        assert certificates.authorities == 0

    def test_the_local_authority_speaks_for_what_is_owned(self) -> None:
        asked: list[str] = []

        def owned(host: str) -> bool:
            asked.append(host)
            return host in ("localhost", "a.localhost", "192.0.2.1", "[2001:db8::1]")

        certificates = Certificates(owned=owned)
        for name, address, wanted in (
            ("localhost", "", "localhost"),
            ("a.localhost", "", "a.localhost"),
            ("", "192.0.2.1", "192.0.2.1"),
            ("", "::ffff:192.0.2.1", "192.0.2.1"),
            ("", "2001:db8::1", "2001:db8::1"),
        ):
            assert self.chosen(certificates, name, address).certificate.names == (wanted,)
        for name, address in (("b.localhost", ""), ("", "192.0.2.2"), ("", "fe80::1%eth0")):
            assert self.alert(certificates, name, address) == UNRECOGNIZED_NAME
        # As routes spell them, and nobody else's names.
        assert "[2001:db8::1]" in asked
        assert self.alert(certificates, "x.com") == UNRECOGNIZED_NAME and "x.com" not in asked

    def test_what_would_be_shown(self) -> None:
        certificates = Certificates(record("*.x.com"))
        found = certificates.contexts.certificate_for("a.x.com")
        assert found is not None and (found.id, found.private_key) == ("*.x.com", "")
        assert certificates.contexts.certificate_for("x.com") is None
        assert certificates.loads == []


class TestKept(ContextsTests):
    """Memory is bounded by what may be kept, whatever is asked for."""

    def test_names_that_nobody_owns_leave_nothing(self) -> None:
        certificates = Certificates(record("x.com"), owned=lambda host: False)
        for number in range(10_000):
            name = f"n{number}.localhost" if number % 2 else f"n{number}.com"
            assert self.alert(certificates, name) == UNRECOGNIZED_NAME
        assert repr(certificates.contexts) == "<Contexts: 0 of at most 2048, 0 issued here>"
        assert (certificates.loads, certificates.contexts._loading) == ([], {})
        assert self.logged == []

    def test_more_certificates_than_may_be_kept(self) -> None:
        bundle = record("*.x.com")
        records = [attrs.evolve(bundle, id=f"n{each}.com", names=(f"n{each}.com",)) for each in range(3000)]
        certificates = Certificates(*records, kept=50)
        for number in range(3000):
            assert self.chosen(certificates, f"n{number}.com").certificate.id == f"n{number}.com"
        assert repr(certificates.contexts) == "<Contexts: 50 of at most 50, 0 issued here>"
        certificates.loads.clear()
        for number in range(2950, 3000):
            self.chosen(certificates, f"n{number}.com")
        assert certificates.loads == []
        # What was used last stays.
        self.chosen(certificates, "n2950.com")
        self.chosen(certificates, "n0.com")
        self.chosen(certificates, "n2950.com")
        self.chosen(certificates, "n2951.com")
        assert certificates.loads == ["n0.com", "n2951.com"]

    def test_local_ones_too(self) -> None:
        certificates = Certificates(kept=5)
        for number in range(20):
            self.chosen(certificates, f"n{number}.localhost")
        assert repr(certificates.contexts) == "<Contexts: 0 of at most 5, 5 issued here>"

    def test_those_that_fail_too(self) -> None:
        bundle = record("*.x.com")
        records = [attrs.evolve(bundle, id=f"n{each}.com", names=(f"n{each}.com",)) for each in range(20)]
        certificates = Certificates(*records, kept=5)
        certificates.with_keys.clear()
        for number in range(20):
            assert self.alert(certificates, f"n{number}.com") == INTERNAL_ERROR
        assert repr(certificates.contexts) == "<Contexts: 5 of at most 5, 0 issued here>"
        assert len(self.logged) == 20 and self.failures == 0

    def test_names_that_anybody_makes_up_push_out_no_stored_one(self) -> None:
        certificates = Certificates(record("x.com"), kept=20)
        stored = self.chosen(certificates)
        for number in range(60):
            self.chosen(certificates, f"n{number}.localhost")
        assert repr(certificates.contexts) == "<Contexts: 1 of at most 20, 20 issued here>"
        assert self.chosen(certificates) is stored and certificates.loads == ["x.com"]

    def test_stored_ones_push_out_no_local_one(self) -> None:
        bundle = record("*.x.com")
        records = [attrs.evolve(bundle, id=f"n{each}.com", names=(f"n{each}.com",)) for each in range(20)]
        certificates = Certificates(*records, kept=5)
        local = self.chosen(certificates, "localhost")
        for number in range(20):
            self.chosen(certificates, f"n{number}.com")
        assert self.chosen(certificates, "localhost") is local

    def test_local_ones_have_a_bound_of_their_own(self) -> None:
        certificates = Certificates()
        first = self.chosen(certificates, "n0.localhost")
        for number in range(1, MAX_ISSUED):
            self.chosen(certificates, f"n{number}.localhost")
        assert self.chosen(certificates, "n0.localhost") is first
        # What was used last stays.
        self.chosen(certificates, "one-more.localhost")
        assert repr(certificates.contexts) == f"<Contexts: 0 of at most 2048, {MAX_ISSUED} issued here>"
        assert self.chosen(certificates, "n0.localhost") is first


class TestChanges(ContextsTests):
    """Certificates are published anew, and times pass."""

    def test_what_did_not_change_is_not_loaded_again(self) -> None:
        x, y = record("x.com"), record("y.com")
        certificates = Certificates(x, y)
        before = self.chosen(certificates), self.chosen(certificates, "y.com")
        certificates.publish(x, record("y.com"))
        assert self.chosen(certificates) is before[0]
        assert self.chosen(certificates, "y.com") is not before[1]
        assert certificates.loads == ["x.com", "y.com", "y.com"]

    def test_one_that_is_gone(self) -> None:
        certificates = Certificates(record("x.com"))
        self.chosen(certificates)
        certificates.publish()
        assert self.alert(certificates) == UNRECOGNIZED_NAME
        assert repr(certificates.contexts) == "<Contexts: 0 of at most 2048, 0 issued here>"

    def test_one_that_is_gone_while_it_is_loaded(self) -> None:
        certificates = Certificates(record("x.com"))
        certificates.held = []
        found = self.loading(certificates)
        certificates.publish()
        certificates.held[0].callback(None)
        assert self.failureResultOf(found, BadHello).value.alert == INTERNAL_ERROR
        assert self.logged == ["the certificate of x.com cannot be shown: it was deleted a moment ago"]
        assert self.failures == 0
        assert self.alert(certificates) == UNRECOGNIZED_NAME

    def test_one_that_changes_while_it_is_loaded(self) -> None:
        old, new = record("x.com"), record("x.com")
        for newer_first in (False, True):
            certificates = Certificates(old)
            held = certificates.held = []
            for_old = [self.loading(certificates) for _ in range(2)]
            certificates.publish(new)
            # Who comes now waits for the new one, and not behind the old one.
            for_new = [self.loading(certificates) for _ in range(2)]
            assert certificates.loads == ["x.com"] * 2
            for each in (1, 0) if newer_first else (0, 1):
                held[each].callback((old, new)[each])
                for waiter in (for_old, for_new)[each]:
                    assert self.successResultOf(waiter).certificate.serial == (old, new)[each].serial
            certificates.held = None
            assert self.chosen(certificates).certificate.serial == new.serial
            assert certificates.contexts._loading == {}

    def test_one_more_that_comes_after_the_older_one_was_loaded(self) -> None:
        old, new = record("x.com"), record("x.com")
        certificates = Certificates(old)
        held = certificates.held = []
        self.loading(certificates)
        certificates.publish(new)
        first = self.loading(certificates)
        held[0].callback(old)
        second = self.loading(certificates)
        assert certificates.loads == ["x.com"] * 2
        held[1].callback(new)
        assert self.successResultOf(first) is self.successResultOf(second)

    def test_an_older_one_that_cannot_be_loaded_stops_no_newer_one(self) -> None:
        certificates = Certificates(record("x.com"))
        held = certificates.held = []
        for_old = self.loading(certificates)
        certificates.publish(record("x.com"))
        for_new = self.loading(certificates)
        held[0].errback(StoreUnavailable("locked"))
        self.failureResultOf(for_old, BadHello)
        held[1].callback(certificates.with_keys["x.com"])
        newer = self.successResultOf(for_new)
        certificates.held = None
        assert self.chosen(certificates) is newer

    def test_the_one_that_is_valid_goes_before_the_one_that_has_ended(self) -> None:
        later = now() + 60 * DAY
        short = record("x.com", "a.x.com", id="x.com", ends=now() + 30 * DAY)
        certificates = Certificates(short, record("*.x.com", ends=later))
        assert self.chosen(certificates, "a.x.com").certificate.id == "x.com"
        certificates.clock.advance((40 * DAY).total_seconds())
        assert self.chosen(certificates, "a.x.com").certificate.id == "*.x.com"
        # With nothing valid there is still one to show.
        assert self.chosen(certificates, "x.com").certificate.id == "x.com"

    def test_a_local_one_is_made_anew_in_time(self) -> None:
        certificates = Certificates()
        first = self.chosen(certificates, "localhost")
        left = first.certificate.not_after - now()
        certificates.clock.advance((left * 2 / 3 - datetime.timedelta(minutes=1)).total_seconds())
        assert self.chosen(certificates, "localhost") is first
        certificates.clock.advance(120)
        second = self.chosen(certificates, "localhost")
        assert second.certificate.serial != first.certificate.serial
        assert second.certificate.not_after > first.certificate.not_after

    def test_local_ones_are_kept_when_stored_ones_change(self) -> None:
        certificates = Certificates(record("x.com"))
        first = self.chosen(certificates, "localhost")
        certificates.publish(record("y.com"))
        assert self.chosen(certificates, "localhost") is first

    def test_the_key_of_tickets_is_new_each_day(self) -> None:
        certificates = Certificates()
        base = certificates.contexts.base()
        certificates.clock.advance(TICKET_SECONDS - 1)
        assert certificates.contexts.base() is base
        certificates.clock.advance(1)
        assert certificates.contexts.base() is not base


class TestFailures(ContextsTests):
    """What cannot be shown is an alert for each client, and one line in the log."""

    def test_many_wait_for_one_and_are_all_told(self) -> None:
        certificates = Certificates(record("x.com"))
        certificates.held = []
        waiting: Any = [certificates.contexts.choose(ClientHello("x.com", ()), "") for _ in range(20)]
        assert certificates.loads == ["x.com"]
        certificates.held[0].errback(OSError("/secret/path"))
        for each in waiting:
            error = self.failureResultOf(each, BadHello).value
            assert error.alert == INTERNAL_ERROR and "secret" not in str(error)
        assert len(self.flushLoggedErrors(OSError)) == 1

    def test_it_is_tried_again_but_not_by_everyone(self) -> None:
        certificates = Certificates(record("x.com"))
        whole = dict(certificates.with_keys)
        certificates.with_keys.clear()
        for _ in range(100):
            assert self.alert(certificates) == INTERNAL_ERROR
        assert certificates.loads == ["x.com"]
        assert len(self.logged) == 1 and self.failures == 0
        certificates.with_keys.update(whole)
        certificates.clock.advance(RETRY_SECONDS)
        assert self.chosen(certificates).certificate.id == "x.com"

    def test_a_new_one_is_tried_at_once(self) -> None:
        certificates = Certificates(record("x.com"))
        certificates.with_keys.clear()
        assert self.alert(certificates) == INTERNAL_ERROR
        certificates.publish(record("x.com"))
        assert self.chosen(certificates).certificate.id == "x.com"

    def test_what_is_known_to_happen_is_a_line_and_the_rest_has_a_traceback(self) -> None:
        for error, failures in ((StoreUnavailable("locked", detail="proxy.sqlite"), 0), (OSError("odd"), 1)):
            self.logged.clear()
            certificates = Certificates(record("x.com"))
            certificates.held = []
            found = self.loading(certificates)
            certificates.held[0].errback(error)
            self.failureResultOf(found, BadHello)
            assert len(self.logged) == 1 and self.logged[0].startswith("the certificate of x.com cannot be")
            assert self.failures == failures
        self.logged.clear()
        assert len(self.flushLoggedErrors(OSError)) == 1

    def test_a_key_that_does_not_match(self) -> None:
        good = record("x.com")
        other = made("x.com", key=known_key("P-384")).key_pem
        for key in (other, "no key", ""):
            certificates = Certificates(attrs.evolve(good, private_key=key))
            assert self.alert(certificates) == self.alert(certificates) == INTERNAL_ERROR
            assert len(self.flushLoggedErrors()) == 1
            assert not any("PRIVATE" in line for line in self.logged)

    def test_an_authority_that_cannot_be_had(self) -> None:
        certificates = Certificates()
        certificates.contexts._local = lambda: fail(OSError("locked"))
        assert self.alert(certificates, "localhost") == INTERNAL_ERROR
        assert len(self.flushLoggedErrors(OSError)) == 1


class TestRefusals(ContextsTests):
    """Anybody can make any number of them: they are counted."""

    def test_at_most_one_line_a_minute(self) -> None:
        certificates = Certificates()
        contexts = certificates.contexts
        contexts.refused("not TLS")
        assert len(self.logged) == 1 and self.logged[0].startswith("1 TLS handshakes were refused")
        for number in range(1000):
            certificates.clock.advance(0.05)
            contexts.refused(f"reason {number}")
        assert len(self.logged) == 1
        certificates.clock.advance(SUMMARY_SECONDS)
        contexts.refused("the last")
        assert len(self.logged) == 2
        assert self.logged[1].startswith("1001 TLS handshakes") and self.logged[1].endswith(
            "because: the last"
        )
