from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Oo
from tests.cli.fake_api import FakeApi


def purged(api: FakeApi, number: int) -> None:
    api.script("POST", "/proxy-svc/cache/purge", 200, {"purged": number})


def test_purge(admin: Oo, api: FakeApi) -> None:
    purged(api, 12)
    assert admin.ok("cache", "purge", "a.com", "/shop-svc") == "purged 12 answers\n"
    assert api.seen[-1].body == {"ids": ["a.com", "/shop-svc"]}
    purged(api, 1)
    assert admin.ok("cache", "purge", "--all") == "purged 1 answer\n"
    assert api.seen[-1].body == {"all": True}
    purged(api, 0)
    assert json.loads(admin.ok("cache", "purge", "--all", "--json")) == {"purged": 0}


@pytest.mark.parametrize("words", [(), ("a.com", "--all")])
def test_nothing_is_purged_by_mistake(admin: Oo, api: FakeApi, words: tuple[str, ...]) -> None:
    assert "give the IDs of routes, or --all" in admin.refused("cache", "purge", *words, code=2)
    assert api.seen == []


def test_a_refusal(admin: Oo, api: FakeApi) -> None:
    api.script("POST", "/proxy-svc/cache/purge", 404, {"error": "no such route: b.com"})
    assert admin.refused("cache", "purge", "b.com") == "no such route: b.com"
