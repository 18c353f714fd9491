"""Certificates as the API takes and shows them. A private key goes in, and never comes out again."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import SignatureAlgorithmOID

from ..errors import BadRequest
from ..interfaces import IStore
from ..password_work import InThread
from ..records import Certificate
from ..tls.certificates import read_bundle
from .collection import Collection
from .echo import bounded
from .issuances import failing, failing_json
from .json_resource import Call
from .permissions import CERT_EDIT, CERT_VIEW
from .shapes import Json, rfc3339
from .values import CertificateId, CertificateIdOrNone

MAX_CERTIFICATES = 100
"""Certificates of one save: to check the key of one may take a quarter of a second."""

_UNNAMED = CertificateIdOrNone("")
_KEYS: dict[type[Any], str] = {
    rsa.RSAPublicKey: "RSA",
    ec.EllipticCurvePublicKey: "ECDSA",
    ed25519.Ed25519PublicKey: "Ed25519",
}
_SIGNATURES = {
    SignatureAlgorithmOID.RSA_WITH_SHA256: "SHA256-RSA",
    SignatureAlgorithmOID.RSA_WITH_SHA384: "SHA384-RSA",
    SignatureAlgorithmOID.RSA_WITH_SHA512: "SHA512-RSA",
    SignatureAlgorithmOID.ECDSA_WITH_SHA256: "ECDSA-SHA256",
    SignatureAlgorithmOID.ECDSA_WITH_SHA384: "ECDSA-SHA384",
    SignatureAlgorithmOID.ECDSA_WITH_SHA512: "ECDSA-SHA512",
    SignatureAlgorithmOID.ED25519: "Ed25519",
}


@attrs.frozen
class CertificateInput:
    """One certificate of a save: `cert` is PEM, the chain and the private key in any order.

    `id` is the name it is kept under, one of its own, the first if none is given.
    """

    cert: str = attrs.field(repr=False)
    id: CertificateIdOrNone = _UNNAMED


@attrs.frozen
class SaveCertificatesBody:
    """What ``PUT /proxy-svc/certs`` takes."""

    certs: list[CertificateInput]


@attrs.frozen
class ListCertificatesBody:
    """What a listing may take: only these ids, if there are any, and only those whose orders fail."""

    ids: list[CertificateId] = attrs.field(factory=list)
    failing: bool = False


@attrs.frozen
class DeleteCertificatesBody:
    """What a deletion takes."""

    ids: list[CertificateId]


def read_certificates(entries: list[CertificateInput], now: datetime.datetime) -> list[Certificate]:
    """The certificates of a save; `errors.BadRequest` names the one that is not good, and says why."""
    found = []
    for index, entry in enumerate(entries):
        try:
            found.append(read_bundle(entry.cert, now, id=entry.id))
        except ValueError as error:
            raise BadRequest(f"certs[{index}].cert: {bounded(str(error))}") from None
    return found


def certificate_json(certificate: Certificate) -> Json:
    """A certificate without its key, as 1Backend's clients expect it: the serial number is decimal."""
    return {
        "id": certificate.id,
        "cert": certificate.chain,
        "commonName": certificate.common_name,
        "dnsNames": list(certificate.names),
        "issuer": certificate.issuer,
        "serialNumber": str(int(certificate.serial, 16)),
        "notBefore": rfc3339(certificate.not_before),
        "notAfter": rfc3339(certificate.not_after),
        "createdAt": rfc3339(certificate.created_at),
        "updatedAt": rfc3339(certificate.updated_at),
        **({"directory": certificate.directory} if certificate.directory else {}),
        **_leaf_json(x509.load_pem_x509_certificate(certificate.chain.encode("ascii"))),
    }


def _leaf_json(leaf: x509.Certificate) -> Json:
    """What is only in the leaf itself, in the words of Go's crypto/x509, which are 1Backend's."""
    key: Any = leaf.public_key()
    told: Json = {
        "publicKeyAlgorithm": next(word for kind, word in _KEYS.items() if isinstance(key, kind)),
        "publicKeyBitLength": getattr(key, "key_size", 256),
        "isCA": any(getattr(extension.value, "ca", False) for extension in leaf.extensions),
    }
    signature = _SIGNATURES.get(leaf.signature_algorithm_oid)
    return told if signature is None else {**told, "signatureAlgorithm": signature}


def certificates(
    store: IStore,
    seconds: Callable[[], float],
    in_thread: InThread,
    routed: Callable[[str], bool] = lambda name: True,
) -> Collection[Certificate]:
    """The certificates in `store`; those that are saved are checked in a thread.

    `routed` is whether a Route is for a host: what fails of others is nobody's business any more.
    """

    async def records_in(call: Call) -> list[Certificate]:
        entries = call.body(SaveCertificatesBody).certs
        if len(entries) > MAX_CERTIFICATES:
            raise BadRequest(f"certs: has more than {MAX_CERTIFICATES} items")
        now = datetime.datetime.fromtimestamp(int(seconds()), datetime.UTC)
        found: list[Certificate] = await in_thread(read_certificates, entries, now)
        return found

    async def save(records: Sequence[Certificate]) -> Sequence[Certificate]:
        await store.save_certificates(records)
        # What was there keeps the time of its creation.
        kept = {certificate.id: certificate for certificate in await store.certificates()}
        return [kept.get(record.id, record) for record in records]

    async def listed(call: Call, shown: Sequence[Certificate]) -> tuple[Sequence[Certificate], Json]:
        asked = call.body(ListCertificatesBody, optional=True)
        troubled = await failing(store, routed, asked.ids)
        if asked.failing:
            names = {issuance.name for issuance in troubled}
            shown = [certificate for certificate in shown if certificate.id in names]
        # Where nothing fails, the answer is as 1Backend's own.
        told = bool(troubled) or asked.failing
        return shown, {"failing": [failing_json(issuance) for issuance in troubled]} if told else {}

    return Collection(
        "certs",
        CERT_VIEW,
        CERT_EDIT,
        records_in,
        certificate_json,
        store.certificates,
        save,
        store.delete_certificates,
        ListCertificatesBody,
        DeleteCertificatesBody,
        listed=listed,
    )
