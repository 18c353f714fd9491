from __future__ import annotations

import base64
import json

from acme import challenges, jws
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from josepy.jwa import ES256
from josepy.jwk import JWKEC
from twisted.trial.unittest import SynchronousTestCase

from onebackend_proxy.tls.acme.signing import (
    Eab,
    Signer,
    base64url,
    is_token,
    key_authorization,
    key_from_pem,
    new_key,
)
from onebackend_proxy.tls.pem import key_pem as kept_pem
from tests.properties import PROPERTY
from tests.tls.making import key_pem
from tests.tls.making import new_key as any_key

KEY = new_key()
URL = "https://ca.example/new-order"


def unpacked(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class SignerTests(SynchronousTestCase):
    def test_what_another_reads(self):
        # The nonce is one that acme.jws can decode.
        body = Signer(KEY).sign({"a": "ü"}, URL, "YWJj", "https://ca.example/account/1")
        read = jws.JWS.json_loads(body.decode())
        self.assertTrue(read.verify(JWKEC(key=KEY.public_key())))
        self.assertEqual(json.loads(read.payload), {"a": "ü"})
        header = read.signature.combined
        self.assertEqual((header.alg, header.url, header.nonce), (ES256, URL, b"abc"))
        self.assertEqual(header.kid, "https://ca.example/account/1")
        self.assertIsNone(header.jwk)

    def test_by_the_key_where_there_is_no_account(self):
        body = json.loads(Signer(KEY).sign({}, URL, "n"))
        header = json.loads(unpacked(body["protected"]))
        self.assertNotIn("kid", header)
        self.assertEqual(set(header["jwk"]), {"kty", "crv", "x", "y"})
        self.assertEqual(set(body), {"protected", "payload", "signature"})

    def test_post_as_get_has_no_payload(self):
        self.assertEqual(json.loads(Signer(KEY).sign(None, URL, "n", "a"))["payload"], "")

    def test_a_binding(self):
        eab = Eab("kid-1", base64url(b"a secret of 32 bytes or of so many"))
        binding = Signer(KEY).bind(eab, URL)
        self.assertEqual(
            json.loads(unpacked(binding["protected"])), {"alg": "HS256", "kid": "kid-1", "url": URL}
        )
        self.assertEqual(json.loads(unpacked(binding["payload"])), Signer(KEY).jwk)
        check = hmac.HMAC(b"a secret of 32 bytes or of so many", hashes.SHA256())
        check.update(f"{binding['protected']}.{binding['payload']}".encode())
        check.verify(unpacked(binding["signature"]))

    def test_no_secret_is_shown(self):
        self.assertNotIn("secret", repr(Eab("kid", "secret")))
        self.assertNotIn(str(KEY.private_numbers().private_value), repr(Signer(KEY)) + str(Signer(KEY).jwk))

    def test_key_authorizations(self):
        challenge = challenges.HTTP01(token=b"sixteen bytes at" * 2)
        expected = challenge.response(JWKEC(key=KEY)).key_authorization
        self.assertEqual(key_authorization(challenge.encode("token"), KEY), expected)


class KeyTests(SynchronousTestCase):
    def test_kept_and_read(self):
        again = key_from_pem(kept_pem(KEY).encode("ascii"))
        self.assertEqual(again.private_numbers(), KEY.private_numbers())
        self.assertIsInstance(KEY.curve, ec.SECP256R1)

    def test_what_is_no_account_key(self):
        for pem in (
            b"",
            b"nonsense",
            key_pem(any_key("P-384")).encode(),
            key_pem(any_key("Ed25519")).encode(),
        ):
            self.assertRaises(ValueError, key_from_pem, pem)


class TokenTests(SynchronousTestCase):
    @PROPERTY
    @given(st.binary(min_size=1, max_size=64))
    def test_all_that_is_base64url(self, data):
        self.assertTrue(is_token(base64url(data)))

    @PROPERTY
    @given(st.text(max_size=10) | st.sampled_from(["", "a" * 513, "../x", "a\n", "a=", "ä", None, 5]))
    def test_nothing_else(self, text):
        ours = isinstance(text, str) and 0 < len(text) <= 512 and text.isascii()
        ours = ours and all(letter.isalnum() or letter in "-_" for letter in text)
        self.assertEqual(is_token(text), ours)
