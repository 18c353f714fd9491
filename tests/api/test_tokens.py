from __future__ import annotations

import datetime
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from onebackend_proxy.api.tokens import KEY_NAME, TokenIssuer, new_signing_key, open_issuer
from onebackend_proxy.errors import SettingError, Unauthenticated
from onebackend_proxy.testing import MemoryStore

from ..store.contract import an_account
from .support import SIGNING_KEY, START, new_clock

PRIVATE: Any = load_pem_private_key(SIGNING_KEY, None)
NO_KEY: Any = None
ACCOUNT = an_account("1backend", roles=("user-svc:user", "user-svc:admin"))


class TokenIssuerTests(TestCase):
    def setUp(self):
        self.clock = new_clock()
        self.issuer = TokenIssuer(SIGNING_KEY, self.clock.seconds, 600)

    def issue(self):
        return self.issuer.issue(ACCOUNT, "app-1", "cli")

    def refuse(self, text, wanted="the token is not valid", **options):
        error = self.assertRaises(Unauthenticated, self.issuer.verify, text, **options)
        self.assertEqual(error.message, wanted)

    def signed(self, **changes):
        _token, text = self.issue()
        claims = jwt.decode(text, options={"verify_signature": False}) | changes
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, PRIVATE, algorithm="RS256")

    def test_claims_are_1backends(self):
        token, text = self.issue()
        public = self.issuer.public_key_pem
        self.assertTrue(public.startswith("-----BEGIN PUBLIC KEY-----"))
        found = jwt.decode(
            text, public, algorithms=["RS256"], options={"verify_exp": False, "verify_iat": False}
        )
        wanted = {
            "1ui": ACCOUNT.id,
            "1ai": "app-1",
            "1sl": "1backend",
            "1ro": ["user-svc:user", "user-svc:admin"],
            "1de": "cli",
            "jti": token.id,
            "iat": START,
            "exp": START + 600,
        }
        self.assertEqual(found, wanted)
        self.assertRegex(token.id, "^tok-[A-Za-z0-9]{22}$")
        self.assertEqual(token.expires_at - token.created_at, datetime.timedelta(minutes=10))

    def test_verify(self):
        token, text = self.issue()
        claims = self.issuer.verify(text)
        self.assertEqual((claims.slug, claims.token_id, claims.is_admin), ("1backend", token.id, True))
        self.assertEqual(claims.expires_at, token.expires_at)

    def test_expiry_is_told_apart(self):
        _token, text = self.issue()
        self.clock.advance(599)
        self.issuer.verify(text)
        self.clock.advance(1)
        self.refuse(text, "the token has expired")
        self.assertEqual(self.issuer.verify(text, allow_expired=True).slug, "1backend")

    def test_no_other_signature_will_do(self):
        _token, text = self.issue()
        claims = jwt.decode(text, options={"verify_signature": False})
        other: Any = load_pem_private_key(new_signing_key(), None)
        for forged in (
            jwt.encode(claims, other, algorithm="RS256"),
            jwt.encode(claims, NO_KEY, algorithm="none"),
            jwt.encode(claims, "x" * 32, algorithm="HS256"),
            jwt.encode(claims, PRIVATE, algorithm="RS512"),
            text[:-4] + "AAAA",
        ):
            self.refuse(forged)
            self.refuse(forged, allow_expired=True)

    def test_claims_of_another_shape(self):
        for name in ("1ui", "1ai", "1sl", "1ro", "1de", "jti", "iat", "exp"):
            self.refuse(self.signed(**{name: None}))
        for moment in (10**30, 10**12, 67768036191676800, -(10**15)):
            self.refuse(self.signed(exp=moment))
        self.refuse(self.signed(**{"1ro": 5}))

    def test_any_text_is_refused_properly(self):
        @given(st.text())
        def check(text):
            self.refuse(text)

        check()

    def test_any_claims_of_ours_never_raise_anything_else(self):
        @given(
            st.dictionaries(st.sampled_from(["1ro", "1ui", "exp", "iat", "jti"]), st.integers() | st.text())
        )
        def check(changes):
            try:
                self.issuer.verify(self.signed(**changes))
            except Unauthenticated:
                pass

        check()

    def test_repr_tells_no_key(self):
        self.assertEqual(repr(self.issuer), "<TokenIssuer: 0:10:00>")

    def test_another_kind_of_key(self):
        key = generate_private_key(SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        self.assertRaises(SettingError, TokenIssuer, key, self.clock.seconds)


class OpenIssuerTests(TestCase):
    def test_the_key_is_made_once(self):
        async def check():
            store, clock = MemoryStore(), new_clock()
            first = await open_issuer(store, clock.seconds)
            second = await open_issuer(store, clock.seconds)
            self.assertEqual(first.public_key_pem, second.public_key_pem)
            self.assertIn(b"PRIVATE KEY", await store.secret(KEY_NAME))
            _token, text = first.issue(ACCOUNT, "app-1", "cli")
            self.assertEqual(second.verify(text).slug, "1backend")

        return Deferred.fromCoroutine(check())
