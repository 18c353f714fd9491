"""The fast plane: the contract of every plane, what every site of ours promises, and what only it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.task import Clock

from onebackend_proxy import ProxySite

from .. import conformance
from ..conformance import ONE, Plane, new_plane
from . import test_site


def fast_site(resource: Any, clock: Clock) -> ProxySite:
    """A site whose connections begin on the fast plane."""
    return ProxySite(resource, clock, fast=resource)


class TestFastPlane(conformance.PlaneBehaviour):
    """Our own protocol."""

    upgrades = True

    def make_plane(self, urls: Sequence[str] = ONE) -> Plane:
        return new_plane(fast_site, urls)


class TestBadHeads(test_site.TestBadHeads):
    """As on the resource plane."""

    fast = True


class TestConnections(test_site.TestConnections):
    """As on the resource plane."""

    fast = True


class TestDraining(test_site.TestDraining):
    """As on the resource plane."""

    fast = True


class TestBufferedResources(test_site.TestBufferedResources):
    """As on the resource plane, which serves them."""

    fast = True


class TestAccessHook(test_site.TestAccessHook):
    """As on the resource plane."""

    fast = True


class TestClientsThatDoNotRead(test_site.TestClientsThatDoNotRead):
    """As on the resource plane."""

    fast = True


class TestLingering(test_site.TestLingering):
    """As on the resource plane."""

    fast = True


class TestOtherTrees(test_site.TestOtherTrees):
    """As on the resource plane, which serves them."""

    fast = True


class TestSlowRequests(test_site.TestSlowRequests):
    """As on the resource plane."""

    fast = True
