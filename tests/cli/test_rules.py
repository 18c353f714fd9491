from __future__ import annotations

import json
import pathlib

import pytest

from tests.cli.conftest import Oo
from tests.cli.fake_api import FakeApi

ONE = {"id": "singulatron.com", "target": "http://frontend:8080"}
TWO = {"id": "api.singulatron.com", "target": "http://1backend:11337"}

# CONTRACT.md, byte for byte.
TABLE = """\
ROUTE ID                    TARGET
api.singulatron.com         http://1backend:11337
singulatron.com             http://frontend:8080
"""


@pytest.mark.parametrize("words", [("routes", "list"), ("route", "ls"), ("r", "ls"), ("routes", "ls")])
def test_list_prints_the_table_of_the_contract(admin: Oo, api: FakeApi, words: tuple[str, ...]) -> None:
    api.routes = [ONE, TWO]
    assert admin.ok(*words) == TABLE


def test_empty_list_has_its_header(admin: Oo) -> None:
    assert admin.ok("routes", "list") == "ROUTE ID                    TARGET\n"


def test_wide_ids_push_the_second_column(admin: Oo, api: FakeApi) -> None:
    api.routes = [{"id": "x" * 40, "target": "t"}]
    assert admin.ok("routes", "list").splitlines()[1] == "x" * 40 + "   t"


def test_several_targets_share_a_cell(admin: Oo, api: FakeApi, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "routes.yaml"
    file.write_text(
        "id: a.com\n"
        "targets: [{url: 'http://a:1', weight: 3}, {url: service:b}]\n"
        "balance: ip_hash\n"
        "timeouts: {connect: 5s, firstByte: 60}\n"
        "retries: 0\n"
        "tlsInsecureSkipVerify: true\n"
    )
    assert admin.ok("routes", "save", str(file)) == "saved a.com -> http://a:1, service:b\n"
    assert api.routes == [
        {
            "id": "a.com",
            "targets": [{"url": "http://a:1", "weight": 3}, {"url": "service:b"}],
            "balance": "ip_hash",
            "timeouts": {"connect": "5s", "firstByte": 60},
            "retries": 0,
            "tlsInsecureSkipVerify": True,
        }
    ]
    assert admin.ok("routes", "list").splitlines()[1] == "a.com                       http://a:1, service:b"


def test_list_of_ids(admin: Oo, api: FakeApi) -> None:
    api.routes = [ONE, TWO]
    assert "frontend" not in admin.ok("routes", "list", "api.singulatron.com")
    assert api.seen[-1].body == {"ids": ["api.singulatron.com"]}


def test_json_before_and_after_the_subcommand(admin: Oo, api: FakeApi) -> None:
    api.routes = [ONE]
    for words in (("--json", "routes", "list"), ("routes", "--json", "list"), ("routes", "list", "--json")):
        assert json.loads(admin.ok(*words)) == {"routes": [ONE]}


def test_url_after_the_subcommand_wins(admin: Oo, api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OB_SERVER_URL", "http://127.0.0.1:1")
    admin.ok("--url", "http://127.0.0.1:2", "routes", "list", "--url", api.url)


def test_redirect_table(admin: Oo, api: FakeApi) -> None:
    api.redirects = [{"id": "old.com", "target": "https://new.com", "statusCode": 308}]
    assert admin.ok("redirects", "ls") == (
        "REDIRECT ID                 TARGET            STATUS\n"
        "old.com                     https://new.com   308\n"
    )


def test_save_one_from_options(admin: Oo, api: FakeApi) -> None:
    assert admin.ok("r", "s", "--id", "a.com", "--target", "http://a:1") == "saved a.com -> http://a:1\n"
    assert api.seen[-1].method == "PUT"
    assert api.seen[-1].body == {"routes": [{"id": "a.com", "target": "http://a:1"}]}


def test_save_of_a_target_leaves_the_rest(admin: Oo, api: FakeApi) -> None:
    """What guards a route does not go because its service has moved."""
    access = {"deny": ["10.0.0.1/32"]}
    api.routes = [
        {"id": "a.com", "targets": [{"url": "http://a:1"}, {"url": "http://a:2"}], "access": access}
    ]
    admin.ok("routes", "save", "--id", "A.com.", "--target", "http://a:3")
    assert api.seen[-1].body == {"routes": [{"id": "A.com.", "target": "http://a:3", "access": access}]}


def test_save_one_redirect(admin: Oo, api: FakeApi) -> None:
    admin.ok("redirect", "save", "--id", "a.com", "--target", "https://b.com", "--status-code", "301")
    assert api.redirects == [{"id": "a.com", "target": "https://b.com", "statusCode": 301}]


def test_delete(admin: Oo, api: FakeApi) -> None:
    api.routes = [ONE, TWO]
    for word, one in (("rm", ONE), ("delete", TWO)):
        assert admin.ok("routes", word, one["id"]) == f"deleted {one['id']}\n"
    assert api.routes == []
    assert "Missing argument" in admin.refused("redirects", "remove", code=2)


@pytest.mark.parametrize(
    "words",
    [
        ("routes", "save"),
        ("routes", "save", "--id", "a"),
        ("routes", "save", "--target", "a"),
        ("redirects", "save", "--status-code", "301"),
        ("routes", "save", "/nowhere/at/all.yaml"),
        ("routes", "save", "/etc/hostname", "--id", "a"),
        ("redirects", "save", "--id", "a", "--target", "b", "--status-code", "x"),
    ],
)
def test_misuse_sends_nothing(admin: Oo, api: FakeApi, words: tuple[str, ...]) -> None:
    admin.refused(*words, code=2)
    assert api.seen == []


def test_a_folder_goes_in_one_request(admin: Oo, api: FakeApi, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "conf"
    (folder / "b").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / ".git" / "x.yaml").write_text("not: [ours")
    (folder / "notes.txt").write_text("not ours")
    (folder / "a.yaml").write_text("id: a.com\ntarget: http://a\n")
    (folder / "b" / "list.yml").write_text(
        "- id: b.com\n  target: http://b\n- {id: c.com, target: http://c}\n"
    )
    (folder / "c.json").write_text('{"routes": [{"id": "d.com", "target": "http://d"}], "redirects": []}')
    out = admin.ok("routes", "save", str(folder))
    assert [item["id"] for item in api.routes] == ["a.com", "b.com", "c.com", "d.com"]
    assert len(api.calls("/proxy-svc/routes")) == 1
    assert len(out.splitlines()) == 4


def test_the_servers_index_becomes_file_and_item(admin: Oo, api: FakeApi, tmp_path: pathlib.Path) -> None:
    one, many = tmp_path / "a.yaml", tmp_path / "b.yaml"
    one.write_text("id: a.com\ntarget: x\n")
    many.write_text("routes:\n- {id: b.com, target: x}\n- {id: c.com, target: y}\n")
    for said, expected in (
        ("routes[0].target: no host", f"{one}: target: no host"),
        ("routes[2].target: no host", f"{many}: routes[1].target: no host"),
        ("routes[2].id: same as routes[1].id", f"{many}: routes[1].id: same as {many}: routes[0].id"),
        ("routes[2].targets[1].weight: is 0", f"{many}: routes[1].targets[1].weight: is 0"),
        (
            "routes[2].headers.request.set.X-!#$%&'*+.^`|~: bad; routes[1].access.allow[0]",
            f"{many}: routes[1].headers.request.set.X-!#$%&'*+.^`|~: bad; {many}: routes[0].access.allow[0]",
        ),
        ("routes[0].errorPages.503: bad", f"{one}: errorPages.503: bad"),
        ("routes[9].id: what?", "routes[9].id: what?"),
        ("something else", "something else"),
    ):
        api.script("PUT", "/proxy-svc/routes", 400, {"error": said})
        assert admin.refused("routes", "save", str(one), str(many)) == expected


def test_save_from_options_names_the_option(admin: Oo, api: FakeApi) -> None:
    api.script("PUT", "/proxy-svc/routes", 400, {"error": "routes[0].target: no host"})
    assert admin.refused("routes", "save", "--id", "a", "--target", "b") == "target: no host"


def test_more_than_one_save_takes(admin: Oo, api: FakeApi) -> None:
    api.script("PUT", "/proxy-svc/routes", 413, {"error": "the body is over 1048576 bytes"})
    assert admin.refused("routes", "save", "--id", "a", "--target", "b") == (
        "1 routes are more than one save takes: the body is over 1048576 bytes;"
        " save them in parts, each of which is saved whole or not at all"
    )


def test_save_from_standard_input(admin: Oo, api: FakeApi) -> None:
    admin.ok("routes", "save", "-", input="id: a.com\ntarget: http://a\n")
    assert api.routes == [{"id": "a.com", "target": "http://a"}]


def test_an_entry_of_a_service(admin: Oo, api: FakeApi, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "routes.yaml"
    file.write_text("id: /shop-svc\nrateLimit: {requests: 5}\n")
    assert admin.ok("routes", "save", str(file)) == "saved /shop-svc -> (registry)\n"
    api.routes.append(ONE)
    assert admin.ok("routes", "list") == (
        "ROUTE ID                    TARGET\n"
        "/shop-svc                   (registry)\n"
        "singulatron.com             http://frontend:8080\n"
    )


def test_pause_and_resume(admin: Oo, api: FakeApi) -> None:
    api.script("POST", "/proxy-svc/routes/pause", 200, {"ids": ["a.com", "/shop-svc"]})
    words = ("routes", "pause", "A.com", "/shop-svc", "--retry-after", "5m", "--message", "back soon")
    assert admin.ok(*words) == "paused A.com\npaused /shop-svc\n"
    assert api.seen[-1].body == {"ids": ["A.com", "/shop-svc"], "retryAfter": "5m", "message": "back soon"}
    api.script("POST", "/proxy-svc/routes/pause", 200, {"ids": ["a.com"]})
    assert json.loads(admin.ok("r", "pause", "a.com", "--json")) == {"ids": ["a.com"]}
    assert api.seen[-1].body == {"ids": ["a.com"]}
    api.script("POST", "/proxy-svc/routes/resume", 200, {"ids": ["a.com"]})
    assert admin.ok("routes", "resume", "a.com") == "resumed a.com\n"
    assert api.seen[-1].body == {"ids": ["a.com"]}
    api.script("POST", "/proxy-svc/routes/pause", 404, {"error": "no such route: b.com"})
    assert admin.refused("routes", "pause", "b.com") == "no such route: b.com"
    for verb in ("pause", "resume"):
        assert "Missing argument" in admin.refused("routes", verb, code=2)
        assert "No such command" in admin.refused("redirects", verb, "a.com", code=2)
