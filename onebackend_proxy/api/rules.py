"""Routes and Redirects as the API takes them, checked."""

from __future__ import annotations

from typing import ClassVar

import attrs

from ..records import Redirect, Route, RouteTimeouts, WeightedTarget
from .policy import PolicyInput
from .validation import wrong
from .values import (
    BalanceWord,
    CanonicalId,
    RedirectCode,
    RedirectTarget,
    Retries,
    RouteId,
    Seconds,
    Target,
    Weight,
)

MAX_RULES = 200_000
"""Routes or Redirects of one save: all there are can be moved to another proxy, all or nothing."""
MAX_TARGETS = 1000
"""Targets of one Route: as many as a service may have instances."""
_PERMANENT = RedirectCode(308)
_ONCE = Weight(1)


@attrs.frozen
class TargetInput:
    """One of several targets of a Route."""

    url: Target
    weight: Weight = _ONCE


@attrs.frozen
class TimeoutsInput:
    """The time-outs of a Route, where they are not those of the settings."""

    connect: Seconds | None = None
    first_byte: Seconds | None = None
    idle: Seconds | None = None


@attrs.frozen(kw_only=True)
class RouteInput(PolicyInput):
    """One Route of a save: what is left out, or null, is what the settings say."""

    MAX_ITEMS: ClassVar[int] = MAX_RULES

    id: RouteId
    target: Target | None = None
    targets: list[TargetInput] | None = None
    balance: BalanceWord | None = None
    timeouts: TimeoutsInput | None = None
    retries: Retries | None = None
    tls_insecure_skip_verify: bool | None = None

    def __attrs_post_init__(self) -> None:
        if self.id.startswith("/"):
            self._check_service()
        else:
            self._check_targets()
        if self.strip_prefix and "/" not in self.id:
            raise wrong("strip_prefix", "the id has no path prefix that could be taken off")

    def _check_service(self) -> None:
        given = {
            "target": self.target,
            "targets": self.targets,
            "tls_insecure_skip_verify": self.tls_insecure_skip_verify,
        }
        for name, value in given.items():
            if value is not None:
                raise wrong(name, "is not for a service: its instances are those of the registry")

    def _check_targets(self) -> None:
        if self.targets is None:
            if self.target is None:
                raise wrong("target", "is missing")
        elif self.target is not None:
            raise wrong("targets", "cannot stand beside target")
        elif not self.targets:
            raise wrong("targets", "is empty")
        elif len(self.targets) > MAX_TARGETS:
            raise wrong("targets", f"has more than {MAX_TARGETS} items")

    def record(self) -> Route:
        """What is kept."""
        timeouts = RouteTimeouts() if self.timeouts is None else RouteTimeouts(**attrs.asdict(self.timeouts))
        return Route(
            self.id,
            self.target or "",
            tuple(WeightedTarget(target.url, target.weight) for target in self.targets or ()),
            self.balance or "",
            timeouts,
            self.retries,
            bool(self.tls_insecure_skip_verify),
            self.policy(),
        )


@attrs.frozen
class RedirectInput:
    """One Redirect of a save."""

    MAX_ITEMS: ClassVar[int] = MAX_RULES

    id: CanonicalId
    target: RedirectTarget
    status_code: RedirectCode = _PERMANENT

    def record(self) -> Redirect:
        """What is kept."""
        return Redirect(self.id, self.target, self.status_code)


@attrs.frozen
class SaveRoutesBody:
    """What ``PUT /proxy-svc/routes`` takes."""

    routes: list[RouteInput]

    def records(self) -> list[Route]:
        """What is kept."""
        return [entry.record() for entry in self.routes]


@attrs.frozen
class ListRoutesBody:
    """What a listing of Routes may take: only these ids, if there are any."""

    ids: list[RouteId] = attrs.field(factory=list)


@attrs.frozen
class DeleteRoutesBody:
    """What a deletion of Routes takes."""

    ids: list[RouteId]


@attrs.frozen
class SaveRedirectsBody:
    """What ``PUT /proxy-svc/redirects`` takes."""

    redirects: list[RedirectInput]

    def records(self) -> list[Redirect]:
        """What is kept."""
        return [entry.record() for entry in self.redirects]
