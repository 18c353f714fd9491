"""Rules for a path below a wildcard, below a prefix that is taken off, and around a path without rules."""

from __future__ import annotations

import pytest

from .guarded import NOBODY, WAYS, Guarded
from .policies import door_to, is_admin, readings

pytestmark = pytest.mark.once

BELOW = [way for way in WAYS if way.startswith(b"/")]


def test_below_a_wildcard(desk, front):
    with door_to("edge", desk, front) as door:
        desk.route(f"*.{door.name}", door.url)
        desk.route(f"*.{door.name}/admin", door.url, access={"allow": [NOBODY]})
        guarded = Guarded(door, desk)
        host = b"a." + guarded.host
        assert guarded.get(b"/x", host) == [200]
        for way in WAYS:
            for name in (host, host.upper(), b"b." + guarded.host + b".:80"):
                [status] = guarded.get(way, name) or [0]
                assert (way, status) in {(way, 400), (way, 403), (way, 404)} or not is_admin(way)
        guarded.assert_nothing_passed()


def test_rules_of_a_wildcard_where_the_exact_host_has_none(desk, front):
    """The longest prefix of the host itself is what counts: the wildcard's rules are for other hosts."""
    with door_to("edge", desk, front) as door:
        desk.route(f"*.{door.name}", door.url, access={"allow": [NOBODY]})
        desk.route(f"open.{door.name}", door.url)
        guarded = Guarded(door, desk)
        for host in (b"open.", b"OPEN.", b"Open."):
            assert guarded.get(b"/x", host + guarded.host) == [200]
        for host in (b"a.", b"xopen.", b"open_.", b"open-."):
            assert guarded.get(b"/x", host + guarded.host)[0] in (400, 403, 404)


def test_below_a_prefix_that_is_taken_off(desk, front):
    """The service sees ``/admin`` for ``/pub/admin``, for which there are rules."""
    with door_to("edge", desk, front) as door:
        desk.api.ok("DELETE", "/proxy-svc/routes", {"ids": [door.name]})
        desk.route(f"{door.name}/pub", door.url, stripPrefix=True)
        desk.route(f"{door.name}/pub/admin", door.url, access={"allow": [NOBODY]})
        guarded = Guarded(door, desk)
        assert guarded.get(b"/pub/x") == [200]
        for way in BELOW:
            for prefix in (b"/pub", b"/%70ub", b"//pub", b"/x/../pub", b"/pub/pub/.."):
                guarded.get(prefix + way)
                assert (prefix + way, [one for one in door.service.targets if is_admin(one)]) == (
                    prefix + way,
                    [],
                )


@pytest.mark.parametrize("open_too", [False, True])
def test_around_a_path_without_rules(desk, front, open_too):
    """``/admin/public`` is open, and leads to nothing else below ``/admin``."""

    def is_hidden(target: bytes) -> bool:
        return any(
            path == b"/admin"
            or (path.startswith(b"/admin/") and not (path + b"/").startswith(b"/admin/public/"))
            for path in readings(target)
        )

    with door_to("edge", desk, front) as door:
        if not open_too:
            desk.api.ok("DELETE", "/proxy-svc/routes", {"ids": [door.name]})
        desk.route(f"{door.name}/admin", door.url, access={"allow": [NOBODY]})
        desk.route(f"{door.name}/admin/public", door.url)
        guarded = Guarded(door, desk)
        assert guarded.get(b"/admin/public/x") == [200]
        for dots in (
            b"..",
            b"%2e%2e",
            b".%2e",
            b"..;",
            b"..;x=y",
            b"..%3b",
            b".. ",
            b"..%20",
            b"...",
            b"..%00",
        ):
            for slash in (b"/", b"//", b"%2f", b"%2F", b"\\", b"%5c", b"/./"):
                for target in (
                    b"/admin/public" + slash + dots + slash + b"users",
                    b"/admin/public" + slash + dots,
                    b"/admin/public/x" + slash + dots + slash + dots + slash + b"users",
                    b"/admin" + slash + b"public" + slash + dots,
                ):
                    guarded.get(target)
                    hidden = [one for one in door.service.targets if is_hidden(one)]
                    assert (target, hidden) == (target, [])
