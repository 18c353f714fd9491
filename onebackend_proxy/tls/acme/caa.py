"""Who may issue for a name, by its CAA records (RFC 8659, RFC 8657), and the verdict in words."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

import attrs

from .problems import printable

MAX_SHOWN = 60
"""Characters of what strangers wrote that are repeated."""
_KNOWN = frozenset(("issue", "issuewild", "issuemail", "issuevmc", "iodef", "contactemail", "contactphone"))
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_PARAMETER = re.compile(rf"({_LABEL})[ \t]*=[ \t]*([\x21-\x3a\x3c-\x7e]*)")


def shortly(text: str) -> str:
    """What a stranger wrote, fit for one line of a terminal, and not endless."""
    return printable(text, MAX_SHOWN)


@attrs.frozen
class Policy:
    """One CAA record; `tag` is in lower case, `critical` forbids to overlook a tag that is not known."""

    tag: str
    value: str
    critical: bool = False


@attrs.frozen
class Issuer:
    """Whom one ``issue`` or ``issuewild`` record lets issue: nobody, where `domain` is ""."""

    domain: str
    parameters: Mapping[str, str] = MappingProxyType({})

    @property
    def methods(self) -> frozenset[str] | None:
        """The kinds of challenges that it is restricted to (RFC 8657, 4), or None."""
        found = self.parameters.get("validationmethods")
        return None if found is None else frozenset(found.split(","))

    @property
    def account(self) -> str:
        """The URL of the one account that may order (RFC 8657, 3), or ""."""
        return self.parameters.get("accounturi", "")


NOBODY = Issuer("")


def read_issuer(value: str) -> Issuer:
    """Read the value of an ``issue`` record; what breaks the grammar lets nobody issue (RFC 8659, 4.2)."""
    domain, *parts = (part.strip(" \t") for part in value.split(";"))
    if not _DOMAIN.fullmatch(domain):
        return NOBODY
    parameters: dict[str, str] = {}
    if parts and not parts[-1]:
        parts.pop()
    for part in parts:
        found = _PARAMETER.fullmatch(part)
        if found is None or found[1].lower() in parameters:
            return NOBODY
        parameters[found[1].lower()] = found[2]
    return Issuer(domain.lower(), parameters)


def issuers(policies: Iterable[Policy], wildcard: bool) -> list[Issuer] | None:
    """Those who may issue for a name, or a wildcard, with these records; None if all may."""
    by_tag: dict[str, list[str]] = {}
    for policy in policies:
        by_tag.setdefault(policy.tag, []).append(policy.value)
    values = by_tag.get("issue")
    if wildcard:
        values = by_tag.get("issuewild", values)
    return None if values is None else [read_issuer(value) for value in values]


def unknown_critical(policies: Iterable[Policy]) -> str:
    """The tag of a record that no authority may overlook and none may know, or ""."""
    return next((policy.tag for policy in policies if policy.critical and policy.tag not in _KNOWN), "")


@attrs.frozen
class Verdict:
    """Whether they let an authority issue, and why in words that go on behind "the CAA records of x.com"."""

    ok: bool
    why: str


def judge(
    policies: Sequence[Policy], wildcard: bool, identities: Collection[str], methods: Collection[str]
) -> Verdict:
    """Whether an authority that goes by one of `identities` may issue, by one of `methods` that we have."""
    unknown = unknown_critical(policies)
    if unknown:
        return Verdict(
            False, f"have the critical property {shortly(unknown)}, which authorities may not know"
        )
    allowed = issuers(policies, wildcard)
    if allowed is None:
        return Verdict(True, "forbid no authority")
    known = {identity.lower() for identity in identities}
    ours = [issuer for issuer in allowed if issuer.domain in known]
    if not ours:
        names = sorted({issuer.domain for issuer in allowed if issuer.domain})
        who = f"only {shortly(', '.join(names))}" if names else "nobody"
        tag = "issuewild" if wildcard and any(each.tag == "issuewild" for each in policies) else "issue"
        return Verdict(False, f"let {who} issue: add one that says: 0 {tag} {_example(identities)}")
    able = [issuer for issuer in ours if issuer.methods is None or not issuer.methods.isdisjoint(methods)]
    if not able:
        named = shortly(", ".join(sorted({each for issuer in ours for each in issuer.methods or ()})))
        return Verdict(False, f"let {ours[0].domain} issue by {named or 'nothing'} only (validationmethods)")
    return Verdict(True, _conditions(able))


def _example(identities: Collection[str]) -> str:
    return f'"{shortly(min(identities, default="the name of the authority"))}"'


def _conditions(able: Sequence[Issuer]) -> str:
    """What is demanded of all those that may issue: the least of them counts."""
    issuer = min(able, key=lambda each: (bool(each.account), each.methods is not None))
    said = f"let {issuer.domain} issue"
    if issuer.methods is not None:
        said += f", by {shortly(', '.join(sorted(issuer.methods)))} only (validationmethods)"
    if issuer.account:
        said += f", for the account {shortly(issuer.account)} only (accounturi)"
    return said
