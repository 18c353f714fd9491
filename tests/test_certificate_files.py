"""The files of certificates follow the store: new ones are written, others go, what failed is tried again."""

from __future__ import annotations

import pathlib
import shutil
import tempfile
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from onebackend_proxy import certificate_files
from onebackend_proxy.certificate_files import CertificateFiles
from onebackend_proxy.errors import StoreUnavailable
from onebackend_proxy.records import Certificate
from onebackend_proxy.testing import MemoryStore

from .tls import making


class TestCertificateFiles(TestCase):
    """Over real files, and a store in memory."""

    def setUp(self) -> None:
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.store = MemoryStore()
        self.files = CertificateFiles(self.store, self.folder, reactor)
        self.addCleanup(self.files.stop)

    def save(self, name: str) -> Certificate:
        certificate = making.record(name)
        self.successResultOf(self.store.save_certificates([certificate]))
        return certificate

    def kept(self) -> tuple[Certificate, ...]:
        found: tuple[Certificate, ...] = self.successResultOf(self.store.certificates())
        return found

    def publish(self) -> Deferred[Any]:
        """Publish what the store has, and wait until the files are as they will be."""
        self.files.publish(self.kept())
        return Deferred.fromCoroutine(self._settled())

    async def _settled(self) -> None:
        while self.files._working:
            await deferLater(reactor, 0.01)

    def live(self) -> set[str]:
        live = self.folder / "certs" / "live"
        return {path.name for path in live.iterdir()} if live.is_dir() else set()

    async def test_they_follow_the_store(self) -> None:
        first = self.save("a.example")
        self.save("*.b.example")
        await self.publish()
        assert self.live() == {"a.example", "wildcard_.b.example"}
        key = self.folder / "certs" / "live" / "a.example" / "privkey.pem"
        assert key.read_text() == first.private_key
        assert key.stat().st_mode & 0o777 == 0o600
        self.successResultOf(self.store.delete_certificates(["a.example"]))
        await self.publish()
        assert self.live() == {"wildcard_.b.example"}
        assert repr(self.files).endswith(": 1>")

    async def test_those_deleted_while_nobody_looked_go_too(self) -> None:
        self.save("a.example")
        await self.publish()
        self.successResultOf(self.store.delete_certificates(["a.example"]))
        self.files = CertificateFiles(self.store, self.folder, reactor)
        await self.publish()
        assert self.live() == set()

    async def test_what_is_published_meanwhile_is_written_as_well(self) -> None:
        self.save("a.example")
        first = self.publish()
        self.save("b.example")
        second = self.publish()
        await first
        await second
        assert self.live() == {"a.example", "b.example"}

    async def test_what_cannot_be_written_is_tried_again(self) -> None:
        self.patch(certificate_files, "RETRY_SECONDS", 0.05)
        self.save("a.example")
        (self.folder / "certs").write_text("in the way")
        await self.publish()
        assert self.files._again is not None
        (self.folder / "certs").unlink()
        while not self.live():
            await deferLater(reactor, 0.01)
        await self._settled()
        assert self.files._again is None

    async def test_a_store_that_cannot_be_read_costs_no_file(self) -> None:
        self.save("a.example")
        await self.publish()
        self.save("b.example")
        certificates = self.kept()
        self.store.failure = StoreUnavailable("busy")
        self.files.publish(certificates)
        await self._settled()
        assert self.live() == {"a.example"}
        self.store.failure = None
        await self.publish()
        assert self.live() == {"a.example", "b.example"}
