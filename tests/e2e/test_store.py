"""The database in trouble: proxying goes on from memory, a save says 503, and nothing is lost."""

from __future__ import annotations

import contextlib
import sqlite3

import requests

from .api import Api


def test_a_locked_database_stops_saves_but_not_traffic(new_proxy, node):
    proxy = new_proxy()
    admin = Api(proxy.url).login()
    admin.add_instance(node.url, "going-on-svc")
    save = {"routes": [{"id": "locked.example", "target": "http://somewhere:1"}]}
    with contextlib.closing(sqlite3.connect(proxy.folder / "proxy.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM routes")
        answer = admin.call("PUT", "/proxy-svc/routes", save)
        assert answer.status_code == 503, answer.text
        assert list(answer.json()) == ["error"]
        assert "sqlite" not in answer.text.lower()
        assert str(proxy.folder) not in answer.text
        for _ in range(5):
            assert requests.get(f"{proxy.url}/going-on-svc/", timeout=20).status_code == 200
        other.execute("ROLLBACK")
    admin.ok("PUT", "/proxy-svc/routes", save)
    assert [each["id"] for each in admin.ok("POST", "/proxy-svc/routes", {})["routes"]] == ["locked.example"]
    proxy.stop()


def test_bad_input_loses_nothing(admin: Api):
    kept = {"routes": [{"id": "kept.example", "target": "http://kept:1"}]}
    admin.ok("PUT", "/proxy-svc/routes", kept)
    bad = {"routes": [{"id": "new.example", "target": "http://a:1"}, {"id": "b.example", "target": 7}]}
    answer = admin.call("PUT", "/proxy-svc/routes", bad)
    assert answer.status_code == 400
    assert "routes[1].target" in answer.json()["error"]
    ids = [each["id"] for each in admin.ok("POST", "/proxy-svc/routes", {})["routes"]]
    assert "kept.example" in ids
    assert "new.example" not in ids


def test_bodies_over_1_mib_are_413(admin: Api):
    answer = requests.put(
        f"{admin.url}/proxy-svc/routes",
        data=b" " * (1024 * 1024 + 1),
        headers={"Authorization": f"Bearer {admin.token}"},
        timeout=20,
    )
    assert answer.status_code == 413
    assert list(answer.json()) == ["error"]


def test_malformed_json_is_400(admin: Api):
    for body in (b"{", b"[]", b"\xff", b'{"routes": [}', b"NaN"):
        answer = requests.put(
            f"{admin.url}/proxy-svc/routes",
            data=body,
            headers={"Authorization": f"Bearer {admin.token}"},
            timeout=20,
        )
        assert answer.status_code == 400, body
        assert list(answer.json()) == ["error"]


def test_instance_urls_that_cannot_be_are_400(admin: Api):
    for url in ("http://user:secret@host:1", "ftp://host:1", "http://", "http://host:99999", "file:///etc"):
        answer = admin.call("PUT", "/registry-svc/instance", {"url": url, "slug": "x-svc"})
        assert answer.status_code == 400, url
        assert "url" in answer.json()["error"]
        assert "secret" not in answer.text
