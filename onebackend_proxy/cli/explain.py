"""`oo explain`: what becomes of a request for a URL, in words."""

from __future__ import annotations

import http
from collections.abc import Mapping
from typing import Any

import click

from onebackend_proxy.cli.certs import moment
from onebackend_proxy.cli.client import one_line
from onebackend_proxy.cli.policy_words import policy_words
from onebackend_proxy.cli.rules import target_of
from onebackend_proxy.cli.shell import AliasedCommand, Settings, items_of, pass_settings, text_of

COLUMN = 15
Line = tuple[str, str]


@click.command("explain", cls=AliasedCommand)
@click.argument("address", metavar="URL")
@pass_settings
def explain(settings: Settings, address: str) -> None:
    """Tell which redirect or route matches URL, and where a request for it goes.

    URL is x.com/app or https://x.com/app, or /slug/path for a service. What is told, too: which others would
    have matched, how the instances are, which certificate is shown, and what port 80 does.
    """
    answer = settings.session().call("POST", "/proxy-svc/explain", {"url": address})
    settings.show(answer, explained(answer if isinstance(answer, dict) else {}))


def explained(told: Mapping[str, Any]) -> str:
    """Lay out an explanation for people."""
    lines: list[Line] = [("url", text_of(told, "url"))]
    found = told.get("match")
    match = found if isinstance(found, dict) else {}
    lines.append(("match", _rule(match) if match else "no redirect, route or service matches"))
    for loser in items_of(told, "lost"):
        lines.append(("", f"not {_rule(loser)}: {text_of(loser, 'why')}"))
    policy = policy_words(match)
    lines += zip(["policy", *[""] * len(policy)], policy, strict=False)
    unshown = "certificate" in told and not told["certificate"] and text_of(told, "url").startswith("https:")
    answer = "none: the TLS handshake is refused" if unshown else _answer(told.get("answer"), match)
    lines.append(("answer", answer))
    upstream = told.get("upstream")
    if isinstance(upstream, dict):
        lines += _upstream_lines(upstream)
    if told.get("edge") is False:
        lines.append(("edge", "off: nobody listens for this host (OB_EDGE_PROXY=true turns it on)"))
    if "certificate" in told:
        lines.append(("certificate", _certificate(told["certificate"])))
    if "port80" in told:
        lines.append(("port 80", _answer(told["port80"], match)))
    return "\n".join(f"{name.ljust(COLUMN)}{one_line(text)}" for name, text in lines)


def _rule(rule: Mapping[str, Any]) -> str:
    named = f"{text_of(rule, 'kind')} {text_of(rule, 'id')}"
    return f"{named} -> {target_of(rule)}" if text_of(rule, "kind") in ("redirect", "route") else named


def _answer(answer: Any, match: Mapping[str, Any]) -> str:
    if not isinstance(answer, dict):
        return "the built-in service's" if match.get("kind") == "built-in service" else "the service's"
    status = answer.get("status")
    try:
        said = f"{status} {http.HTTPStatus(int(str(status))).phrase}"
    except ValueError:
        said = str(status)
    if answer.get("location"):
        return f"{said}, to {answer['location']}"
    return f"{said}: {answer['error']}" if answer.get("error") else said


def _upstream_lines(upstream: Mapping[str, Any]) -> list[Line]:
    timeouts = upstream.get("timeouts")
    times = timeouts if isinstance(timeouts, dict) else {}
    how = (
        f"balance {text_of(upstream, 'balance')}, retries {text_of(upstream, 'retries')}, "
        f"connect {text_of(times, 'connect')}, first byte {text_of(times, 'firstByte')}, "
        f"idle {text_of(times, 'idle')}"
    )
    endpoints = items_of(upstream, "endpoints")
    width = max((len(text_of(each, "url")) for each in endpoints), default=0)
    return [("upstream", how), *(("", _endpoint(each, width)) for each in endpoints)]


def _endpoint(endpoint: Mapping[str, Any], width: int) -> str:
    said = (
        f"{text_of(endpoint, 'url').ljust(width)}   {text_of(endpoint, 'health')}, "
        f"weight {text_of(endpoint, 'weight')}, {text_of(endpoint, 'inFlight')} in flight, "
        f"{text_of(endpoint, 'failures')} failures in a row"
    )
    return (
        f"{said}, out of use for {text_of(endpoint, 'ejectedSeconds')} s" if endpoint.get("ejected") else said
    )


def _certificate(certificate: Any) -> str:
    if not isinstance(certificate, dict):
        return "none: a handshake ends with the alert unrecognized_name (why: oo certs check HOST)"
    days = certificate.get("daysLeft")
    return (
        f"{text_of(certificate, 'id')} by {text_of(certificate, 'issuer')}, "
        f"until {moment(dict(certificate), 'notAfter')} ({days} day{'' if days == 1 else 's'})"
    )
