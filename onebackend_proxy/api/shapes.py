"""Records as the JSON that `@1backend/client` expects."""

from __future__ import annotations

import datetime
from typing import Any

import attrs

from ..interfaces import InstanceView
from ..records import Account, App, Redirect, Route, WeightedTarget
from ..units import shown_seconds
from .accounts import Login
from .policy import policy_json
from .validation import camel

Json = dict[str, Any]


def rfc3339(moment: datetime.datetime) -> str:
    """The moment in UTC, to the millisecond that JavaScript's Date keeps."""
    utc = moment.astimezone(datetime.UTC).replace(tzinfo=None)
    return utc.isoformat(timespec="milliseconds") + "Z"


def route_json(route: Route) -> Json:
    """A Route: what is not set is left out."""
    shape: Json = {"id": route.id}
    if route.targets:
        shape["targets"] = [_target_json(target) for target in route.targets]
    elif route.target:
        shape["target"] = route.target
    if route.balance:
        shape["balance"] = route.balance
    timeouts = {
        camel(name): shown_seconds(seconds)
        for name, seconds in attrs.asdict(route.timeouts).items()
        if seconds is not None
    }
    if timeouts:
        shape["timeouts"] = timeouts
    if route.retries is not None:
        shape["retries"] = route.retries
    if route.tls_insecure_skip_verify:
        shape["tlsInsecureSkipVerify"] = True
    return shape | policy_json(route.policy)


def _target_json(target: WeightedTarget) -> Json:
    return {"url": target.url} if target.weight == 1 else {"url": target.url, "weight": target.weight}


def redirect_json(redirect: Redirect) -> Json:
    """A Redirect."""
    return {"id": redirect.id, "target": redirect.target, "statusCode": redirect.status_code}


def account_json(account: Account) -> Json:
    """A user, as 1Backend calls accounts."""
    return {
        "id": account.id,
        "slug": account.slug,
        "name": account.name,
        "createdAt": rfc3339(account.created_at),
        "updatedAt": rfc3339(account.updated_at),
    }


def app_json(app: App) -> Json:
    """An App."""
    return {"id": app.id, "host": app.host}


def login_json(login: Login) -> Json:
    """The token just issued, JWT included."""
    token = login.token
    return {
        "id": token.id,
        "token": login.jwt,
        "appId": token.app_id,
        "userId": token.account_id,
        "device": token.device,
        "createdAt": rfc3339(token.created_at),
        "updatedAt": rfc3339(token.updated_at),
        "expiresAt": rfc3339(token.expires_at),
        "active": True,
    }


def instance_json(view: InstanceView) -> Json:
    """An Instance with its status; what is unknown or empty is left out."""
    instance = view.instance
    shape: Json = {
        "id": instance.id,
        "url": instance.url,
        "slug": instance.slug,
        "scheme": instance.scheme,
        "host": instance.host,
        "port": instance.port,
        "status": view.status,
    }
    optional = {
        "ip": instance.ip,
        "path": instance.path,
        "deploymentId": instance.deployment_id,
        "lastHeartbeat": rfc3339(view.last_heartbeat) if view.last_heartbeat else "",
        "details": view.details,
    }
    return shape | {name: text for name, text in optional.items() if text}
