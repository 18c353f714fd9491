from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from onebackend_proxy.tls.acme import objects
from onebackend_proxy.tls.acme.fetching import Reply
from onebackend_proxy.tls.acme.problems import Unreachable
from tests.properties import OFTEN, PROPERTY
from tests.tls.making import DAY, intermediate, made, new_key, now

URL = "https://ca.example/acme/it"
JSON = "application/json"
CHAIN = "application/pem-certificate-chain"
LONG = {"url": st.sampled_from(["/a", "b", "https://x.com/c", "http://x.com/", "https://[", "", "data:,x"])}


def answer(document, type=JSON, status=200):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Reply(URL, status, Headers({"Content-Type": [type]} if type else {}), body)


scalar = st.none() | st.booleans() | st.integers() | st.text(max_size=12) | LONG["url"]
anything = st.recursive(
    scalar,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5) | st.just("value"), inner, max_size=4)
    ),
    max_leaves=10,
)
FIELDS = {
    "directory": ["newNonce", "newAccount", "newOrder", "renewalInfo", "meta"],
    "order": ["status", "authorizations", "finalize", "certificate", "error"],
    "authorization": ["status", "identifier", "challenges", "wildcard"],
    "renewal": ["suggestedWindow", "explanationURL"],
}
READERS: dict[str, Callable[[Reply], Any]] = {
    "directory": objects.read_directory,
    "order": lambda reply: objects.read_order(reply, URL, None),
    "authorization": lambda reply: objects.read_authorization(reply, None),
    "renewal": lambda reply: objects.read_renewal_info(reply, None),
}
GOOD: dict[str, dict[str, Any]] = {
    "directory": {
        "newNonce": "/n",
        "newAccount": "/a",
        "newOrder": "/o",
        "renewalInfo": "/r/",
        "meta": {
            "termsOfService": "https://ca.example/terms",
            "caaIdentities": ["ca.example"],
            "externalAccountRequired": True,
            "profiles": {"classic": "The usual", "shortlived": "https://ca.example/short"},
        },
    },
    "order": {"status": "valid", "authorizations": ["/z/1"], "finalize": "/f", "certificate": "/c"},
    "authorization": {
        "status": "pending",
        "identifier": {"type": "dns", "value": "X.com"},
        "challenges": [{"type": "http-01", "url": "/c", "token": "abc", "status": "pending"}],
    },
    "renewal": {"suggestedWindow": {"start": "2030-01-02T00:00:00Z", "end": "2030-01-03T00:00:00Z"}},
}


def one_field_changed(kind):
    changed = st.dictionaries(st.sampled_from(FIELDS[kind]), anything, min_size=1, max_size=2)
    return changed.map(lambda fields: GOOD[kind] | fields)


class AnyDocumentTests(SynchronousTestCase):
    """Whatever is in a document, it is read, or it is `Unreachable`; and no URL in it leaves https."""

    def check(self, kind, document):
        try:
            found = READERS[kind](answer(document))
        except Unreachable:
            return
        urls = {
            "directory": lambda: (found.new_nonce, found.new_account, found.new_order),
            "order": lambda: (found.finalize, *found.authorizations),
            "authorization": lambda: [offer.url for offer in found.challenges],
            "renewal": lambda: (),
        }[kind]()
        for url in urls:
            self.assertTrue(url.startswith("https://"), url)

    @OFTEN
    @given(
        st.sampled_from(list(FIELDS)).flatmap(lambda kind: st.tuples(st.just(kind), one_field_changed(kind)))
    )
    def test_good_ones_with_a_flaw(self, case):
        self.check(*case)

    @PROPERTY
    @given(st.sampled_from(list(FIELDS)), anything)
    def test_anything_at_all(self, kind, document):
        self.check(kind, document)

    @PROPERTY
    @given(st.sampled_from(list(FIELDS)), st.binary(max_size=40))
    def test_any_bytes(self, kind, body):
        self.check(kind, body)


class DirectoryTests(SynchronousTestCase):
    def test_all_of_it(self):
        found = objects.read_directory(answer(GOOD["directory"]))
        self.assertEqual(
            found,
            objects.Directory(
                URL,
                "https://ca.example/n",
                "https://ca.example/a",
                "https://ca.example/o",
                "https://ca.example/r",
                "https://ca.example/terms",
                ("ca.example",),
                True,
                {"classic": "The usual", "shortlived": "https://ca.example/short"},
            ),
        )

    def test_what_it_need_not_say(self):
        flaws: list[dict[str, Any]] = [
            {},
            {"meta": None},
            {"meta": []},
            {"meta": {"profiles": 5, "caaIdentities": "x"}},
        ]
        for meta in flaws:
            document = {"newNonce": "/n", "newAccount": "/a", "newOrder": "/o", **meta}
            found = objects.read_directory(answer(document))
            self.assertEqual((found.renewal_info, found.terms, found.caa_identities), ("", "", ()))
            self.assertEqual((found.eab_required, found.profiles), (False, {}))


class AuthorizationTests(SynchronousTestCase):
    def test_a_name_is_in_lower_case(self):
        self.assertEqual(READERS["authorization"](answer(GOOD["authorization"])).name, "x.com")

    def test_challenges_that_cannot_be_answered_are_left_out(self):
        good = {"type": "http-01", "url": "/c", "token": "abc", "status": "pending"}
        for broken in (5, {}, good | {"token": "../../etc"}, good | {"url": None}, good | {"type": 1}):
            document = GOOD["authorization"] | {"challenges": [broken, good]}
            [offer] = READERS["authorization"](answer(document)).challenges
            self.assertEqual((offer.kind, offer.token, offer.url), ("http-01", "abc", "https://ca.example/c"))

    def test_why_a_challenge_failed(self):
        failed = {
            "type": "http-01",
            "url": "/c",
            "token": "abc",
            "status": "invalid",
            "error": {"type": "urn:ietf:params:acme:error:connection", "detail": "Refused", "status": 400},
        }
        document = GOOD["authorization"] | {"status": "invalid", "challenges": [failed]}
        [offer] = READERS["authorization"](answer(document)).challenges
        self.assertEqual((str(offer.problem), offer.problem.status_code), ("connection: Refused", 400))


class RenewalInfoTests(SynchronousTestCase):
    def read(self, start, end, **more):
        return READERS["renewal"](answer({"suggestedWindow": {"start": start, "end": end}, **more}))

    def test_timestamps_of_all_kinds(self):
        expected = datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
        for text in ("2030-01-02T03:04:05Z", "2030-01-02T04:04:05+01:00", "2030-01-02t03:04:05z"):
            self.assertEqual(self.read(text, "2040-01-01T00:00:00Z").start, expected, text)
        self.assertEqual(self.read("2030-01-02T03:04:05.123456789Z", "2040-01-01T00:00:00Z").start.second, 5)

    def test_windows_that_are_none(self):
        for start, end in (
            ("2030-01-02T00:00:00Z", "2030-01-02T00:00:00Z"),
            ("2030-01-02T00:00:00Z", "2030-01-01T00:00:00Z"),
            ("2030-01-02T00:00:00", "2030-01-03T00:00:00"),
            ("2030-01-02T00:00:00Z", None),
            (1, 2),
            ("0001-01-01T00:00:00+23:00", "2030-01-01T00:00:00Z"),
        ):
            self.assertRaises(Unreachable, self.read, start, end)

    def test_where_the_reason_is_told(self):
        window = ("2030-01-02T00:00:00Z", "2030-01-03T00:00:00Z")
        self.assertEqual(
            self.read(*window, explanationURL="https://x.com/y").explanation_url, "https://x.com/y"
        )
        for url in ("javascript:alert(1)", 5, None):
            self.assertEqual(self.read(*window, explanationURL=url).explanation_url, "")


class ChainTests(SynchronousTestCase):
    def test_certificates_and_nothing_else(self):
        leaf = made("x.com")
        text = f"subject=x.com\n{leaf.pem}\r\n\r\n{intermediate().pem}"
        self.assertEqual(objects.read_chain(answer(text.encode(), CHAIN)), leaf.pem + intermediate().pem)

    def test_what_is_none(self):
        leaf = made("x.com")
        for text in (
            "",
            "nothing",
            leaf.bundle,
            leaf.pem[:-40],
            leaf.pem * 11,
            leaf.pem.replace("M", "N", 1),
            "\u00fc" + leaf.pem,
        ):
            error = self.assertRaises(Unreachable, objects.read_chain, answer(text.encode(), CHAIN))
            self.assertNotIn("PRIVATE", str(error))

    def test_another_type(self):
        self.assertRaises(Unreachable, objects.read_chain, answer(made("x.com").pem.encode(), "text/plain"))


class CertificateIdTests(SynchronousTestCase):
    def id_of(self, *extensions, serial=0x87654321):
        key = new_key()
        name = x509.Name([])
        builder = x509.CertificateBuilder(name, name, key.public_key(), serial, now(), now() + DAY)
        for extension in extensions:
            builder = builder.add_extension(extension, False)
        pem = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
        return objects.certificate_id(pem + intermediate().pem)

    def test_the_example_of_the_rfc(self):
        # RFC 9773, 4.1.
        identifier = bytes.fromhex("69885b6b87464041e1b37b847ba0ae2cde01c8d4")
        extension = x509.AuthorityKeyIdentifier(identifier, None, None)
        self.assertEqual(self.id_of(extension), "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE")
        self.assertEqual(self.id_of(extension, serial=0x7F), "aYhba4dGQEHhs3uEe6CuLN4ByNQ.fw")

    def test_no_issuer_no_id(self):
        self.assertEqual(self.id_of(), "")
        issuer = [x509.DirectoryName(x509.Name([]))]
        self.assertEqual(self.id_of(x509.AuthorityKeyIdentifier(None, issuer, 5)), "")
