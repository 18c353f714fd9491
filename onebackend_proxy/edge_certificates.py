"""The certificates of a store and of the local authority, ready to be shown by an endpoint.

`EdgeCertificates` is what the proxy's own https port and the endpoint string ``onebackend:`` share.
"""

from __future__ import annotations

import datetime
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from .certificate_files import CertificateFiles
from .folder import DATABASE, ENCRYPTION_KEY, default_folder, kept_secret, make_folder, write_atomically
from .headers import Network
from .interfaces import IStore, Published
from .limits import DEFAULTS, Limits
from .records import Certificate
from .store import Vault, open_sqlite
from .tls.authority import LEAF_LIFE, LocalAuthority, is_local
from .tls.challenges import Challenges
from .tls.contexts import Contexts
from .tls.endpoint import TlsEndpoint

LOCAL_ROOT = "local-authority.pem"
"""The file in the data folder with the local authority's root: for clients, and no secret."""
_SECRET = "local-authority"
_SPELLING = r"write onebackend:tcp\:443:folder=/PATH, with \: and \= in the inner endpoint"


class EdgeCertificates:
    """Contexts for all certificates of a store, and for local names that are `owned`.

    `publish` takes over each change. With `to_files` they are written to `folder` as well. `challenges` are
    answered by its endpoints, whichever process has placed them in the store.
    """

    def __init__(
        self,
        store: IStore,
        folder: pathlib.Path,
        reactor: Any,
        owned: Callable[[str], bool] = lambda host: True,
        limits: Limits = DEFAULTS,
        to_files: bool = False,
    ) -> None:
        self._store = store
        self._folder = folder
        self._reactor = reactor
        self._owned = owned
        self._limits = limits
        self._authority: LocalAuthority | None = None
        self._files = CertificateFiles(store, folder, reactor) if to_files else None
        self.challenges = Challenges(store, reactor.seconds)
        self.contexts = Contexts(
            reactor.seconds,
            store.certificate,
            self.authority,
            owned,
            limits.tls_contexts,
            self.challenges,
        )

    def publish(self, published: Published) -> None:
        """From now on these are the certificates."""
        self.contexts.publish(published.certificates)
        if self._files is not None:
            self._files.publish(published.certificates)

    def stop(self) -> None:
        """Write no more files."""
        if self._files is not None:
            self._files.stop()

    def endpoint(self, endpoint: IStreamServerEndpoint, trusted: Sequence[Network] = ()) -> TlsEndpoint:
        """`endpoint` with TLS and these certificates; `trusted` are those of `--trusted-proxies`."""
        return TlsEndpoint(self._reactor, endpoint, self.contexts, self._limits.handshake_timeout, trusted)

    def certificate_for(self, host: str) -> Certificate | None:
        """What would be shown for this canonical host; one that is not made yet has no serial."""
        found = self.contexts.certificate_for(host)
        if found is not None or not (is_local(host) and self._owned(host)):
            return found
        now = datetime.datetime.fromtimestamp(self._reactor.seconds(), datetime.UTC)
        return Certificate(host, (host,), "", "", host, "local authority", "", now, now + LEAF_LIFE, now, now)

    def authority(self) -> Deferred[LocalAuthority]:
        """The local authority: the same for all that share the store, made when it is first needed."""
        if self._authority is not None:
            return succeed(self._authority)
        return Deferred.fromCoroutine(self._read_authority())

    async def _read_authority(self) -> LocalAuthority:
        kept = await self._store.secret(_SECRET)
        if kept is None:
            moment = datetime.datetime.fromtimestamp(self._reactor.seconds(), datetime.UTC)
            made = LocalAuthority.make(moment).to_pem().encode("ascii")
            # Another process may have been faster.
            kept = await self._store.create_secret(_SECRET, made)
        self._authority = LocalAuthority.from_pem(kept.decode("ascii"))
        self._write_root(self._authority.root_pem)
        return self._authority

    def _write_root(self, pem: str) -> None:
        try:
            write_atomically(self._folder / LOCAL_ROOT, pem)
        except OSError as error:
            Logger().warn(
                "the local authority's root cannot be written to {folder}: {error}",
                folder=self._folder,
                error=error,
            )

    def local_root(self) -> Deferred[str]:
        """The local authority's root certificate, in PEM."""
        return self.authority().addCallback(lambda authority: authority.root_pem)


@implementer(IStreamServerEndpoint)
@attrs.frozen(eq=False)
class StoredCertificatesEndpoint:
    """What ``onebackend:ENDPOINT[:folder=FOLDER]`` means: ENDPOINT with TLS, by the certificates in FOLDER.

    Every Twisted program can listen there. Changes of the certificates are followed while it listens.
    """

    reactor: Any
    inner: IStreamServerEndpoint
    folder: pathlib.Path

    @classmethod
    def parse(cls, reactor: Any, *words: str, **named: str) -> StoredCertificatesEndpoint:
        """Make it of the parts of an endpoint string; raises `ValueError` for what is none."""
        inner, *more = words or ("",)
        folder = named.pop("folder", "") or (more.pop(0) if more else "")
        if not inner or more or named:
            unknown = ", ".join([*more, *(f"{name}=" for name in named)]) or "no endpoint in it"
            raise ValueError(f"{_SPELLING} (here: {unknown})")
        place = pathlib.Path(folder or os.environ.get("OB_FOLDER") or default_folder())
        try:
            endpoint = serverFromString(reactor, inner)
        except (TypeError, IndexError):
            # Half of it: the rest was taken for words of ours.
            raise ValueError(_SPELLING) from None
        return cls(reactor, endpoint, place.expanduser().absolute())

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """See `twisted.internet.interfaces.IStreamServerEndpoint`; `errors.SettingError` for a bad folder."""
        return Deferred.fromCoroutine(self._listen(protocolFactory))

    async def _listen(self, factory: IProtocolFactory) -> IListeningPort:
        make_folder(self.folder)
        key = os.environ.get("OB_ENCRYPTION_KEY") or kept_secret(self.folder / ENCRYPTION_KEY)
        store = open_sqlite(self.folder / DATABASE, Vault(key), self.reactor)
        certificates = EdgeCertificates(store, self.folder, self.reactor)
        following = store.follow(certificates.publish)
        following.addErrback(_cannot_follow, self.folder)
        try:
            port = await certificates.endpoint(self.inner).listen(factory)
        except BaseException:
            store.close()
            raise
        self.reactor.addSystemEventTrigger("after", "shutdown", store.close)
        return port


def _cannot_follow(failure: Failure, folder: pathlib.Path) -> None:
    Logger().error(
        "the certificates in {folder} cannot be read: {error}", folder=folder, error=failure.getErrorMessage()
    )
