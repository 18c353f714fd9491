from __future__ import annotations

import datetime
import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from onebackend_proxy.errors import answer_for
from onebackend_proxy.tls.acme.problems import (
    MAX_RETRY_AFTER,
    MAX_WORDS,
    Problem,
    Unreachable,
    printable,
    read_problem,
    read_retry_after,
)
from tests.properties import OFTEN, PROPERTY

NOW = datetime.datetime(2026, 1, 1, 12, 0, 0, tzinfo=datetime.UTC)
URN = "urn:ietf:params:acme:error:"
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
documents = st.dictionaries(
    st.sampled_from(["type", "detail", "title", "status", "subproblems", "identifier"]), anything
)


class ProblemTests(SynchronousTestCase):
    def test_all_the_server_s_words_in_one_line(self):
        problem = read_problem(
            {
                "type": URN + "compound",
                "detail": "Some names failed",
                "status": 403,
                "subproblems": [
                    {
                        "type": URN + "malformed",
                        "detail": "Invalid underscore",
                        "identifier": {"type": "dns", "value": "_a.example.org"},
                    },
                    {"type": URN + "rejectedIdentifier", "detail": "No", "identifier": "b.example.org"},
                ],
            },
            400,
            7.5,
        )
        self.assertEqual(problem.type, "compound")
        self.assertEqual(problem.detail, "Some names failed")
        self.assertEqual(problem.status_code, 403)
        self.assertEqual(problem.retry_after, 7.5)
        self.assertEqual(
            problem.subproblems,
            (
                ("_a.example.org", "malformed", "Invalid underscore"),
                ("b.example.org", "rejectedIdentifier", "No"),
            ),
        )
        self.assertEqual(
            str(problem),
            "compound: Some names failed; _a.example.org: malformed: Invalid underscore; "
            "b.example.org: rejectedIdentifier: No",
        )

    def test_only_a_type(self):
        self.assertEqual(str(read_problem({"type": URN + "badCSR"}, 400)), "badCSR")

    def test_nothing_at_all(self):
        problem = read_problem({}, 500)
        self.assertEqual((problem.type, problem.status_code), ("", 500))
        self.assertEqual(str(problem), "refused without a reason")

    def test_types_of_others_stay_as_they_are(self):
        self.assertEqual(read_problem({"type": "https://ca.example/oops"}).type, "https://ca.example/oops")
        self.assertEqual(read_problem({"type": "about:blank", "title": "Gone"}).type, "")
        self.assertEqual(str(read_problem({"type": "about:blank", "title": "Gone"})), "Gone")

    def test_the_urn_of_the_first_version_is_known_too(self):
        self.assertEqual(read_problem({"type": "urn:acme:error:rateLimited"}).type, "rateLimited")

    def test_a_detail_that_is_no_text(self):
        self.assertEqual(read_problem({"detail": ["a", {"b": 1}]}).detail, '["a", {"b": 1}]')
        self.assertEqual(read_problem({"detail": 5}).detail, "5")

    def test_a_status_that_is_none(self):
        for status in ("403", True, 7, 1000, None, 1e3):
            self.assertEqual(read_problem({"status": status}, 418).status_code, 418)

    def test_control_characters_and_lines(self):
        problem = read_problem({"detail": "a\r\nb\x1b[31m\u202ec\ud800"})
        self.assertEqual(str(problem), "a b?[31m?c?")

    def test_huge(self):
        problem = read_problem(
            {"detail": "x" * 1_000_000, "subproblems": [{"detail": "y" * 10_000}] * 10_000}
        )
        self.assertEqual(len(str(problem)), MAX_WORDS)
        self.assertTrue(str(problem).endswith("..."))
        self.assertEqual(len(problem.detail), MAX_WORDS)
        self.assertEqual(len(problem.subproblems), 100)

    @OFTEN
    @given(documents, st.integers(100, 599))
    def test_whatever_is_in_it(self, document, status):
        problem = read_problem(json.loads(json.dumps(document)), status)
        self.assertTrue(str(problem))
        self.assertTrue(str(problem).isprintable())
        self.assertLessEqual(len(str(problem)), MAX_WORDS)
        self.assertTrue(100 <= problem.status_code <= 599)
        for part in problem.subproblems:
            self.assertTrue(any(part))
            self.assertTrue("".join(part).isprintable())

    def test_a_directory_s_host_is_nothing_for_strangers(self):
        status, message = answer_for(Unreachable("ca.internal: no route to host"))
        self.assertEqual(status, 502)
        self.assertNotIn("internal", message)
        self.assertIn("ca.internal", str(Unreachable("ca.internal: no route to host")))

    def test_what_is_made_here_reads_alike(self):
        self.assertEqual(
            str(Problem("unauthorized", "the account is revoked")), "unauthorized: the account is revoked"
        )


class PrintableTests(SynchronousTestCase):
    @PROPERTY
    @given(st.text(alphabet=st.characters(codec=None)), st.integers(4, 50))
    def test_one_line_of_bounded_length(self, text, most):
        line = printable(text, most)
        self.assertTrue(line.isprintable())
        self.assertLessEqual(len(line), most)

    @PROPERTY
    @given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), max_size=40))
    def test_what_is_fine_stays(self, text):
        self.assertEqual(printable(text, 40), text)


class RetryAfterTests(SynchronousTestCase):
    def read(self, value, date=""):
        return read_retry_after(value, date, NOW)

    def test_seconds(self):
        self.assertEqual(self.read("0"), 0.0)
        self.assertEqual(self.read(" 120 "), 120.0)

    def test_a_date(self):
        self.assertEqual(self.read("Thu, 01 Jan 2026 12:02:00 GMT"), 120.0)

    def test_a_date_by_the_server_s_own_clock(self):
        self.assertEqual(self.read("Thu, 01 Jan 2026 09:00:30 GMT", "Thu, 01 Jan 2026 09:00:00 GMT"), 30.0)

    def test_what_is_past_is_now(self):
        self.assertEqual(self.read("Thu, 01 Jan 2015 12:02:00 GMT"), 0.0)

    def test_nobody_waits_for_years(self):
        for value in ("9" * 400, "99999999", "Fri, 31 Dec 9999 23:59:59 GMT"):
            self.assertEqual(self.read(value), MAX_RETRY_AFTER)

    def test_neither(self):
        for value in ("", "soon", "-5", "1.5", "1e3", "٣", "Thu, 99 Jan 2026 99:99:99 GMT", "1 2"):
            self.assertIsNone(self.read(value))

    @OFTEN
    @given(st.text(max_size=40) | st.sampled_from(["Thu, 01 Jan 0001 00:00:00 +2359", "1 Jan 1 0:0 -9999"]))
    def test_whatever_it_says(self, value):
        for seconds in self.read(value), self.read("Thu, 01 Jan 2026 09:00:30 GMT", value):
            self.assertTrue(seconds is None or 0.0 <= seconds <= MAX_RETRY_AFTER)

    @PROPERTY
    @given(st.datetimes(datetime.datetime(2000, 1, 1), datetime.datetime(2100, 1, 1)), st.integers(0, 10**6))
    def test_dates_are_as_good_as_seconds(self, date, seconds):
        date = date.replace(microsecond=0, tzinfo=datetime.UTC)
        texts = [_http(date + datetime.timedelta(seconds=seconds)), _http(date)]
        self.assertEqual(self.read(*texts), float(seconds))


def _http(moment):
    import email.utils

    return email.utils.format_datetime(moment, usegmt=True)
