"""The policy of a Route in words, by the names of its fields; no value that may be a secret is shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from onebackend_proxy.cli.shell import items_of, text_of


def policy_words(rule: Mapping[str, Any]) -> list[str]:
    """Tell what is set of a policy among the fields of a Route, a line for each thing."""
    lines = [*_paused(rule), *_access(_part(rule, "access")), *_rate_limit(_part(rule, "rateLimit"))]
    if rule.get("requestBodyLimit") is not None:
        lines.append(f"requestBodyLimit {rule['requestBodyLimit']}")
    for side in ("request", "response"):
        edits = _part(_part(rule, "headers"), side)
        told = [f"{verb} {_list(edits[verb])}" for verb in ("set", "remove") if edits.get(verb)]
        if told:
            lines.append(f"{side} headers: {'; '.join(told)}")
    if rule.get("errorPages"):
        lines.append(f"errorPages for {_list(rule['errorPages'])}")
    switches = [name for name in ("stripPrefix", "compress", "cache", "interceptErrors") if rule.get(name)]
    return [*lines, ", ".join(switches)] if switches else lines


def _paused(rule: Mapping[str, Any]) -> Iterable[str]:
    pause = _part(rule, "paused")
    if pause:
        message = f": {pause['message']}" if pause.get("message") else ""
        yield f"paused, Retry-After {text_of(pause, 'retryAfter')}{message}"


def _access(access: Mapping[str, Any]) -> Iterable[str]:
    for name in ("allow", "deny"):
        if access.get(name):
            yield f"{name} {_list(access[name])}"
    users = items_of(access, "basicAuth")
    if users:
        yield f"basicAuth for {_list(text_of(each, 'user') for each in users)}"
    forward = _part(access, "forwardAuth")
    if forward:
        copied = forward.get("copyHeaders")
        yield f"forwardAuth asks {text_of(forward, 'url')}" + (f", copies {_list(copied)}" if copied else "")


def _rate_limit(limit: Mapping[str, Any]) -> Iterable[str]:
    if limit:
        requests, per, by = (text_of(limit, name) for name in ("requests", "per", "by"))
        burst = f", burst {limit['burst']}" if limit.get("burst") is not None else ""
        yield f"rateLimit {requests} in {per} by {by}{burst}"


def _part(of: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = of.get(name)
    return found if isinstance(found, dict) else {}


def _list(items: Iterable[Any]) -> str:
    return ", ".join(map(str, items))
