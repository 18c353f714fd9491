"""The policy of a Route as the API takes it, checked, and as it shows it."""

from __future__ import annotations

import operator
from typing import Any

import attrs

from ..records import (
    NO_POLICY,
    Access,
    BasicUser,
    FieldEdits,
    ForwardAuth,
    HeaderEdits,
    Pause,
    Policy,
    RateLimit,
)
from ..units import shown_seconds, shown_size
from .policy_values import (
    AuthUrl,
    Burst,
    Cidr,
    ErrorPages,
    Message,
    PasswordHash,
    RequestField,
    RequestFields,
    Requests,
    ResponseField,
    ResponseFields,
    Size,
    UserName,
    Whose,
)
from .validation import add_rules, part, wrong
from .values import Seconds

MAX_COPIED = 100
"""Header fields that forwardAuth may copy."""


@attrs.frozen
class UserInput:
    """One user of basicAuth."""

    user: UserName
    password_hash: PasswordHash = attrs.field(repr=False)


@attrs.frozen
class ForwardAuthInput:
    """Who else is asked, and which header fields of its answer the service gets."""

    url: AuthUrl
    copy_headers: list[RequestField] | None = None

    def __attrs_post_init__(self) -> None:
        if len(self.copy_headers or ()) > MAX_COPIED:
            raise wrong("copy_headers", f"has more than {MAX_COPIED} items")

    def record(self) -> ForwardAuth:
        """What is kept."""
        return ForwardAuth(self.url, tuple(self.copy_headers or ()))


@attrs.frozen
class AccessInput:
    """Who may come in."""

    allow: list[Cidr] | None = None
    deny: list[Cidr] | None = None
    basic_auth: list[UserInput] | None = None
    forward_auth: ForwardAuthInput | None = None

    def __attrs_post_init__(self) -> None:
        # Does a list with nobody on it let nobody in, or everybody? It is not guessed.
        if self.allow == []:
            raise wrong("allow", "is empty: leave it out to let everybody in")
        if self.basic_auth == []:
            raise wrong("basic_auth", "is empty: leave it out to ask for no password")
        names: dict[str, int] = {}
        for index, each in enumerate(self.basic_auth or ()):
            first = names.setdefault(each.user, index)
            if first != index:
                raise wrong(f"basic_auth[{index}].user", f"is the user of basicAuth[{first}] too")

    def record(self) -> Access:
        """What is kept."""
        users = tuple(BasicUser(each.user, each.password_hash) for each in self.basic_auth or ())
        return Access(
            tuple(dict.fromkeys(self.allow or ())),
            tuple(dict.fromkeys(self.deny or ())),
            users,
            self.forward_auth.record() if self.forward_auth else None,
        )


@attrs.frozen
class RateLimitInput:
    """How often somebody may come."""

    requests: Requests
    per: Seconds | None = None
    burst: Burst | None = None
    by: Whose | None = None

    def record(self) -> RateLimit:
        """What is kept."""
        given = {"per": self.per, "by": self.by}
        return RateLimit(self.requests, burst=self.burst, **_set(given))


@attrs.frozen
class RequestEditsInput:
    """What changes in the heads of requests."""

    set: RequestFields | None = None
    remove: list[RequestField] | None = None


@attrs.frozen
class ResponseEditsInput:
    """What changes in the heads of answers."""

    set: ResponseFields | None = None
    remove: list[ResponseField] | None = None


@attrs.frozen
class HeadersInput:
    """What changes in heads."""

    request: RequestEditsInput | None = None
    response: ResponseEditsInput | None = None

    def record(self) -> HeaderEdits:
        """What is kept."""
        return HeaderEdits(_edits(self.request), _edits(self.response))


def _edits(given: RequestEditsInput | ResponseEditsInput | None) -> FieldEdits:
    if given is None:
        return FieldEdits()
    return FieldEdits(tuple((given.set or {}).items()), tuple(given.remove or ()))


@attrs.frozen
class PauseInput:
    """For how long about, and what people are told."""

    retry_after: Seconds | None = None
    message: Message | None = None

    def record(self) -> Pause:
        """What is kept."""
        return Pause(**_set({"retry_after": self.retry_after, "message": self.message}))


def _pause(value: object) -> Pause | None:
    if isinstance(value, bool):
        return Pause() if value else None
    if not isinstance(value, dict):
        raise ValueError("expected true, false or an object")
    return part(PauseInput, value).record()


add_rules({Pause: _pause})


@attrs.frozen(kw_only=True)
class PolicyInput:
    """The fields of a policy, among the others of a Route: what is left out, or null, is not set."""

    strip_prefix: bool | None = None
    access: AccessInput | None = None
    rate_limit: RateLimitInput | None = None
    request_body_limit: Size | None = None
    headers: HeadersInput | None = None
    compress: bool | None = None
    cache: bool | None = None
    error_pages: ErrorPages | None = None
    intercept_errors: bool | None = None
    paused: Pause | None = None

    def policy(self) -> Policy:
        """What is kept."""
        if all(given is None for given in _given(self)):
            # Of hundreds of thousands in a save most have none.
            return NO_POLICY
        return Policy(
            strip_prefix=bool(self.strip_prefix),
            access=self.access.record() if self.access else Access(),
            rate_limit=self.rate_limit.record() if self.rate_limit else None,
            request_body_limit=self.request_body_limit,
            headers=self.headers.record() if self.headers else HeaderEdits(),
            compress=bool(self.compress),
            cache=bool(self.cache),
            error_pages=tuple((self.error_pages or {}).items()),
            intercept_errors=bool(self.intercept_errors),
            paused=self.paused,
        )


_given = operator.attrgetter(*(field.name for field in attrs.fields(PolicyInput)))


def _set(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _filled(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}


def policy_json(policy: Policy) -> dict[str, Any]:
    """The fields of a policy that are set, in the form in which they can be saved again."""
    if policy is NO_POLICY:
        return {}
    shape = {
        "stripPrefix": policy.strip_prefix,
        "access": _access_json(policy.access),
        "rateLimit": policy.rate_limit and _rate_limit_json(policy.rate_limit),
        "requestBodyLimit": None
        if policy.request_body_limit is None
        else shown_size(policy.request_body_limit),
        "headers": _filled(
            {"request": _edits_json(policy.headers.request), "response": _edits_json(policy.headers.response)}
        ),
        "compress": policy.compress,
        "cache": policy.cache,
        "errorPages": dict(policy.error_pages),
        "interceptErrors": policy.intercept_errors,
        "paused": policy.paused and _pause_json(policy.paused),
    }
    return _filled(shape)


def _access_json(access: Access) -> dict[str, Any]:
    forward = access.forward_auth
    return _filled(
        {
            "allow": list(access.allow),
            "deny": list(access.deny),
            "basicAuth": [
                {"user": each.user, "passwordHash": each.password_hash} for each in access.basic_auth
            ],
            "forwardAuth": forward
            and _filled({"url": forward.url, "copyHeaders": list(forward.copy_headers)}),
        }
    )


def _rate_limit_json(limit: RateLimit) -> dict[str, Any]:
    shape = {
        "requests": limit.requests,
        "per": shown_seconds(limit.per),
        "burst": limit.burst,
        "by": limit.by,
    }
    return _set(shape)


def _edits_json(edits: FieldEdits) -> dict[str, Any]:
    return _filled({"set": dict(edits.set), "remove": list(edits.remove)})


def _pause_json(pause: Pause) -> dict[str, Any]:
    return {"retryAfter": shown_seconds(pause.retry_after), **_filled({"message": pause.message})}
