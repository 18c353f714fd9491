"""Records as the JSON that `@1backend/client` expects."""

from __future__ import annotations

import datetime
from typing import Any

from ..interfaces import InstanceView
from ..records import Account, App, Redirect, Route
from .accounts import Login

Json = dict[str, Any]


def rfc3339(moment: datetime.datetime) -> str:
    """The moment in UTC, to the millisecond that JavaScript's Date keeps."""
    utc = moment.astimezone(datetime.UTC).replace(tzinfo=None)
    return utc.isoformat(timespec="milliseconds") + "Z"


def route_json(route: Route) -> Json:
    """A Route."""
    return {"id": route.id, "target": route.target}


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
