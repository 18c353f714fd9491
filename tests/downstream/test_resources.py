"""The resource in somebody else's Site, and how paths find services."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.task import Clock
from twisted.web.resource import IResource
from twisted.web.server import Site

from .. import conformance
from ..conformance import ONE, Plane, new_plane


def stock_site(resource: IResource, clock: Clock) -> Site:
    """A Site that knows nothing of us."""
    return Site(resource, reactor=clock)


class TestStockSite(conformance.PlaneBehaviour):
    """twisted.web's own channel, which gives us requests whole."""

    streams = False

    def make_plane(self, urls: Sequence[str] = ONE) -> Plane:
        return new_plane(stock_site, urls)
