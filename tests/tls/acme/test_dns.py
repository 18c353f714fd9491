"""Proof by DNS: the setting, providers of others, records that always go, and an authority that believes."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import endpoints, reactor
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from onebackend_proxy.errors import Unavailable
from onebackend_proxy.tls.acme.client import AcmeClient, key_authorization, trust_roots
from onebackend_proxy.tls.acme.dns import (
    PROVIDER_SECONDS,
    Dns01Responder,
    IDnsProvider,
    challenge_name,
    challenge_value,
    dns01_responder,
    dns_provider,
    split_words,
)
from onebackend_proxy.tls.acme.problems import AcmeError
from onebackend_proxy.tls.acme.rfc2136 import Rfc2136

from ...nameserver import PAGE, code_blocks, start_nameserver
from ...pebble import start_pebble
from ...properties import PROPERTY
from .threads import Threadless

# -- the setting


@pytest.mark.parametrize(
    ("text", "words", "named"),
    [
        ("a", ["a"], {}),
        (r"a:b\:c:d=e=f\:g:h=", ["a", "b:c"], {"d": "e=f:g", "h": ""}),
        (r"a:\\:b\=c", ["a", "\\", "b=c"], {}),
        ("a:d=e:b", ["a", "b"], {"d": "e"}),
    ],
)
def test_words(text, words, named):
    assert split_words(text) == (words, named)


@pytest.mark.parametrize("text", ["", ":", ":a", "=", "a=b", "a=b:c", "c=b:c", "a:b\\", "a:b=c:b=d"])
def test_texts_that_are_no_words(text):
    with pytest.raises(ValueError, match=r"begin with the name|backslash|gives 'b' twice"):
        split_words(text)


@given(st.text(alphabet="ab:=\\", max_size=20))
@PROPERTY
def test_words_are_spelled_as_in_endpoints(text):
    """As Twisted itself reads them, wherever we read them at all."""
    try:
        words, named = split_words(text)
    except ValueError:
        return
    assert endpoints._parse(text) == (words, named)


@given(st.lists(st.text(max_size=8), max_size=4), st.dictionaries(st.text(max_size=8), st.text(max_size=8)))
@PROPERTY
def test_every_word_can_be_spelled(words, named):
    parts = [quoted(each) for each in words]
    parts += [f"{quoted(name)}={quoted(word)}" for name, word in named.items()]
    assert split_words(":".join(["x", *parts])) == (["x", *words], named)


def quoted(word: str) -> str:
    return endpoints.quoteStringArgument(word).replace("=", r"\=")


def installed(folder: pathlib.Path, monkeypatch: Any, module: str, *entry_points: str) -> None:
    """Have a package in `folder` installed that has these entry points."""
    (folder / "my_dns.py").write_text(module)
    about = folder / "my_dns-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-dns\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("\n".join(["[onebackend_proxy.dns_providers]", *entry_points]))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "my_dns", raising=False)


def test_the_provider_of_the_page(tmp_path, monkeypatch):
    [module] = code_blocks("python")
    [setup] = code_blocks("ini")
    installed(tmp_path, monkeypatch, module, re.findall("command = .*", setup)[0])
    assert [each for each in code_blocks("python") if len(each.splitlines()) < 25]
    command = tmp_path / "dns-record"
    command.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\ntest "$2" != bad.x.com\n')
    command.chmod(0o700)

    class Calls(TestCase):
        async def test(self):
            sut = dns_provider(f"command:{command}", reactor)
            await sut.present("_acme-challenge.x.com", "v")
            await sut.remove("_acme-challenge.x.com", "v")
            with pytest.raises(Exception, match="ended with status 1"):
                await sut.present("bad.x.com", "v")

    run(Calls("test"))
    assert (tmp_path / "called").read_text().splitlines() == [
        "present _acme-challenge.x.com v",
        "remove _acme-challenge.x.com v",
        "present bad.x.com v",
    ]


def run(test: TestCase) -> None:
    """Run a test with the reactor, within another."""
    result = unittest.TestResult()
    test.run(result)
    assert result.wasSuccessful(), (result.errors, result.failures)


OTHERS = """\
from zope.interface import implementer
from onebackend_proxy.tls.acme.dns import IDnsProvider

@implementer(IDnsProvider)
class Own:
    def __init__(self, reactor, server, zone="", *, token, region="eu"):
        if token == "wrong":
            raise ValueError("the token has 5 characters, not 40")

def nothing(reactor):
    return object()
"""


def test_providers_of_others(tmp_path, monkeypatch):
    entries = (
        "own = my_dns:Own",
        "nothing = my_dns:nothing",
        "gone = not_there:Own",
        "none = my_dns:Missing",
    )
    installed(tmp_path, monkeypatch, OTHERS, *entries)
    assert type(dns_provider("own:a:token=s", None)).__name__ == "Own"
    usage = "it is own:SERVER[:ZONE]:token=TOKEN[:region=REGION]"
    for text, said in {
        "own:a:token=wrong": "own: the token has 5 characters, not 40",
        "own:a": f"own: missing a required argument: 'token'; {usage}",
        "own:a:b:c:token=s3cret": f"own: too many positional arguments; {usage}",
        "own:a:token=s3cret:zon=b": f"own: got an unexpected keyword argument 'zon'; {usage}",
        "own:a:reactor=b:token=s3cret": f"own: multiple values for argument 'reactor'; {usage}",
        "nothing": "nothing: what it makes does not provide IDnsProvider",
        "gone": "the DNS provider gone cannot be loaded: No module named 'not_there'",
        "none": "the DNS provider none cannot be loaded: module 'my_dns' has no attribute 'Missing'",
        "other": "there is no DNS provider 'other', there is gone, none, nothing, own, rfc2136",
    }.items():
        with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
            dns_provider(text, None)


def test_who_has_no_provider_loads_no_dnspython():
    code = "import sys, onebackend_proxy.tls.acme.dns; print([each for each in sys.modules if each == 'dns'])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_the_page_says_how_long():
    assert f"an end after {PROVIDER_SECONDS:.0f} seconds" in " ".join(PAGE.read_text().split())


# -- names and values


def test_names_and_values():
    assert challenge_name("x.com") == challenge_name("*.x.com") == "_acme-challenge.x.com"
    assert challenge_name("*.a.x.com") == "_acme-challenge.a.x.com"
    # RFC 8555, 8.4, has an example of the form: base64url, and no padding.
    assert challenge_value("") == "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"


# -- records that always go


@implementer(IDnsProvider)
class Scripted:
    """Does what it is told when a test says so; `calls` are the words and Deferreds that are open."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []
        self.open: list[Deferred[None]] = []

    def _call(self, *words: str) -> Deferred[None]:
        self.calls.append(words)  # type: ignore[arg-type]
        self.open.append(Deferred())
        return self.open[-1]

    def present(self, name: str, value: str) -> Deferred[None]:
        return self._call("present", name, value)

    def remove(self, name: str, value: str) -> Deferred[None]:
        return self._call("remove", name, value)

    def done(self, result: Any = None) -> None:
        self.open.pop(0).callback(result)


class Names:
    """Stands in the place of `Nameservers`."""

    def __init__(self) -> None:
        self.waiting: list[Deferred[bool]] = []

    def canonical(self, name: str) -> Deferred[str]:
        return succeed(name.replace("aliased", "elsewhere"))

    def published(self, name: str, value: str) -> Deferred[bool]:
        self.waiting.append(Deferred())
        return self.waiting[-1]


VALUE = challenge_value("token.key")
PRESENT, REMOVE = ((word, "_acme-challenge.x.com", VALUE) for word in ("present", "remove"))


class ResponderTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Threadless()
        self.provider = Scripted()
        self.names = Names()
        self.sut = Dns01Responder(self.provider, self.names, self.clock)  # type: ignore[arg-type]
        self.noted: list[str] = []
        observer = cast(ILogObserver, self._note)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def _note(self, event: Any) -> None:
        if event.get("log_level") and event["log_level"].name == "warn":
            self.noted.append(event["log_format"].format(**event))

    def present(self, host: str = "x.com") -> Deferred[None]:
        return Deferred.fromCoroutine(self.sut.present(host, "token.key"))

    def remove(self, host: str = "x.com") -> Deferred[None]:
        return Deferred.fromCoroutine(self.sut.remove(host, "token.key"))

    def presented(self, host: str = "x.com") -> None:
        done = self.present(host)
        self.provider.done()
        self.assertNoResult(done)
        self.names.waiting.pop().callback(True)
        self.successResultOf(done)

    def assert_all_gone(self) -> None:
        assert repr(self.sut).endswith(": 0>")
        assert self.clock.getDelayedCalls() == []

    def test_a_record_comes_and_goes(self) -> None:
        self.presented()
        done = self.remove()
        self.assertNoResult(done)
        self.provider.done()
        self.successResultOf(done)
        assert self.provider.calls == [PRESENT, REMOVE]
        self.successResultOf(self.remove())
        assert len(self.provider.calls) == 2
        self.assert_all_gone()

    def test_it_is_written_where_an_alias_leads(self) -> None:
        self.presented("*.aliased.com")
        self.remove("*.aliased.com")
        assert [name for _, name, _ in self.provider.calls] == ["_acme-challenge.elsewhere.com"] * 2

    def test_a_wildcard_and_its_base(self) -> None:
        self.presented()
        self.presented("*.x.com")
        self.remove("*.x.com")
        self.provider.done()
        assert repr(self.sut).endswith(": 1>")
        self.remove()
        self.provider.done()
        self.assert_all_gone()

    def test_not_to_be_seen_everywhere_is_no_failure(self) -> None:
        done = self.present()
        self.provider.done()
        self.names.waiting.pop().callback(False)
        self.successResultOf(done)

    def test_a_provider_that_fails_has_it_removed(self) -> None:
        done = self.present()
        self.provider.done(failure_of("the server is down"))
        assert self.failureResultOf(done, AcmeError).value.message == "the server is down"
        assert self.provider.calls == [PRESENT, REMOVE]
        # Who gave it up removes it once more: that waits for the same.
        again = self.remove()
        self.assertNoResult(again)
        self.provider.done()
        self.successResultOf(again)
        assert self.provider.calls == [PRESENT, REMOVE]
        self.assert_all_gone()

    def test_cancelled_while_it_is_written(self) -> None:
        """It is removed after it was written: the other way about it would stay."""
        done = self.present()
        done.cancel()
        self.failureResultOf(done, CancelledError)
        assert self.provider.calls == [PRESENT]
        self.provider.done()
        assert self.provider.calls == [PRESENT, REMOVE]
        self.provider.done()
        self.assert_all_gone()

    def test_cancelled_while_it_is_looked_for(self) -> None:
        done = self.present()
        self.provider.done()
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.provider.done()
        assert self.provider.calls == [PRESENT, REMOVE]
        self.assert_all_gone()

    def test_a_removal_that_is_cancelled_goes_on(self) -> None:
        self.presented()
        done = self.remove()
        done.cancel()
        self.failureResultOf(done, CancelledError)
        closed = self.sut.close()
        self.assertNoResult(closed)
        self.provider.done()
        self.successResultOf(closed)
        assert self.provider.calls == [PRESENT, REMOVE]
        self.assert_all_gone()

    def test_what_cannot_be_removed_is_told_and_forgotten(self) -> None:
        self.presented()
        done = self.remove()
        self.provider.done(failure_of("REFUSED"))
        self.successResultOf(done)
        assert self.noted == [f"the TXT record {VALUE} stays at _acme-challenge.x.com: REFUSED"]
        self.assert_all_gone()

    def test_what_is_being_removed_can_be_presented_again(self) -> None:
        self.presented()
        self.remove()
        done = self.present()
        assert self.provider.calls == [PRESENT, REMOVE]
        self.provider.done()
        assert self.provider.calls == [PRESENT, REMOVE, PRESENT]
        self.provider.done()
        self.names.waiting.pop().callback(True)
        self.successResultOf(done)

    def test_close_removes_all(self) -> None:
        self.presented()
        self.presented("y.com")
        done = self.sut.close()
        self.provider.done()
        self.assertNoResult(done)
        self.provider.done()
        self.successResultOf(done)
        self.successResultOf(self.sut.close())
        self.assert_all_gone()

    def test_a_provider_that_hangs(self) -> None:
        done = self.present()
        self.clock.advance(PROVIDER_SECONDS)
        assert "took longer than 90 s" in self.failureResultOf(done, AcmeError).value.message
        self.clock.advance(PROVIDER_SECONDS)
        assert self.provider.calls == [PRESENT, REMOVE]
        assert len(self.noted) == 1
        self.assert_all_gone()

    def test_what_else_goes_wrong_in_a_provider(self) -> None:
        for error, said in {
            Unavailable("try later", detail="10.0.0.1"): "try later",
            RuntimeError("https://user:s3cret@dns.example"): "the DNS provider failed: RuntimeError",
        }.items():
            done = self.present()
            self.provider.done(failure_of(error))
            assert self.failureResultOf(done, AcmeError).value.message == said
            self.provider.done()
        assert len(self.flushLoggedErrors(RuntimeError)) == 1
        self.assert_all_gone()

    def test_a_provider_that_raises_at_once(self) -> None:
        self.provider.present = self.provider.remove = None  # type: ignore[method-assign,assignment]
        assert self.failureResultOf(self.present(), AcmeError).value.message.endswith("failed: TypeError")
        assert len(self.flushLoggedErrors(TypeError)) == 2
        self.assert_all_gone()


def failure_of(error: str | Exception) -> Any:
    return Failure(AcmeError(error) if isinstance(error, str) else error)


# -- the real thing


class PebbleTests(TestCase):
    """Pebble asks a real name server, and is given what `Dns01Responder` has written there."""

    timeout = 60
    version = ""

    def setUp(self) -> None:
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def server(self, *zones: str, **records: str) -> Any:
        running = start_nameserver(self.folder / "n", *zones, **records)
        self.addCleanup(running.__exit__, None, None, None)
        return running.__enter__()

    async def client(self, server: Any) -> AcmeClient:
        running = start_pebble(self.folder, version=self.version, dns=server.address)
        pebble = running.__enter__()
        self.addCleanup(running.__exit__, None, None, None)
        key = ec.generate_private_key(ec.SECP256R1())
        client = AcmeClient(reactor, pebble.directory, key, trust=trust_roots(pebble.ca_file))
        self.addCleanup(client.close)
        client.account = await client.register(())
        return client

    async def prove(self, client: AcmeClient, sut: Dns01Responder, *names: str) -> list[str]:
        """Prove them all at once, and have the certificate; the names in it."""
        order = await client.order(names)
        offers = []
        for url in order.authorizations:
            authorization = await client.authorization(url)
            name = f"*.{authorization.name}" if authorization.wildcard else authorization.name
            [offer] = [each for each in authorization.challenges if each.kind == "dns-01"]
            offers.append((url, name, offer, key_authorization(offer.token, client.key)))
        for _, name, _, answer in offers:
            await sut.present(name, answer)
        for url, name, offer, answer in offers:
            await client.answer(offer.url)
            await self.until(lambda url=url: client.authorization(url), "valid")
            await sut.remove(name, answer)
        key = ec.generate_private_key(ec.SECP256R1())
        wanted = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        signed = request.add_extension(wanted, False).sign(key, hashes.SHA256())
        await client.finalize(order, signed.public_bytes(Encoding.DER))
        order = await self.until(lambda: client.read_order(order.url), "valid")
        leaf = x509.load_pem_x509_certificate((await client.certificate(order.certificate)).encode())
        named = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return sorted(named.get_values_for_type(x509.DNSName))

    async def until(self, look: Any, status: str) -> Any:
        while True:
            found = await look()
            if found.status == status:
                return found
            assert found.status in ("pending", "processing", "ready"), found
            await deferLater(reactor, 0.1)

    async def test_a_wildcard_and_its_base_in_one_order(self) -> None:
        server = self.server("x.test")
        sut = dns01_responder(server.setting, reactor, server.resolver)
        client = await self.client(server)
        assert await self.prove(client, sut, "*.x.test", "x.test") == ["*.x.test", "x.test"]
        assert server.texts("_acme-challenge.x.test") == set()
        assert repr(sut) == f"<Dns01Responder by <Rfc2136 at {server.address}>: 0>"

    async def test_an_alias_is_followed(self) -> None:
        # To within the same zone: pebble's resolver does not follow it to another one by itself.
        server = self.server("x.test", x_test="_acme-challenge CNAME x.test.proofs")
        presented: list[str] = []
        sut = dns01_responder(server.setting, reactor, server.resolver)
        self.patch(Rfc2136, "present", recording(Rfc2136.present, presented))
        client = await self.client(server)
        assert await self.prove(client, sut, "*.x.test") == ["*.x.test"]
        assert presented == ["x.test.proofs.x.test"]
        assert server.texts("x.test.proofs.x.test") == set()


def recording(present: Any, names: list[str]) -> Any:
    def recorded(self: Any, name: str, value: str) -> Any:
        names.append(name)
        return present(self, name, value)

    return recorded


class OlderPebbleTests(PebbleTests):
    version = "debian"
