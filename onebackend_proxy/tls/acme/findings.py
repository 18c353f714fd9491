"""What was found out before an order, in words for people: pure, one function for each subject of a check."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable, Sequence

from ...interfaces import Finding
from ...records import Certificate, Issuance
from ...units import shown_moment
from ..challenges import HTTP_01, TLS_ALPN_01
from .caa import Policy, judge
from .probes import Probe
from .problems import printable
from .resolving import Addresses, LookupFailed
from .responders import DNS_01

ROUTE, CERTIFICATE, DNS, CAA, PROOF_BY_DNS = "route", "certificate", "dns", "caa", "dns-01"
PORT_80, PORT_443, BUDGET, FAILURES, AUTHORITY = "port 80", "port 443", "budget", "failures", "authority"
MAX_ADDRESSES = 16
"""Addresses of a name that are looked at."""
_TOLD = 4
_MAX_WORDS = 300
_HIDDEN = (
    "; asked from this machine, which cannot tell that from a router that does not lead it back to its own "
    "public address: ask from elsewhere too"
)

Directory = tuple[str, Sequence[str], str]
"""The URL of an ACME directory, the names that it has in CAA records, and why it cannot be used, or ""."""


def on_local(domain: str) -> Finding:
    """A name that no authority certifies but our own."""
    said = f"{domain} is a local name: the local authority makes its certificate, and none is ordered"
    return Finding(ROUTE, True, said)


def on_route(domain: str, routed: bool) -> Finding:
    """Whether a certificate is wanted at all."""
    if routed:
        return Finding(ROUTE, True, f"there is a Route for {domain}")
    said = f"no Route is for {domain}, so none is ordered: oo routes save --id {domain} --target URL"
    return Finding(ROUTE, False, said)


def on_certificate(certificate: Certificate, now: datetime.datetime) -> Finding:
    """The one that would be shown, which covers the name."""
    until = f"{'is valid until' if now < certificate.not_after else 'has expired on'} "
    until += shown_moment(certificate.not_after)
    if certificate.directory:
        return Finding(CERTIFICATE, True, f"{certificate.id} from {certificate.directory} {until}")
    if now < certificate.not_after:
        said = f"{certificate.id}, saved by hand, covers it and {until}: until then none is ordered"
        return Finding(CERTIFICATE, True, said)
    return Finding(CERTIFICATE, True, f"{certificate.id}, saved by hand, {until}: one can be ordered instead")


def on_dns(host: str, found: Addresses | LookupFailed) -> Finding:
    """Whether the name leads anywhere, and where; the ports tell whether that is here."""
    if isinstance(found, LookupFailed):
        said = f"{host} cannot be looked up: {found}"
        return Finding(DNS, False if found.refused else None, said)
    addresses = found.found[:MAX_ADDRESSES]
    by_alias = f" (CNAME: {' -> '.join(found.aliases)})" if found.aliases else ""
    remedy = "add an A record with the public address of this proxy"
    if not found.exists:
        return Finding(DNS, False, f"{host} does not exist in the DNS{by_alias}: {remedy}")
    if not addresses:
        also = f" ({found.failed})" if found.failed else ""
        return Finding(DNS, False, f"{host}{by_alias} has no address in the DNS{also}: {remedy}")
    said = f"{host} is {_some(addresses)}{by_alias}"
    if any(":" in address for address in addresses):
        said += "; authorities prefer IPv6, so that must lead here too"
    if len(found.found) > MAX_ADDRESSES:
        said += f"; only the first {MAX_ADDRESSES} of {len(found.found)} addresses are looked at"
    if found.failed:
        return Finding(DNS, None, f"{said}; but {found.failed}")
    private = [address for address in addresses if not ipaddress.ip_address(address).is_global]
    if private:
        return Finding(DNS, None, f"{said}; no authority on the internet reaches {_some(private)}")
    return Finding(DNS, True, said)


def _some(texts: Sequence[str]) -> str:
    more = len(texts) - _TOLD
    return ", ".join(texts[:_TOLD]) + (f" and {more} more" if more > 0 else "")


def on_caa(
    domain: str,
    found: tuple[str, Sequence[Policy]] | LookupFailed,
    directories: Sequence[Directory],
    by_dns: bool,
) -> Finding:
    """Whether the CAA records let one of the directories issue (RFC 8659)."""
    if isinstance(found, LookupFailed):
        return Finding(CAA, False, f"cannot be looked up: {found}; authorities refuse then (RFC 8659, 3)")
    owner, policies = found
    if not policies:
        return Finding(CAA, True, "there is no CAA record, so every authority may issue")
    wildcard = domain.startswith("*.")
    methods = {DNS_01} if wildcard else {HTTP_01, TLS_ALPN_01, *([DNS_01] if by_dns else [])}
    told = [(url, judge(policies, wildcard, names, methods)) for url, names, error in directories if names]
    allowed = [verdict for _url, verdict in told if verdict.ok]
    refused = [url for url, verdict in told if not verdict.ok]
    if allowed:
        but = f"; they forbid {_some(refused)}" if refused else ""
        return Finding(CAA, True, f"the CAA records of {owner} {allowed[0].why}{but}")
    if told:
        return Finding(CAA, False, f"the CAA records of {owner} {told[0][1].why}")
    verdict = judge(policies, wildcard, (), methods)
    if verdict.ok:
        return Finding(CAA, True, f"the CAA records of {owner} {verdict.why}")
    said = f"there are CAA records at {owner}, and no directory has told its name in them (caaIdentities)"
    return Finding(CAA, None, said)


def on_wildcard(by_dns: bool) -> Finding:
    """How a wildcard is proved (RFC 8555, 8.4)."""
    if by_dns:
        said = "a wildcard is proved by DNS (DNS-01), which is set up; ports 80 and 443 do not matter"
        return Finding(PROOF_BY_DNS, True, said)
    said = "a wildcard can only be proved by DNS (DNS-01), and no provider is set: --acme-dns"
    return Finding(PROOF_BY_DNS, False, said)


def on_ports(http: Sequence[Probe], https: Sequence[Probe], by_dns: bool) -> tuple[Finding, Finding]:
    """What came of looking at each address: one port that works for all of them is enough."""
    plain, secure = _on_port(PORT_80, http), _on_port(PORT_443, https)
    return _in_view_of(plain, secure, by_dns), _in_view_of(secure, plain, by_dns)


def _on_port(subject: str, probes: Sequence[Probe]) -> Finding:
    bad = [probe for probe in probes if not probe.ok]
    if not bad:
        addresses = [probe.address for probe in probes]
        return Finding(
            subject, True, f"{_some(addresses)} {'reach' if len(probes) > 1 else 'reaches'} this proxy"
        )
    said = "; ".join(f"{probe.address} {probe.said}" for probe in bad[:_TOLD])
    if len(bad) > _TOLD:
        said += f"; and so on for {len(bad) - _TOLD} more"
    if any(":" in probe.address for probe in bad) and len(bad) < len(probes):
        said += "; authorities prefer IPv6: correct or delete the AAAA record"
    if any(probe.hidden for probe in bad):
        said += _HIDDEN
    return Finding(subject, False if any(probe.ok is False for probe in bad) else None, said)


def _in_view_of(finding: Finding, other: Finding, by_dns: bool) -> Finding:
    """The same, but what another way makes up for stops nothing."""
    if finding.ok:
        return finding
    if other.ok:
        return Finding(finding.subject, None, f"{finding.message}; {other.subject} works, and one is enough")
    if by_dns:
        return Finding(finding.subject, None, f"{finding.message}; DNS-01 is set up, and one way is enough")
    return finding


def not_looked_at(subjects: Iterable[str], why: str) -> list[Finding]:
    """What could not be found out, and why."""
    return [Finding(subject, None, why) for subject in subjects]


def on_budget(until: datetime.datetime | None) -> Finding:
    """Whether this name's registered domain may have another order."""
    if until is None:
        return Finding(BUDGET, True, "an order may be made")
    said = (
        f"the orders of its registered domain are used up until {shown_moment(until)} (--acme-names-per-hour)"
    )
    return Finding(BUDGET, False, said)


def on_failures(issuance: Issuance | None, now: datetime.datetime) -> Finding:
    """How earlier orders went."""
    if issuance is None or not issuance.failures:
        return Finding(FAILURES, True, "no order has failed since the last success")
    said = f"{issuance.failures} in a row"
    if issuance.failing_since is not None:
        said += f" since {shown_moment(issuance.failing_since)}"
    said += f"; {issuance.directory or 'the authority'} says: {issuance.problem or 'nothing'}"
    if issuance.not_before is not None and now < issuance.not_before:
        said += f"; it wants no order before {shown_moment(issuance.not_before)}"
        return Finding(FAILURES, False, said)
    if issuance.retry_at is not None:
        said += f"; next try at {shown_moment(issuance.retry_at)}"
    return Finding(FAILURES, None, f"{said}, or now: oo certs renew {issuance.name}")


def on_authority(directories: Sequence[Directory]) -> Finding:
    """Whether anybody can be asked for a certificate; one directory is enough."""
    failed = [f"{url}: {printable(error, _MAX_WORDS)}" for url, _names, error in directories if error]
    good = [url for url, _names, error in directories if not error]
    if not directories:
        return Finding(AUTHORITY, False, "no directory is set (--acme-directory)")
    if not good:
        return Finding(AUTHORITY, False, "; ".join(failed))
    said = f"{_some(good)} {'answer' if len(good) > 1 else 'answers'}"
    return Finding(AUTHORITY, True, "; but ".join([said, "; ".join(failed)]) if failed else said)
