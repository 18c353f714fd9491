"""The certificates of a store and of the local authority, and the endpoint string that shares them."""

from __future__ import annotations

import os
import pathlib
import ssl
import stat
from typing import Any, cast

import attrs
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IStreamServerEndpoint, IStreamServerEndpointStringParser
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver, formatEvent, globalLogPublisher
from twisted.plugin import getPlugins
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from onebackend_proxy import edge_certificates
from onebackend_proxy.edge_certificates import (
    LOCAL_ROOT,
    EdgeCertificates,
    StoredCertificatesEndpoint,
)
from onebackend_proxy.errors import SettingError, StoreUnavailable
from onebackend_proxy.folder import write_atomically
from onebackend_proxy.limits import DEFAULTS
from onebackend_proxy.records import Challenge
from onebackend_proxy.testing import MemoryStore
from onebackend_proxy.tls.challenges import TLS_ALPN_01
from onebackend_proxy.tls.client_hello import ACME_TLS_1, ClientHello
from onebackend_proxy.tls.transport import Chosen, SecuredServer

from .assembly import Reactor
from .tls import making


class Tests(SynchronousTestCase):
    """A store in memory, a folder on the disk, and the log."""

    def setUp(self) -> None:
        self.store = MemoryStore()
        self.folder = pathlib.Path(self.mktemp())
        self.folder.mkdir(mode=0o700)
        self.reactor: Any = Reactor()
        self.reactor.advance(making.now().timestamp())
        self.logged: list[str] = []
        observer = cast(ILogObserver, lambda event: self.logged.append(formatEvent(event)))
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def certificates(self, **more: Any) -> EdgeCertificates:
        made = EdgeCertificates(self.store, self.folder, self.reactor, **more)
        self.successResultOf(self.store.follow(made.publish))
        return made

    def chosen(self, certificates: EdgeCertificates, name: str) -> Chosen:
        found = certificates.contexts.choose(ClientHello(name, ()), "")
        if isinstance(found, Deferred):
            found = self.successResultOf(found)
        assert isinstance(found, Chosen)
        return found


class TestEdgeCertificates(Tests):
    """What the store has, and what nobody has to save."""

    def test_stored_ones_are_shown_as_they_change(self) -> None:
        certificates = self.certificates()
        first, second = making.record("x.com"), making.record("x.com")
        self.store.save_certificates([first])
        assert self.chosen(certificates, "x.com").certificate.serial == first.serial
        self.store.save_certificates([second])
        assert self.chosen(certificates, "x.com").certificate.serial == second.serial

    def test_the_limit_is_a_setting(self) -> None:
        certificates = self.certificates(limits=attrs.evolve(DEFAULTS, tls_contexts=3))
        assert repr(certificates.contexts) == "<Contexts: 0 of at most 3, 0 issued here>"

    def test_the_local_authority_is_made_once_and_kept(self) -> None:
        one, other = self.certificates(), self.certificates()
        first = self.chosen(one, "localhost").certificate
        second = self.chosen(other, "a.localhost").certificate
        assert first.issuer == second.issuer != ""
        root = self.successResultOf(one.local_root())
        assert root == self.successResultOf(other.local_root())
        assert "PRIVATE" not in root and ssl.PEM_cert_to_DER_cert(root)
        assert self.successResultOf(one.authority()) is self.successResultOf(one.authority())

    def test_one_that_another_process_made_meanwhile_is_the_one(self) -> None:
        one, other = self.certificates(), self.certificates()
        waiting: list[Deferred[Any]] = []
        plain = self.store.secret

        def slow(name: str) -> Deferred[Any]:
            waiting.append(Deferred())
            found = plain(name)
            return waiting[-1].addCallback(lambda _: found)

        self.patch(self.store, "secret", slow)
        roots = [one.local_root(), other.local_root()]
        for each in waiting:
            each.callback(None)
        assert self.successResultOf(roots[0]) == self.successResultOf(roots[1])

    def test_the_root_is_a_file_that_all_may_read(self) -> None:
        root = self.successResultOf(self.certificates().local_root())
        path = self.folder / LOCAL_ROOT
        assert path.read_text() == root
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert [each.name for each in self.folder.iterdir()] == [LOCAL_ROOT]

    def test_a_root_that_cannot_be_written_is_served_all_the_same(self) -> None:
        self.folder.rmdir()
        certificates = self.certificates()
        self.successResultOf(certificates.local_root())
        assert any("local authority's root cannot be written" in line for line in self.logged)
        assert self.chosen(certificates, "localhost").certificate.id == "localhost"

    def test_an_authority_that_cannot_be_read_now_is_read_later(self) -> None:
        certificates = self.certificates()
        self.store.failure = StoreUnavailable("locked")
        self.failureResultOf(certificates.local_root(), StoreUnavailable)
        self.store.failure = None
        self.successResultOf(certificates.local_root())

    def test_what_would_be_shown(self) -> None:
        certificates = self.certificates(owned=lambda host: host in ("localhost", "[::1]", "x.com"))
        self.store.save_certificates([making.record("*.x.com")])
        found = certificates.certificate_for("a.x.com")
        assert found is not None and found.id == "*.x.com"
        for host in ("x.com", "b.localhost", "127.0.0.1"):
            assert certificates.certificate_for(host) is None
        for host in ("localhost", "[::1]"):
            found = certificates.certificate_for(host)
            assert found is not None and found.issuer == "local authority" and found.serial == ""
        # To say so nothing was made.
        assert not (self.folder / LOCAL_ROOT).exists()

    def test_challenges_of_any_process_are_answered(self) -> None:
        here, elsewhere = self.certificates(), self.certificates()
        ends = making.now() + making.DAY
        challenge = Challenge(TLS_ALPN_01, "x.com", "token", "token.thumbprint", ends)
        self.successResultOf(elsewhere.challenges.place(challenge))
        for certificates in (here, elsewhere):
            found = certificates.contexts.choose(ClientHello("x.com", (ACME_TLS_1,)), "")
            assert isinstance(found, Deferred)
            assert self.successResultOf(found).protocols == (ACME_TLS_1,)

    def test_files_only_where_they_are_wanted(self) -> None:
        published: list[Any] = []

        class Files:
            stopped = False

            def __init__(self, store: object, folder: pathlib.Path, reactor: object) -> None:
                published.append(folder)

            def publish(self, certificates: Any) -> None:
                published.append([certificate.id for certificate in certificates])

            def stop(self) -> None:
                published.append("stopped")

        self.patch(edge_certificates, "CertificateFiles", Files)
        self.certificates().stop()
        assert published == []
        certificates = self.certificates(to_files=True)
        self.store.save_certificates([making.record("x.com")])
        certificates.stop()
        assert published == [self.folder, [], ["x.com"], "stopped"]


class TestWriteAtomically(Tests):
    """A file is there whole, or as it was."""

    def test_it_replaces(self) -> None:
        path = self.folder / "file"
        for text in ("one", "two"):
            write_atomically(path, text)
            assert path.read_text() == text

    def test_a_failure_leaves_what_was_there(self) -> None:
        path = self.folder / "file"
        path.write_text("before")

        def fails(*arguments: Any) -> None:
            raise OSError("the disk is full")

        self.patch(os, "replace", fails)
        with self.assertRaises(OSError):
            write_atomically(path, "after")
        assert path.read_text() == "before"
        assert [each.name for each in self.folder.iterdir()] == ["file"]


class TestEndpointString(Tests):
    """``onebackend:ENDPOINT[:folder=FOLDER]``."""

    def setUp(self) -> None:
        super().setUp()
        self.opened: list[tuple[pathlib.Path, Any]] = []

        def open_store(path: pathlib.Path, vault: Any, reactor: Any) -> MemoryStore:
            self.opened.append((path, vault))
            return self.store

        self.patch(edge_certificates, "open_sqlite", open_store)
        for name in ("OB_FOLDER", "OB_ENCRYPTION_KEY"):
            self.patch(os, "environ", {key: value for key, value in os.environ.items() if key != name})

    def test_the_plugin_is_found_and_names_it(self) -> None:
        [parser] = [
            each for each in getPlugins(IStreamServerEndpointStringParser) if each.prefix == "onebackend"
        ]
        verifyObject(IStreamServerEndpointStringParser, parser)
        endpoint = parser.parseStreamServer(MemoryReactorClock(), "tcp:443", folder=str(self.folder))
        verifyObject(IStreamServerEndpoint, endpoint)
        assert isinstance(endpoint, StoredCertificatesEndpoint)
        assert endpoint.folder == self.folder.absolute()

    def test_the_folder_is_the_proxys_own_where_none_is_named(self) -> None:
        parse = StoredCertificatesEndpoint.parse
        assert parse(self.reactor, "tcp:443").folder == pathlib.Path.home() / ".1backend"
        os.environ["OB_FOLDER"] = "/data"
        assert parse(self.reactor, "tcp:443").folder == pathlib.Path("/data")
        assert parse(self.reactor, "tcp:443", "~/x").folder == pathlib.Path.home() / "x"

    def test_what_is_no_endpoint(self) -> None:
        for text in ("443", "nosuch:443"):
            with self.assertRaises((ValueError, IndexError)):
                StoredCertificatesEndpoint.parse(self.reactor, text)

    def test_words_that_it_does_not_know_are_told_of(self) -> None:
        reactor = self.reactor
        for text, wrong in (
            ("onebackend:", "no endpoint in it"),
            ("onebackend:folder=/x", "no endpoint in it"),
            ("onebackend:tcp:443:/x", "/x"),
            ("onebackend:tcp\\:443:folders=/x", "folders="),
            ("onebackend:tcp\\:443:interface=127.0.0.1", "interface="),
            ("onebackend:tcp\\:443:/x:folder=/y", "/x"),
        ):
            with self.subTest(text):
                with self.assertRaises(ValueError) as caught:
                    serverFromString(reactor, text)
                assert f"(here: {wrong})" in str(caught.exception)
                assert r"write onebackend:tcp\:443:folder=/PATH" in str(caught.exception)
        for text in ("onebackend:tcp:443", "onebackend:tcp"):
            with self.assertRaises(ValueError) as caught:
                serverFromString(reactor, text)
            assert str(caught.exception).startswith(r"write onebackend:tcp\:443:folder=/PATH")
        for text, folder in (
            (r"onebackend:tcp\:443:folder=/x", "/x"),
            (r"onebackend:tcp\:443\:interface\=127.0.0.1:/x", "/x"),
        ):
            assert cast(Any, serverFromString(reactor, text)).folder == pathlib.Path(folder)

    def listen(self) -> Any:
        endpoint = StoredCertificatesEndpoint.parse(self.reactor, "tcp:443", str(self.folder))
        return endpoint.listen(Factory.forProtocol(Protocol))

    def test_it_listens_with_the_certificates_in_the_folder(self) -> None:
        port = self.successResultOf(self.listen())
        assert isinstance(port.getHost(), IPv4Address) and port.transport is SecuredServer
        [(path, _vault)] = self.opened
        assert path.parent == self.folder.absolute()
        assert stat.S_IMODE((self.folder / "encryption.key").stat().st_mode) == 0o600
        # Closed with the program.
        [(phase, event, call)] = self.reactor.hooks
        assert (phase, event) == ("after", "shutdown")
        self.successResultOf(call())

    def test_a_port_that_cannot_be_had_leaves_nothing_open(self) -> None:
        closed: list[bool] = []
        self.patch(self.store, "close", lambda: closed.append(True))
        self.reactor.failures[443] = OSError(98, "Address already in use")
        self.failureResultOf(self.listen(), CannotListenError)
        assert closed == [True] and self.reactor.hooks == []

    def test_a_folder_that_is_none(self) -> None:
        self.folder.rmdir()
        self.folder.write_text("a file")
        self.failureResultOf(self.listen(), SettingError)
        assert self.reactor.ports == []

    def test_certificates_that_cannot_be_read_are_told_of(self) -> None:
        self.patch(self.store, "follow", lambda listener: fail(StoreUnavailable("locked")))
        self.successResultOf(self.listen())
        assert any("certificates in" in line and "locked" in line for line in self.logged)
