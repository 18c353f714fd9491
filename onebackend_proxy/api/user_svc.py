"""``/user-svc``: logging in, registering, and asking who one is."""

from __future__ import annotations

import attrs

from .accounts import Accounts, Login
from .json_resource import Answer, Bearer, Call, Operation
from .shapes import account_json, app_json, login_json, rfc3339
from .values import Line, NewPassword, NonEmptyLine, Password, Slug

_NONE = Line("")

MAX_BODY = 64 * 1024
"""Bytes of a body here: anybody at all may send one, and none has much to say."""


@attrs.frozen
class LoginBody:
    """What ``POST /user-svc/login`` takes."""

    app_host: NonEmptyLine
    slug: str
    password: Password = attrs.field(repr=False)
    device: Line = _NONE


@attrs.frozen
class RegisterBody:
    """What ``POST /user-svc/register`` takes."""

    app_host: NonEmptyLine
    slug: Slug
    password: NewPassword = attrs.field(repr=False)
    name: Line = _NONE
    device: Line = _NONE


@attrs.frozen
class SelfBody:
    """What ``POST /user-svc/self`` may take."""

    count_tokens: bool = False


@attrs.frozen
class NoBody:
    """No field at all."""


def _token_answer(login: Login) -> Answer:
    return Answer(200, {"token": login_json(login)})


def user_operations(accounts: Accounts) -> list[Operation]:
    """The calls of user-svc over `accounts`."""

    async def login(call: Call) -> Answer:
        body = call.body(LoginBody)
        made = await accounts.login(body.slug, body.password, body.app_host, body.device, call.address)
        return _token_answer(made)

    async def register(call: Call) -> Answer:
        body = call.body(RegisterBody)
        made = await accounts.register(
            body.slug,
            body.name,
            body.password,
            body.app_host,
            body.device,
            caller=call.claims,
            address=call.address,
        )
        return _token_answer(made)

    async def refresh(call: Call) -> Answer:
        call.body(NoBody, optional=True)
        return _token_answer(await accounts.refresh(call.caller))

    async def read_self(call: Call) -> Answer:
        body = call.body(SelfBody, optional=True)
        found = await accounts.self(call.caller, body.count_tokens)
        return Answer(
            200,
            {
                "user": account_json(found.account),
                "roles": list(found.account.roles),
                "tokenCount": found.token_count,
            },
        )

    async def has_permission(call: Call) -> Answer:
        call.body(NoBody, optional=True)
        found = await accounts.has_permission(call.caller, call.argument)
        return Answer(
            200,
            {
                "authorized": found.authorized,
                "appId": found.app.id,
                "app": app_json(found.app),
                "until": rfc3339(found.until),
                "user": account_json(found.account),
            },
        )

    async def public_key(_call: Call) -> Answer:
        return Answer(200, {"publicKey": accounts.public_key})

    operations = [
        Operation(b"POST", ("login",), login, Bearer.IGNORED),
        Operation(b"POST", ("register",), register, Bearer.OPTIONAL),
        Operation(b"POST", ("refresh-token",), refresh, Bearer.EXPIRED_TOO),
        Operation(b"POST", ("self",), read_self),
        Operation(b"POST", ("self", "has", "*"), has_permission),
        Operation(b"GET", ("public-key",), public_key, Bearer.IGNORED),
    ]
    return [attrs.evolve(operation, max_body=MAX_BODY) for operation in operations]
