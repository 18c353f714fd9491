"""What the store keeps: routes, redirects, instances, accounts, apps and tokens.

All are frozen descriptions. Times are aware datetimes in UTC; they become RFC 3339 at the API.
"""

from __future__ import annotations

import datetime

import attrs

MAX_APPS = 1000
"""Apps that a store keeps: anybody who may log in can name new ones."""
ADMIN_SLUG = "1backend"
ADMIN_ROLE = "user-svc:admin"
USER_ROLE = "user-svc:user"

BUILT_IN_SLUGS = ("user-svc", "registry-svc", "proxy-svc")
"""The services that the proxy itself is: no instance can be registered for them."""


@attrs.frozen
class WeightedTarget:
    """One of several targets of a Route (a URL, see `addresses.check_target`) and its share."""

    url: str
    weight: int = 1


@attrs.frozen
class RouteTimeouts:
    """Seconds, as in `balancing.Timeouts`; None is what the program's settings say."""

    connect: float | None = None
    first_byte: float | None = None
    idle: float | None = None


@attrs.frozen
class BasicUser:
    """Somebody who may come in with a password; `password_hash` is in a format of `passwords`."""

    user: str
    password_hash: str = attrs.field(repr=False)


@attrs.frozen
class ForwardAuth:
    """Who else is asked whether a request may come in: a service's `url`.

    When it says yes (2xx), these fields of its answer take the place of the request's own.
    """

    url: str
    copy_headers: tuple[str, ...] = ()


@attrs.frozen
class Access:
    """Who may come in. `allow` and `deny` are canonical CIDRs: deny goes first; no `allow` is everyone."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    basic_auth: tuple[BasicUser, ...] = ()
    forward_auth: ForwardAuth | None = None


ALL_WELCOME = Access()


@attrs.frozen
class RateLimit:
    """As many as `requests` in `per` seconds, evenly, and besides `burst` more at once.

    Without a `burst` all of `requests` may come at once. `by` says whose: ``ip`` (each client address),
    ``header:<name>`` (each value of it), ``route`` (all).
    """

    requests: int
    per: float = 1.0
    burst: int | None = None
    by: str = "ip"


@attrs.frozen
class FieldEdits:
    """Header fields to take out, and then to set; values may have placeholders (`policies.editing`)."""

    set: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()


@attrs.frozen
class HeaderEdits:
    """What changes in the heads of requests, on their way to the service, and of answers, to the client."""

    request: FieldEdits = FieldEdits()
    response: FieldEdits = FieldEdits()


@attrs.frozen
class Pause:
    """Maintenance: every request is answered 503, with `message` on the page.

    Clients are told to come again after `retry_after` seconds.
    """

    retry_after: float = 60.0
    message: str = ""


@attrs.frozen
class Policy:
    """What the front desk does with the requests of a Route, or of a service; all of it may be nothing.

    `error_pages` are (status, as ``503``, or class, as ``5xx``; HTML) for our own errors, and with
    `intercept_errors` for the service's too. `request_body_limit` is in bytes, 0 is no limit, and None what
    the settings say.
    """

    strip_prefix: bool = False
    access: Access = ALL_WELCOME
    rate_limit: RateLimit | None = None
    request_body_limit: int | None = None
    headers: HeaderEdits = HeaderEdits()
    compress: bool = False
    cache: bool = False
    error_pages: tuple[tuple[str, str], ...] = ()
    intercept_errors: bool = False
    paused: Pause | None = None


NO_POLICY = Policy()


def _one_nothing(policy: Policy) -> Policy:
    """So that it is enough to ask whether a policy is `NO_POLICY`."""
    return NO_POLICY if policy == NO_POLICY else policy


@attrs.frozen
class Route:
    """Requests for `id` (canonical host, optionally with a path prefix) go to `target` (a URL).

    In its place there may be several `targets`. `balance` is a word of `balancing.Balance`; "" and None are
    what the program's settings say. An id of ``/<slug>`` is for what comes for this service on the service
    side: it has no target, and the instances are the registry's.
    """

    id: str
    target: str = ""
    targets: tuple[WeightedTarget, ...] = ()
    balance: str = ""
    timeouts: RouteTimeouts = RouteTimeouts()
    retries: int | None = None
    tls_insecure_skip_verify: bool = False
    policy: Policy = attrs.field(default=NO_POLICY, converter=_one_nothing)


@attrs.frozen
class Redirect:
    """Requests for `id` are answered with `status_code` and a location built on `target`."""

    id: str
    target: str
    status_code: int = 308


@attrs.frozen
class Instance:
    """One address (`url`, canonical) that serves the service `slug`.

    The parts (`scheme`, `host`, `ip`, `port`, `path`) are kept beside the URL because the API
    lists and filters by them; `path` is ``""`` or begins with a slash.
    """

    id: str
    slug: str
    url: str
    scheme: str
    host: str
    port: int
    ip: str = ""
    path: str = ""
    deployment_id: str = ""


@attrs.frozen
class Certificate:
    """A certificate for `names`: canonical host names (``*.`` may stand before one) and IP addresses.

    `chain` is PEM, the leaf first; `private_key` is PEM (PKCS 8), and empty wherever it is only listed.
    `serial` is in hexadecimal, upper case. `directory` is the URL of the ACME directory that it was ordered
    from, and "" for one that somebody has saved: that is theirs to renew.
    """

    id: str
    names: tuple[str, ...]
    chain: str
    private_key: str = attrs.field(repr=False)
    common_name: str
    issuer: str
    serial: str
    not_before: datetime.datetime
    not_after: datetime.datetime
    created_at: datetime.datetime
    updated_at: datetime.datetime
    directory: str = ""


@attrs.frozen
class Issuance:
    """What is known of the orders for one name's certificate, kept across restarts and for all processes.

    `failures` are those in a row since the last success: the last one was at `tried_at`, in the authority's
    words (`problem`), at `directory`. It is tried again at `retry_at`, and by nobody before `not_before`,
    which the authority asked for. `challenge` is the kind that worked last. The other fields are what the
    authority says on when to renew the certificate with this `serial` (RFC 9773), and when to ask it again.
    """

    name: str
    failures: int = 0
    failing_since: datetime.datetime | None = None
    tried_at: datetime.datetime | None = None
    problem: str = ""
    directory: str = ""
    retry_at: datetime.datetime | None = None
    not_before: datetime.datetime | None = None
    challenge: str = ""
    serial: str = ""
    window_start: datetime.datetime | None = None
    window_end: datetime.datetime | None = None
    ask_at: datetime.datetime | None = None
    explanation_url: str = ""


@attrs.frozen
class Challenge:
    """The proof that a name is ours, while an authority may ask for it (RFC 8555, 8).

    `kind` is ``http-01`` or ``tls-alpn-01``, `name` a canonical host, `answer` the key authorization.
    """

    kind: str
    name: str
    token: str
    answer: str
    expires_at: datetime.datetime


@attrs.frozen
class Account:
    """Who may log in; `password_hash` is in the format of `onebackend_proxy.passwords`."""

    id: str
    slug: str
    name: str
    password_hash: str = attrs.field(repr=False)
    roles: tuple[str, ...]
    created_at: datetime.datetime
    updated_at: datetime.datetime


@attrs.frozen
class App:
    """An application that accounts log in to, known by its host (1Backend's default: ``unnamed``)."""

    id: str
    host: str


@attrs.frozen
class Token:
    """One login of an account on a device; the signed JWT that carries `id` is not kept."""

    id: str
    app_id: str
    account_id: str
    device: str
    created_at: datetime.datetime
    updated_at: datetime.datetime
    expires_at: datetime.datetime
