"""The directory's objects (RFC 8555, 7.1, and RFC 9773) as they are read from its answers.

What a server leaves out or adds is taken as it comes; what breaks the RFC so far that nothing can be made of
it raises `problems.Unreachable`.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from typing import Any

import attrs
from cryptography import x509

from ..pem import blocks, certificate_pem, read_certificate
from .fetching import Reply, host_of, joined
from .problems import Problem, Unreachable, printable, read_problem
from .signing import base64url, is_token

Document = Mapping[str, Any]
_MAX_TEXT = 1000
_MAX_CHAIN = 10
_STATUSES = {
    "order": ("pending", "ready", "processing", "valid", "invalid"),
    "authorization": ("pending", "valid", "invalid", "deactivated", "expired", "revoked"),
    "challenge": ("pending", "processing", "valid", "invalid"),
}


@attrs.frozen
class Directory:
    """Where what is asked for; `renewal_info` is "" where it is not offered, and so is `terms`."""

    url: str
    new_nonce: str
    new_account: str
    new_order: str
    renewal_info: str = ""
    terms: str = ""
    caa_identities: tuple[str, ...] = ()
    eab_required: bool = False
    profiles: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Order:
    """An order: `status` is one of RFC 8555, 7.1.6, `retry_after` what this answer said, in seconds.

    `certificate` is a URL, or "" while there is none.
    """

    url: str
    status: str
    authorizations: tuple[str, ...]
    finalize: str
    certificate: str = ""
    problem: Problem | None = None
    retry_after: float | None = None


@attrs.frozen
class ChallengeOffer:
    """One way to prove an authorization's name; `kind` is ``http-01`` and such, `token` base64url."""

    kind: str
    url: str
    token: str
    status: str
    problem: Problem | None = None


@attrs.frozen
class Authorization:
    """The proof that is wanted for `name`; for a wildcard, that is what stands behind the ``*.``."""

    url: str
    status: str
    name: str
    wildcard: bool
    challenges: tuple[ChallengeOffer, ...]
    retry_after: float | None = None


@attrs.frozen
class RenewalInfo:
    """When the directory wants a certificate renewed (RFC 9773, 4.2), and when it wants to be asked again."""

    start: datetime.datetime
    end: datetime.datetime
    explanation_url: str = ""
    retry_after: float | None = None


def _not_acme(reply: Reply, what: str) -> Unreachable:
    return Unreachable(f"{host_of(reply.url)} answered {what}")


def document(reply: Reply, *types: str) -> Document:
    """The JSON object in an answer of one of these media types."""
    if reply.content_type not in types:
        told = printable(reply.content_type, 100) or "no type"
        raise _not_acme(reply, f"with {told}, status {reply.status}, where {types[0]} was due")
    try:
        found = json.loads(reply.body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _not_acme(reply, f"with what is no JSON object, status {reply.status}")
    return found


def _json(reply: Reply) -> Document:
    return document(reply, "application/json")


def _words(value: object) -> str:
    return printable(value, _MAX_TEXT) if isinstance(value, str) else ""


def _status(found: Document, of: str, reply: Reply) -> str:
    status = found.get("status")
    if status not in _STATUSES[of]:
        raise _not_acme(reply, f"with an {of} of an unknown status: {printable(str(status), 100)}")
    return str(status)


def _problem(found: Document) -> Problem | None:
    error = found.get("error")
    return read_problem(error) if isinstance(error, dict) and error else None


def read_directory(reply: Reply) -> Directory:
    """See `Directory`."""
    found = _json(reply)
    meta = found.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    renewal = found.get("renewalInfo")
    profiles = meta.get("profiles")
    profiles = profiles if isinstance(profiles, dict) else {}
    identities = meta.get("caaIdentities")
    return Directory(
        reply.url,
        joined(reply.url, found.get("newNonce")),
        joined(reply.url, found.get("newAccount")),
        joined(reply.url, found.get("newOrder")),
        renewal_info=joined(reply.url, renewal).rstrip("/") if renewal else "",
        terms=_words(meta.get("termsOfService")),
        caa_identities=tuple(filter(None, map(_words, identities if isinstance(identities, list) else ()))),
        eab_required=meta.get("externalAccountRequired") is True,
        profiles={name: _words(text) for name, text in profiles.items() if name == _words(name)},
    )


def read_order(reply: Reply, url: str, retry_after: float | None) -> Order:
    """See `Order`; `url` is its own, which only its first answer names."""
    found = _json(reply)
    authorizations = found.get("authorizations")
    if not isinstance(authorizations, list):
        raise _not_acme(reply, "with an order that has no authorizations")
    certificate = found.get("certificate")
    return Order(
        url,
        _status(found, "order", reply),
        tuple(joined(reply.url, each) for each in authorizations),
        joined(reply.url, found.get("finalize")),
        joined(reply.url, certificate) if certificate else "",
        _problem(found),
        retry_after,
    )


def read_authorization(reply: Reply, retry_after: float | None) -> Authorization:
    """See `Authorization`; challenges of kinds that nobody here knows are told as they are."""
    found = _json(reply)
    identifier = found.get("identifier")
    name = identifier.get("value") if isinstance(identifier, dict) else None
    if not isinstance(name, str) or not name:
        raise _not_acme(reply, "with an authorization for no name")
    offers = found.get("challenges")
    return Authorization(
        reply.url,
        _status(found, "authorization", reply),
        _words(name).lower(),
        found.get("wildcard") is True,
        tuple(_offer(reply, each) for each in offers if _is_offer(each)) if isinstance(offers, list) else (),
        retry_after,
    )


def _is_offer(found: object) -> bool:
    # A kind without a token is one we cannot answer, and no reason not to answer another.
    return (
        isinstance(found, dict)
        and isinstance(found.get("type"), str)
        and isinstance(found.get("url"), str)
        and is_token(found.get("token"))
    )


def _offer(reply: Reply, found: Document) -> ChallengeOffer:
    return ChallengeOffer(
        _words(found["type"]),
        joined(reply.url, found["url"]),
        found["token"],
        _status(found, "challenge", reply),
        _problem(found),
    )


def read_renewal_info(reply: Reply, retry_after: float | None) -> RenewalInfo:
    """See `RenewalInfo`; a window that ends before it begins is as good as no answer (RFC 9773, 4.2)."""
    found = _json(reply)
    window = found.get("suggestedWindow")
    window = window if isinstance(window, dict) else {}
    start, end = _moment(window.get("start")), _moment(window.get("end"))
    if start is None or end is None or end <= start:
        raise _not_acme(reply, "with renewal information that has no window")
    explanation = _words(found.get("explanationURL"))
    if not explanation.startswith(("https://", "http://")):
        explanation = ""
    return RenewalInfo(start, end, explanation, retry_after)


def _moment(text: object) -> datetime.datetime | None:
    """A timestamp (RFC 3339), which has a time zone; seconds may have any number of digits."""
    try:
        moment = datetime.datetime.fromisoformat(text.upper() if isinstance(text, str) else "")
        return moment.astimezone(datetime.UTC) if moment.tzinfo else None
    except (ValueError, OverflowError):
        return None


def read_chain(reply: Reply) -> str:
    """The certificates in an answer, in PEM, the leaf first; there is nothing else in it (RFC 8555, 9.1)."""
    if reply.content_type != "application/pem-certificate-chain":
        told = printable(reply.content_type, 100) or "no type"
        raise _not_acme(reply, f"with {told} where a certificate chain was due")
    try:
        found = blocks(reply.body.decode("ascii"))
        if len(found) > _MAX_CHAIN:
            raise ValueError("is too long")
        return "".join(certificate_pem(read_certificate(block)) for block in found)
    except ValueError as error:
        raise _not_acme(reply, f"with a certificate chain that {printable(str(error), 200)}") from None


def certificate_id(chain_pem: str) -> str:
    """What the leaf is called in RFC 9773, 4.1; "" where it does not name its issuer's key, and has no id."""
    leaf = x509.load_pem_x509_certificate(chain_pem.encode("ascii"))
    try:
        issuer = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        issuer = None
    if not issuer:
        return ""
    # An INTEGER in DER: with a zero byte before one that would make it negative.
    number = leaf.serial_number.to_bytes(leaf.serial_number.bit_length() // 8 + 1, "big")
    return f"{base64url(issuer)}.{base64url(number)}"
