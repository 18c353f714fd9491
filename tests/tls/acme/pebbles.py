"""What tests of the client against a real pebble have in common."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
from collections.abc import Coroutine, Sequence
from typing import Any, ClassVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet import reactor as any_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from onebackend_proxy.tls.acme.client import AcmeClient, Order, trust_roots
from onebackend_proxy.tls.acme.problems import Problem
from onebackend_proxy.tls.acme.signing import new_key
from tests.pebble import Pebble, start_pebble

reactor: Any = any_reactor


def request_for(*names: str) -> bytes:
    """A certificate signing request for these names, in DER, with a key that nobody keeps."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    alternative = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    key = ec.generate_private_key(ec.SECP256R1())
    return builder.add_extension(alternative, False).sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


class PebbleCase(TestCase):
    """One pebble for the tests of a class, started with its `options`; it believes every challenge."""

    timeout = 60
    options: ClassVar[dict[str, Any]] = {}
    pebble: Pebble

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        stack = contextlib.ExitStack()
        cls.addClassCleanup(stack.close)
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        options = {"always_valid": True, **cls.options}
        cls.pebble = stack.enter_context(start_pebble(folder, **options))

    def client(self, **more: Any) -> AcmeClient:
        """A client with a new key; it is closed after the test."""
        more.setdefault("key", new_key())
        made = AcmeClient(reactor, self.pebble.directory, trust=trust_roots(self.pebble.ca_file), **more)
        self.addCleanup(made.close)
        return made

    async def refused(self, call: Coroutine[Any, Any, Any] | Deferred[Any], kind: type = Problem) -> Any:
        """The error of this kind that the call ends in."""
        if not isinstance(call, Deferred):
            call = Deferred.fromCoroutine(call)
        return await self.assertFailure(call, kind)

    async def registered(self, **more: Any) -> AcmeClient:
        """A client with a new account."""
        client = self.client(**more)
        client.account = await client.register(())
        return client

    async def until(self, client: AcmeClient, order: Order, *statuses: str) -> Order:
        """The order, once its status is one of these."""
        while order.status not in statuses:
            self.assertNotEqual(order.status, "invalid", order.problem)
            await deferLater(reactor, 0.02)
            order = await client.read_order(order.url)
        return order

    async def ready(self, client: AcmeClient, names: Sequence[str], **more: Any) -> Order:
        """An order whose names are all proved."""
        order = await client.order(names, **more)
        for url in order.authorizations:
            authorization = await client.authorization(url)
            if authorization.status != "valid":
                await client.answer(authorization.challenges[0].url)
        return await self.until(client, order, "ready")

    async def issued(self, client: AcmeClient, *names: str, **more: Any) -> str:
        """The chain of a new certificate for these names."""
        order = await client.finalize(await self.ready(client, names, **more), request_for(*names))
        order = await self.until(client, order, "valid")
        return await client.certificate(order.certificate)
