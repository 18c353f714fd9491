"""CAA records: who may issue, by RFC 8659 and RFC 8657."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.tls.acme.caa import MAX_SHOWN, NOBODY, Issuer, Policy, issuers, judge, read_issuer

from ...properties import OFTEN

HTTP, TLS, BY_DNS = "http-01", "tls-alpn-01", "dns-01"
OURS = ("ca.example", "ca2.example")


@pytest.mark.parametrize(
    "value, issuer",
    [
        ("ca.example", Issuer("ca.example")),
        ("  CA.Example \t", Issuer("ca.example")),
        ("ca.example;", Issuer("ca.example")),
        ("ca.example; account=230123", Issuer("ca.example", {"account": "230123"})),
        ("ca.example ;a = 1;\tb-c=", Issuer("ca.example", {"a": "1", "b-c": ""})),
        ("", NOBODY),
        (";", NOBODY),
        # What RFC 8659, 4.2 says of what breaks the grammar: nobody may issue.
        ("%%%%%", NOBODY),
        ("ca.example; a", NOBODY),
        ("ca.example; a=b c", NOBODY),
        ("ca.example a=b", NOBODY),
        ("ca.example; a=1; a=2", NOBODY),
        ("ca.example;; a=1", NOBODY),
        ("-ca.example", NOBODY),
        ("ca.example.", NOBODY),
    ],
)
def test_the_grammar_of_issue(value, issuer):
    assert read_issuer(value) == issuer


def test_the_restrictions_of_rfc_8657():
    read = read_issuer("ca.example; accounturi=https://ca.example/1; ValidationMethods=dns-01,http-01")
    assert read.account == "https://ca.example/1"
    assert read.methods == frozenset((BY_DNS, HTTP))
    assert Issuer("x").methods is None


def issue(*values, tag="issue"):
    return [Policy(tag, value) for value in values]


@pytest.mark.parametrize(
    "policies, wildcard, ok, said",
    [
        (issue("ca.example"), False, True, "let ca.example issue"),
        (issue("ca.example"), True, True, "let ca.example issue"),
        (issue("CA2.example", "b.example"), False, True, "let ca2.example issue"),
        (issue("other.example"), False, False, "let only other.example issue: add one that says: 0 issue"),
        (issue(";"), False, False, "let nobody issue"),
        (issue("ca.example x"), False, False, "let nobody issue"),
        (issue("mailto:a@x.com", tag="iodef"), False, True, "forbid no authority"),
        # issuewild is for wildcards alone, and goes before issue there (RFC 8659, 4.3).
        (issue("b.example", tag="issuewild"), False, True, "forbid no authority"),
        (
            [*issue("ca.example"), *issue(";", tag="issuewild")],
            True,
            False,
            "let nobody issue: add one that says: 0 issuewild",
        ),
        ([*issue(";"), *issue("ca.example", tag="issuewild")], True, True, "let ca.example issue"),
        ([*issue("ca.example"), Policy("tbs", "x", True)], False, False, "have the critical property tbs"),
        ([*issue("ca.example"), Policy("tbs", "x")], False, True, "let ca.example issue"),
        ([*issue("ca.example"), Policy("issuemail", ";", True)], False, True, "let ca.example issue"),
        (issue("ca.example; validationmethods=dns-01"), False, False, "let ca.example issue by dns-01 only"),
        (issue("ca.example; validationmethods=dns-01"), True, True, "let ca.example issue, by dns-01 only"),
        (issue("ca.example; validationmethods="), False, False, "let ca.example issue by nothing only"),
        (
            issue("ca.example; accounturi=https://ca.example/7"),
            False,
            True,
            "let ca.example issue, for the account https://ca.example/7 only (accounturi)",
        ),
        # One that demands nothing is enough.
        (issue("ca.example; accounturi=https://a/7", "ca2.example"), False, True, "let ca2.example issue"),
    ],
)
def test_verdicts(policies, wildcard, ok, said):
    verdict = judge(policies, wildcard, OURS, {BY_DNS} if wildcard else {HTTP, TLS})
    assert (verdict.ok, verdict.why[: len(said)]) == (ok, said)


tags = st.sampled_from(["issue", "issuewild", "iodef", "issuemail", "tbs"]) | st.text(max_size=8)
values = (
    st.sampled_from(["ca.example", "b.example", ";", "ca.example; validationmethods=http-01", "ca.example;;"])
    | st.text()
    | st.binary(max_size=300).map(lambda raw: raw.decode("latin-1"))
)
records = st.lists(st.builds(Policy, tags, values, st.booleans()), max_size=5)


@given(records, st.booleans())
@OFTEN
def test_a_verdict_is_one_line_and_keeps_to_the_records(policies, wildcard):
    """A model in RFC 8659's own words: whatever strangers wrote, and none of it at length."""
    verdict = judge(policies, wildcard, OURS, {HTTP, TLS, BY_DNS})
    assert verdict.why.isprintable() and len(verdict.why) < 4 * MAX_SHOWN + 100
    relevant = [each for each in policies if each.tag == "issuewild"] if wildcard else []
    relevant = relevant or [each for each in policies if each.tag == "issue"]
    if relevant and all(each.value.partition(";")[0].strip(" \t").lower() not in OURS for each in relevant):
        assert not verdict.ok
    if not relevant and not any(each.critical for each in policies):
        assert verdict.ok


@given(records, records, st.booleans())
@OFTEN
def test_more_who_may_issue_forbids_nobody(some, more, wildcard):
    allowed = issuers(some, wildcard)
    tag = "issuewild" if wildcard and any(each.tag == "issuewild" for each in some) else "issue"
    both = issuers([*some, *(each for each in more if each.tag == tag)], wildcard)
    if allowed is not None:
        assert both is not None and allowed == both[: len(allowed)]
