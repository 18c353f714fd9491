"""Certificates that nobody asks for: ordered from a real pebble by a real proxy."""

from __future__ import annotations

import datetime
import ssl
import time

import pytest

from ..nameserver import start_nameserver
from ..pebble import DAY
from .acme import (
    SOON,
    AcmeEdge,
    all_at_once,
    asked_for,
    closed_port,
    joining,
    ordering,
    orders,
    seconds_since,
)
from .edge import shown_serial
from .waiting import wait_until

pytestmark = pytest.mark.once

EAB_KEY = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"


@pytest.mark.parametrize("version", ["newest", "debian"])
def test_a_saved_route_is_served_over_https_within_seconds(version, tmp_path, capsys):
    with ordering(tmp_path, pebble={"version": version}) as (edge, pebble, backend):
        began = time.monotonic()
        saved = edge.oo("routes", "save", "--id", "x.test", "--target", backend.url)
        assert saved.returncode == 0, saved.stderr
        to_save = seconds_since(began)
        # The handshake waits for the order, so that the first one may do.
        wait_until(lambda: edge.serves("x.test"), f"https://x.test/\n{edge.log()}", SOON)
        took = time.monotonic() - began
        with capsys.disabled():
            print(f"\npebble ({version}): {took:.2f} s from `oo routes save` (which took {to_save}) to https")
        assert took < 10
        assert orders(pebble) == 1
        assert asked_for(pebble) == {"x.test"}
        listed = edge.api.ok("POST", "/proxy-svc/certs", {"ids": ["x.test"]})["certs"]
        assert [cert["id"] for cert in listed] == ["x.test"]


def test_without_any_client_all_hosts_of_routes_get_theirs(tmp_path):
    """Also one that has only routes with paths; each host once, and nothing for local names."""
    with ordering(tmp_path) as (edge, pebble, backend):
        ids = ["plain.test", "paths.test/app", "paths.test/shop/x", "app.localhost", "127.0.0.1"]
        routes = [{"id": id, "target": backend.url} for id in ids]
        edge.api.ok("PUT", "/proxy-svc/routes", {"routes": routes})
        wait_until(lambda: certified(edge) == {"plain.test", "paths.test"}, "both have a certificate", SOON)
        assert edge.serves("paths.test", "/app/x")
        assert edge.curl("https://paths.test/other").status == 404
        assert orders(pebble) == 2
        # Certificates outlive their process.
        serial = edge.serial("plain.test")
        edge.stop()
        edge.start()
        assert edge.serial("plain.test") == serial
        assert orders(pebble) == 2


def certified(edge: AcmeEdge) -> set[str]:
    return {cert["id"] for cert in edge.api.ok("POST", "/proxy-svc/certs", {})["certs"]}


def test_twenty_handshakes_at_once_make_one_order(tmp_path):
    """Below a wildcard nothing is ordered before somebody comes; for other hosts never."""
    with ordering(tmp_path) as (edge, pebble, backend):
        edge.route("*.wild.test", backend.url)
        serials = all_at_once(edge, "a.wild.test")
        assert len(serials) == 20
        assert len(set(serials)) == 1 and 0 not in serials, serials
        assert edge.serves("a.wild.test")
        assert orders(pebble) == 1
        for stranger in ("strange.test", "wild.test", "a.b.wild.test", "wild.test.evil.test"):
            with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
                shown_serial(edge.https_port, stranger)
        assert edge.serial("a.wild.test") == serials[0]
        assert orders(pebble) == 1
        assert asked_for(pebble) == {"a.wild.test"}


def test_where_port_80_is_closed_the_proof_is_on_port_443(tmp_path):
    with ordering(tmp_path, pebble={"http_port": closed_port()}) as (edge, pebble, backend):
        edge.route("x.test", backend.url)
        edge.wait_until_served("x.test")
        # The first one failed.
        assert orders(pebble) == 2
        assert edge.trouble("x.test") is None


def test_an_account_that_must_be_bound_to_another(tmp_path):
    binding = ("--acme-eab-kid", "kid-1", "--acme-eab-hmac-key", EAB_KEY)
    with ordering(tmp_path, *binding, pebble={"eab_keys": {"kid-1": EAB_KEY}}) as (edge, pebble, backend):
        edge.route("x.test", backend.url)
        edge.wait_until_served("x.test")
        assert "kid-1" in pebble.log()
        assert EAB_KEY not in edge.log()


def test_without_the_binding_it_says_what_is_missing(tmp_path):
    with ordering(tmp_path, pebble={"eab_keys": {"kid-1": EAB_KEY}}) as (edge, pebble, backend):
        edge.route("x.test", backend.url)
        assert "externalAccountBinding" in edge.wait_for_trouble("x.test")["problem"]
        assert orders(pebble) == 0


def test_a_profile_where_the_directory_has_it(tmp_path):
    pebble = {"version": "newest", "validity": {"default": 90 * DAY, "shortlived": 6 * DAY}}
    with ordering(tmp_path, "--acme-profile", "shortlived", pebble=pebble) as (edge, _, backend):
        edge.route("x.test", backend.url)
        edge.wait_until_served("x.test")
        shown = edge.shown("x.test")
        assert shown is not None
        life = shown.not_valid_after_utc - shown.not_valid_before_utc
        assert datetime.timedelta(days=5) < life <= datetime.timedelta(days=6)


def test_two_processes_on_one_folder_order_each_name_once(tmp_path):
    """The one that is asked for the proof need not be the one that ordered, nor know of the Route."""
    second = AcmeEdge(tmp_path)
    with ordering(tmp_path, pebble=second.ports) as (edge, pebble, backend), joining(second, pebble) as other:
        hosts = [f"x.site-{number}.test" for number in range(10)]
        routes = [{"id": host, "target": backend.url} for host in hosts]
        edge.api.ok("PUT", "/proxy-svc/routes", {"routes": routes})
        wait_until(lambda: certified(edge) == {*hosts}, "all ten have a certificate", 2 * SOON)
        edge.wait_until_served(*hosts)
        other.wait_until_served(*hosts)
        assert [edge.serial(host) for host in hosts] == [other.serial(host) for host in hosts]
        # Longer than the pause between two looks at what is due.
        time.sleep(6)
        assert orders(pebble) == 10
        assert asked_for(pebble) == {*hosts}
        assert "ordering a certificate" in edge.log()


def test_a_wildcard_is_proved_by_dns(tmp_path):
    """One certificate for all hosts of a Route with a wildcard, and nothing is left in the zone."""
    with start_nameserver(tmp_path / "zone", "wild.test") as names:
        dns = ("--acme-dns", names.setting, "--acme-resolver", "{}:{}".format(*names.resolver))
        with ordering(tmp_path, *dns, pebble={"dns": names.address}) as (edge, pebble, backend):
            edge.route("*.wild.test", backend.url)
            wait_until(lambda: certified(edge), f"there is a certificate\n{edge.log()}", SOON)
            assert edge.serves("a.wild.test") and edge.serves("b.wild.test")
            assert edge.serial("a.wild.test") == edge.serial("b.wild.test")
            assert certified(edge) == {"*.wild.test"}
            assert orders(pebble) == 1
            assert names.texts("_acme-challenge.wild.test") == set()
