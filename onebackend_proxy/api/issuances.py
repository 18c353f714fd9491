"""Certificates that are ordered: what fails, what would stop an order, and an order now."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from ..errors import BadRequest, NotFound
from ..interfaces import Finding, Issuing, IStore
from ..records import Issuance
from .json_resource import Answer, Call, Operation
from .permissions import CERT_EDIT, CERT_VIEW, require
from .shapes import Json, rfc3339
from .values import CertificateId

_OFF = "no certificates are ordered here: the edge or ACME is off (OB_EDGE_PROXY, --acme-directory)"


@attrs.frozen
class CheckBody:
    """What ``POST /proxy-svc/certs/check`` takes: a host, or a wildcard."""

    domain: CertificateId


@attrs.frozen
class RenewBody:
    """What ``POST /proxy-svc/certs/renew`` takes: hosts of Routes."""

    ids: list[CertificateId]


def failing_json(issuance: Issuance) -> Json:
    """What is known of the orders for a name that fail; what is unknown or empty is left out."""
    moments = {
        "failingSince": issuance.failing_since,
        "triedAt": issuance.tried_at,
        "retryAt": issuance.retry_at,
        "notBefore": issuance.not_before,
    }
    texts = {"problem": issuance.problem, "directory": issuance.directory}
    return {
        "name": issuance.name,
        "failures": issuance.failures,
        **{name: rfc3339(moment) for name, moment in moments.items() if moment is not None},
        **{name: text for name, text in texts.items() if text},
    }


async def failing(store: IStore, routed: Callable[[str], bool], wanted: Iterable[str] = ()) -> list[Issuance]:
    """The routed names that an order failed for or has to wait for, sorted; only those wanted, if any are."""
    only = frozenset(wanted)
    known = [each for each in await store.issuances() if each.problem and routed(each.name)]
    return [each for each in known if not only or each.name in only]


def finding_json(finding: Finding) -> Json:
    """One thing that was looked at; `ok` is null where it could not be found out."""
    return {"subject": finding.subject, "ok": finding.ok, "message": finding.message}


def issuing_operations(issuing: Issuing | None) -> list[Operation]:
    """The calls that check and order; `issuing` is None where none are ordered."""

    def ordering() -> Issuing:
        if issuing is None:
            raise NotFound(_OFF)
        return issuing

    async def check(call: Call) -> Answer:
        require(call.caller.roles, CERT_VIEW)
        domain = call.body(CheckBody).domain
        found = await ordering().check(domain)
        return Answer(200, {"domain": domain, "findings": [finding_json(each) for each in found]})

    async def renew(call: Call) -> Answer:
        require(call.caller.roles, CERT_EDIT)
        ids = call.body(RenewBody).ids
        if not ids:
            raise BadRequest("ids: is empty")
        names = list(dict.fromkeys(ids))
        ordering().order(names)
        return Answer(200, {"ids": names})

    return [
        Operation(b"POST", ("certs", "check"), check),
        Operation(b"POST", ("certs", "renew"), renew),
    ]
