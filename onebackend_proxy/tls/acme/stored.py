"""Our store, as txacme sees one: PEM objects by name."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import attrs
import pem
from twisted.internet.defer import Deferred
from txacme.interfaces import ICertificateStore
from zope.interface import implementer

from ...interfaces import IStore
from ...records import Certificate
from ..certificates import read_bundle

SHORTEST = datetime.timedelta(seconds=10)
"""What a new certificate must live on, or we would order all the time."""


def pem_objects(text: str) -> list[Any]:
    """The keys and certificates of a PEM text, as txacme hands them on."""
    objects: list[Any] = pem.parse(text.encode("ascii"))
    return objects


def ordered_certificate(text: str, name: str, seconds: float) -> Certificate:
    """The certificate that was ordered for `name`, now (in Unix seconds); `ValueError` if it is of no use.

    It is for that name and no other, whatever else the authority has put into it: nobody has asked for that.
    """
    now = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    certificate = read_bundle(text, now, id=name)
    if certificate.not_after - now < SHORTEST:
        raise ValueError(f"has a certificate that ends at {certificate.not_after:%H:%M:%S} UTC, too soon")
    return attrs.evolve(certificate, names=(name,))


@implementer(ICertificateStore)
class StoredCertificates:
    """Certificates in `store`, checked before they are kept."""

    def __init__(self, store: IStore, reactor: Any) -> None:
        self._store = store
        self._reactor = reactor

    def __repr__(self) -> str:
        return f"<StoredCertificates: {self._store!r}>"

    def get(self, server_name: str) -> Deferred[list[Any]]:
        """See `txacme.interfaces.ICertificateStore`."""
        return Deferred.fromCoroutine(self._get(server_name))

    async def _get(self, name: str) -> list[Any]:
        found = await self._store.certificate(name)
        if found is None:
            raise KeyError(name)
        return pem_objects(found.private_key + found.chain)

    def as_dict(self) -> Deferred[dict[str, list[Any]]]:
        """See `txacme.interfaces.ICertificateStore`."""
        return Deferred.fromCoroutine(self._all())

    async def _all(self) -> dict[str, list[Any]]:
        return {each.id: await self._get(each.id) for each in await self._store.certificates()}

    def store(self, server_name: str, pem_objects: Sequence[Any], directory: str = "") -> Deferred[None]:
        """See `txacme.interfaces.ICertificateStore`; `ValueError` for what no client would take.

        `directory` is where it was ordered.
        """
        return Deferred.fromCoroutine(self._save(server_name, pem_objects, directory))

    async def _save(self, name: str, objects: Sequence[Any], directory: str) -> None:
        text = "".join(each.as_bytes().decode("ascii") for each in objects)
        certificate = ordered_certificate(text, name, self._reactor.seconds())
        await self._store.save_certificates([attrs.evolve(certificate, directory=directory)])
