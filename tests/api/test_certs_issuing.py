"""What fails, what would stop an order, and orders now, through the API."""

from __future__ import annotations

import datetime

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import TestCase

from onebackend_proxy.api import EdgeView
from onebackend_proxy.api.collection import LARGE
from onebackend_proxy.api.issuances import failing_json
from onebackend_proxy.errors import NotFound, Unavailable
from onebackend_proxy.interfaces import Finding, Published
from onebackend_proxy.records import Issuance, Route
from onebackend_proxy.testing import MemoryStore

from ..properties import PROPERTY
from ..tls.making import DAY, made, record
from .support import START, Api

NOW = datetime.datetime.fromtimestamp(START, datetime.UTC)
FAILING = Issuance(
    "a.com",
    failures=3,
    failing_since=NOW - DAY,
    tried_at=NOW,
    problem="no such name",
    directory="https://ca.example/directory",
    retry_at=NOW + DAY,
)
SHOWN = {
    "name": "a.com",
    "failures": 3,
    "failingSince": "2027-01-14T08:00:00.000Z",
    "triedAt": "2027-01-15T08:00:00.000Z",
    "retryAt": "2027-01-16T08:00:00.000Z",
    "problem": "no such name",
    "directory": "https://ca.example/directory",
}
FINDINGS = (
    Finding("route", True, "there is one"),
    Finding("dns", False, "nothing"),
    Finding("caa", None, "?"),
)


class Ordering:
    """Stands for what orders certificates."""

    def __init__(self):
        self.ordered = []
        self.checked = []
        self.answer = succeed(FINDINGS)

    def order(self, names):
        if "nope.com" in names:
            raise NotFound("no Route is for nope.com")
        self.ordered.append(names)

    def check(self, domain):
        self.checked.append(domain)
        return self.answer


class IssuingTests(TestCase):
    def setUp(self):
        self.ordering = Ordering()
        self.start(self.ordering)

    def start(self, issuing):
        self.api = Api(issuing=issuing)
        self.successResultOf(self.api.start())
        self.admin = self.do(self.api.login())

    def do(self, coroutine):
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def post(self, path, body=None, token=None):
        token = self.admin if token is None else token
        return self.do(self.api.call("POST", f"/proxy-svc/certs{path}", body, token=token))

    def know(self, *issuances):
        for each in issuances:
            until = NOW + DAY
            self.successResultOf(self.api.store.claim_issuance(each.name, "me", NOW, until))
            self.assertTrue(self.successResultOf(self.api.store.release_issuance(each, "me")))

    def keep(self, *names):
        records = [record(name) for name in names]
        self.successResultOf(self.api.store.save_certificates(records))

    def test_a_check(self):
        reply = self.post("/check", {"domain": "A.com."})
        self.assertEqual(reply.status, 200)
        self.assertEqual(
            reply.json,
            {
                "domain": "a.com",
                "findings": [
                    {"subject": "route", "ok": True, "message": "there is one"},
                    {"subject": "dns", "ok": False, "message": "nothing"},
                    {"subject": "caa", "ok": None, "message": "?"},
                ],
            },
        )
        self.post("/check", {"domain": "*.A.com"})
        self.assertEqual(self.ordering.checked, ["a.com", "*.a.com"])

    def test_a_check_that_cannot_be_made_now(self):
        self.ordering.answer = Deferred()
        self.ordering.answer.errback(Unavailable("too many"))
        reply = self.post("/check", {"domain": "a.com"})
        self.assertEqual((reply.status, reply.error), (503, "too many"))

    def test_an_order(self):
        reply = self.post("/renew", {"ids": ["A.com", "b.com", "a.com"]})
        self.assertEqual((reply.status, reply.json), (200, {"ids": ["a.com", "b.com"]}))
        self.assertEqual(self.ordering.ordered, [["a.com", "b.com"]])
        reply = self.post("/renew", {"ids": ["nope.com"]})
        self.assertEqual((reply.status, reply.error), (404, "no Route is for nope.com"))

    def test_bad_input(self):
        for path, body, wanted in (
            ("/check", {}, "domain: is missing"),
            ("/check", {"domain": "a b"}, "domain: 'a b' is not a host name"),
            ("/check", {"domain": 7}, "domain: expected a string"),
            ("/check", {"domain": "a.com", "x": 1}, "unknown field 'x'"),
            ("/renew", {}, "ids: is missing"),
            ("/renew", {"ids": []}, "ids: is empty"),
            ("/renew", {"ids": ["a.com/b"]}, "ids[0]: 'a.com/b' is not a host name"),
            ("", {"failing": "yes"}, "failing: expected true or false"),
        ):
            reply = self.post(path, body)
            self.assertEqual((reply.status, reply.error), (400, wanted))
        self.assertEqual((self.ordering.checked, self.ordering.ordered), ([], []))

    def test_where_none_are_ordered(self):
        self.start(None)
        for path, body in (("/check", {"domain": "a.com"}), ("/renew", {"ids": ["a.com"]})):
            reply = self.post(path, body)
            self.assertEqual(reply.status, 404)
            self.assertIn("the edge or ACME is off", reply.error)
        self.assertEqual(self.post("", {"failing": True}).json, {"certs": [], "failing": []})

    def test_only_an_admin_may(self):
        user = self.do(self.api.register("shop-svc"))
        for path, body, permission in (
            ("/check", {"domain": "a.com"}, "view"),
            ("/renew", {"ids": ["a.com"]}, "edit"),
            ("", {"failing": True}, "view"),
        ):
            reply = self.post(path, body, user)
            wanted = f"the permission proxy-svc:cert:{permission} is needed"
            self.assertEqual((reply.status, reply.error), (403, wanted))
            self.assertEqual(self.post(path, body, "").status, 401)
        self.assertEqual((self.ordering.checked, self.ordering.ordered), ([], []))

    def test_what_fails_is_listed(self):
        self.keep("a.com", "b.com")
        self.assertNotIn("failing", self.post("").json)
        waiting = Issuance("new.com", problem="too many at once")
        self.know(FAILING, Issuance("b.com", challenge="http-01"), waiting)
        listed = self.post("").json
        self.assertEqual([cert["id"] for cert in listed["certs"]], ["a.com", "b.com"])
        wanted = {"name": "new.com", "failures": 0, "problem": "too many at once"}
        self.assertEqual(listed["failing"], [SHOWN, wanted])
        listed = self.post("", {"failing": True}).json
        self.assertEqual([cert["id"] for cert in listed["certs"]], ["a.com"])
        self.assertEqual([each["name"] for each in listed["failing"]], ["a.com", "new.com"])
        listed = self.post("", {"ids": ["new.com"]}).json
        self.assertEqual([each["name"] for each in listed["failing"]], ["new.com"])
        self.assertNotIn("failing", self.post("", {"ids": ["b.com"]}).json)

    def test_what_fails_of_names_that_no_route_is_for_any_more_is_not_told(self):
        store = MemoryStore()
        seen: list[Published] = []
        store.follow(seen.append)
        view = EdgeView(lambda: seen[-1], lambda host: None, None, lambda request: None)
        self.api = Api(store, issuing=self.ordering, edge=view)
        self.successResultOf(self.api.start())
        self.admin = self.do(self.api.login())
        self.know(FAILING)
        self.assertEqual(self.post("", {"failing": True}).json["failing"], [])
        store.save_routes([Route(FAILING.name, "http://127.0.0.1:1")])
        self.assertEqual(self.post("", {"failing": True}).json["failing"], [SHOWN])

    def test_what_fails_is_beside_many_certificates(self):
        [one] = [made("a.com", begins=NOW - DAY, ends=NOW + DAY)]
        kept = attrs.evolve(record("a.com"), chain=one.chain)
        many = [attrs.evolve(kept, id=f"{number}.com") for number in range(LARGE + 1)]
        self.successResultOf(self.api.store.save_certificates(many))
        self.know(FAILING)
        listed = self.post("").json
        self.assertEqual((len(listed["certs"]), listed["failing"]), (LARGE + 1, [SHOWN]))

    def test_who_issued_it_is_shown(self):
        ordered = attrs.evolve(record("a.com"), directory="https://ca.example/directory")
        self.successResultOf(self.api.store.save_certificates([ordered, record("b.com")]))
        first, second = self.post("").json["certs"]
        self.assertEqual(first["directory"], "https://ca.example/directory")
        self.assertNotIn("directory", second)


moments = st.none() | st.datetimes(timezones=st.just(datetime.UTC))


@given(
    st.builds(Issuance, st.text(), st.integers(0), moments, moments, st.text(), st.text(), moments, moments)
)
@PROPERTY
def test_only_what_is_known_is_shown(issuance):
    shown = failing_json(issuance)
    assert shown["name"] == issuance.name
    assert ("problem" in shown) == bool(issuance.problem)
    assert ("notBefore" in shown) == (issuance.not_before is not None)
    assert not any(value is None or value == "" for name, value in shown.items() if name != "name")
