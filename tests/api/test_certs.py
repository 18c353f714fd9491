"""Certificates go in with their keys, and come out without."""

from __future__ import annotations

import datetime
import json

import pytest
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from onebackend_proxy.api.certs import certificate_json
from onebackend_proxy.records import Certificate

from ..tls.making import DAY, known_key, made
from .support import START, Api

NOW = datetime.datetime.fromtimestamp(START, datetime.UTC)
LIFE = {"begins": NOW - DAY, "ends": NOW + 30 * DAY}
SECRET = "PRIVATE KEY"


class CertTests(TestCase):
    def setUp(self):
        self.api = Api()
        self.successResultOf(self.api.start())
        self.admin = self.do(self.api.login())

    def do(self, coroutine):
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def call(self, method, body=None, token=None):
        token = self.admin if token is None else token
        return self.do(self.api.call(method, "/proxy-svc/certs", body, token=token))

    def save(self, *certs):
        return self.call("PUT", {"certs": list(certs)})

    def listed(self, *ids):
        reply = self.call("POST", {"ids": list(ids)} if ids else None)
        self.assertEqual(reply.status, 200)
        self.assertNotIn(SECRET, reply.body.decode())
        return reply.json["certs"]

    def test_save_list_delete(self):
        first = made("a.com", "*.a.com", common_name="a.com", **LIFE)
        second = made("b.com", "::1", **LIFE)
        reply = self.save(
            {"id": "A.com", "cert": first.bundle}, {"id": "", "cert": second.chain + second.key_pem}
        )
        self.assertEqual(reply.status, 200)
        self.assertNotIn(SECRET, reply.body.decode())
        shown = self.listed()
        self.assertEqual(reply.json["certs"], shown)
        self.assertEqual(
            shown[0],
            {
                "id": "a.com",
                "cert": first.chain,
                "commonName": "a.com",
                "dnsNames": ["a.com", "*.a.com"],
                "issuer": "Test Intermediate",
                "serialNumber": str(first.certificate.serial_number),
                "notBefore": "2027-01-14T08:00:00.000Z",
                "notAfter": "2027-02-14T08:00:00.000Z",
                "createdAt": "2027-01-15T08:00:00.000Z",
                "updatedAt": "2027-01-15T08:00:00.000Z",
                "publicKeyAlgorithm": "ECDSA",
                "publicKeyBitLength": 256,
                "isCA": False,
                "signatureAlgorithm": "ECDSA-SHA256",
            },
        )
        self.assertEqual(shown[1]["dnsNames"], ["b.com", "::1"])
        self.assertEqual([cert["id"] for cert in self.listed("B.com", "nope.com")], ["b.com"])
        kept: Certificate = self.successResultOf(self.api.store.certificate("a.com"))
        self.assertIn(SECRET, kept.private_key)

        reply = self.call("DELETE", {"ids": ["a.com", "nope.com"]})
        self.assertEqual(reply.status, 404)
        self.assertEqual(len(self.listed()), 2)
        self.assertEqual(self.call("DELETE", {"ids": ["a.com", "b.com"]}).json, {})
        self.assertEqual(self.listed(), [])

    def test_a_renewal_keeps_when_it_was_created(self):
        self.save({"cert": made("a.com", **LIFE).bundle})
        self.api.clock.advance(60)
        later = made("a.com", **LIFE)
        reply = self.save({"id": "a.com", "cert": later.bundle})
        [cert] = self.listed()
        self.assertEqual(reply.json["certs"], [cert])
        self.assertEqual(cert["serialNumber"], str(later.certificate.serial_number))
        self.assertEqual(cert["createdAt"], "2027-01-15T08:00:00.000Z")
        self.assertEqual(cert["updatedAt"], "2027-01-15T08:01:00.000Z")

    def test_an_id_that_is_another_of_its_names(self):
        self.save({"id": "*.A.com", "cert": made("a.com", "*.a.com", **LIFE).bundle})
        self.assertEqual([cert["id"] for cert in self.listed("*.a.com")], ["*.a.com"])

    def test_one_bad_one_and_none_is_saved(self):
        good = made("a.com", **LIFE)
        other = made("b.com", **LIFE)
        old = made("b.com", begins=NOW - 9 * DAY, ends=NOW - DAY)
        for bad, wanted in (
            ({"cert": "nonsense"}, "certs[1].cert: is not PEM"),
            ({"cert": good.key_pem + other.pem}, "certs[1].cert: has a private key that does not match"),
            ({"cert": old.bundle}, "certs[1].cert: has a certificate that expired on 2027-01-14"),
            ({"id": "c.com", "cert": other.bundle}, "certs[1].cert: is not for c.com, but for b.com"),
            ({"id": "a b", "cert": other.bundle}, "certs[1].id: 'a b' is not a host name"),
            ({"id": "b.com"}, "certs[1].cert: is missing"),
            ({"cert": other.bundle, "key": other.key_pem}, "certs[1]: unknown field 'key'"),
            ({"id": "a.com", "cert": good.bundle}, "certs[1].id: a.com is the id of certs[0] too"),
        ):
            reply = self.save({"cert": good.bundle}, bad)
            self.assertEqual(reply.status, 400)
            self.assertTrue(reply.error.startswith(wanted), reply.error)
            self.assertNotIn(SECRET, reply.error)
        self.assertEqual(self.listed(), [])

    def test_lists_that_are_none(self):
        for body, wanted in (
            ({}, "certs: is missing"),
            ({"certs": []}, "certs: is empty"),
            ({"certs": [{"cert": ""}] * 101}, "certs: has more than 100 items"),
        ):
            self.assertEqual(self.call("PUT", body).error, wanted)
        self.assertEqual(self.call("DELETE", {"ids": []}).error, "ids: is empty")
        self.assertEqual(self.call("DELETE", {"ids": [""]}).error, "ids[0]: the host is empty")

    def test_only_an_admin_may(self):
        user = self.do(self.api.register("shop-svc"))
        for method, permission in (("PUT", "edit"), ("POST", "view"), ("DELETE", "edit")):
            reply = self.call(method, {}, user)
            wanted = f"the permission proxy-svc:cert:{permission} is needed"
            self.assertEqual((reply.status, reply.error), (403, wanted))
            self.assertEqual(self.call(method, {}, "").status, 401)


@pytest.mark.parametrize(
    "kind, shown",
    [
        (
            "RSA-2048",
            {"publicKeyAlgorithm": "RSA", "publicKeyBitLength": 2048, "signatureAlgorithm": "SHA256-RSA"},
        ),
        (
            "P-384",
            {"publicKeyAlgorithm": "ECDSA", "publicKeyBitLength": 384, "signatureAlgorithm": "ECDSA-SHA256"},
        ),
        (
            "Ed25519",
            {"publicKeyAlgorithm": "Ed25519", "publicKeyBitLength": 256, "signatureAlgorithm": "Ed25519"},
        ),
    ],
)
def test_kinds_of_keys(kind, shown):
    leaf = made("a.com", key=known_key(kind), self_signed=True, **LIFE)
    record = Certificate(
        "a.com", ("a.com",), leaf.pem, leaf.key_pem, "a.com", "a.com", "0A", NOW, NOW, NOW, NOW
    )
    told = certificate_json(record)
    assert {name: told[name] for name in shown} == shown
    assert told["serialNumber"] == "10"
    assert SECRET not in json.dumps(told)
