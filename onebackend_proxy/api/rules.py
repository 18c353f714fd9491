"""Routes and Redirects as the API takes them, checked."""

from __future__ import annotations

from typing import ClassVar

import attrs

from ..records import Redirect, Route, RouteTimeouts, WeightedTarget
from .validation import (
    BalanceWord,
    CanonicalId,
    RedirectCode,
    RedirectTarget,
    Retries,
    Seconds,
    Target,
    Weight,
    wrong,
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


@attrs.frozen
class RouteInput:
    """One Route of a save: what is left out, or null, is what the settings say."""

    MAX_ITEMS: ClassVar[int] = MAX_RULES

    id: CanonicalId
    target: Target | None = None
    targets: list[TargetInput] | None = None
    balance: BalanceWord | None = None
    timeouts: TimeoutsInput | None = None
    retries: Retries | None = None
    tls_insecure_skip_verify: bool | None = None

    def __attrs_post_init__(self) -> None:
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
class SaveRedirectsBody:
    """What ``PUT /proxy-svc/redirects`` takes."""

    redirects: list[RedirectInput]

    def records(self) -> list[Redirect]:
        """What is kept."""
        return [entry.record() for entry in self.redirects]
