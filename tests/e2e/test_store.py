"""The database in trouble: proxying goes on from memory, a save says 503, and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import pathlib
import signal
import sqlite3
import subprocess
import sys

import pytest
import requests

from .api import Api
from .proxy_process import environment
from .waiting import wait_until

_OPEN = """
import datetime, json, pathlib, sys, time
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import react
from onebackend_proxy.records import Route
from onebackend_proxy.store import Vault, open_sqlite

store = open_sqlite(pathlib.Path(sys.argv[1]), Vault("a key"), reactor, busy_seconds=20)
"""
FOLLOW = (
    _OPEN
    + """
def heard(published):
    print(json.dumps([time.time(), sorted(route.id for route in published.routes)]), flush=True)

async def follow():
    await store.follow(heard)
    await Deferred()

react(lambda _: ensureDeferred(follow()))
"""
)
SAVE = (
    _OPEN
    + """
async def save():
    for name in sys.argv[2:]:
        await store.save_routes([Route(name, "http://a")])
    print(json.dumps(time.time()), flush=True)
    await store.close()

react(lambda _: ensureDeferred(save()))
"""
)
# For each line that it is sent it asks for the next name, and says whether it got it: a lease that runs from
# second `at` until a minute later, or the one order that the budget of a domain of this name allows.
_ISSUING = (
    _OPEN
    + """
path, holder, at, *names = sys.argv[1:]
now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=int(at))
minute = datetime.timedelta(seconds=60)

async def all_of_them():
    print("ready", flush=True)
    for name in names:
        sys.stdin.readline()
        print("yes" if await got(name) else "no", flush=True)
    await store.close()
"""
)
_RUN = "react(lambda _: ensureDeferred(all_of_them()))"
CLAIM = f"""{_ISSUING}
async def got(name):
    return await store.claim_issuance(name, holder, now, now + minute) is not None

{_RUN}
"""
SPEND = f"""{_ISSUING}
async def got(name):
    return await store.spend_order(name, holder, now, now - minute, 1) is None

{_RUN}
"""


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    """A process of its own with the store open."""
    command = [sys.executable, "-c", program, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment())


class Asking:
    """A process that asks the store of `path` for these names, as `program` does."""

    def __init__(self, program: str, path: pathlib.Path, holder: str, at: int, names: list[str]) -> None:
        self.names = names
        self.process = start(program, str(path), holder, str(at), *names)
        assert self.process.stdin is not None and self.process.stdout is not None
        self._stdin, self._stdout = self.process.stdin, self.process.stdout
        assert self._stdout.readline() == "ready\n"

    def ask(self, names: int = 1) -> None:
        self._stdin.write("\n" * names)
        self._stdin.flush()

    def answer(self) -> bool:
        return {"yes\n": True, "no\n": False}[self._stdout.readline()]

    def ended(self) -> int:
        """The status that it ends with."""
        with self.process:
            return self.process.wait(timeout=60)


def raced(program: str, path: pathlib.Path, names: list[str]) -> list[tuple[bool, bool]]:
    """What two processes got of each name, which they wanted at the same moment."""
    one, two = (Asking(program, path, holder, 0, names) for holder in ("one", "two"))
    got = []
    for _ in names:
        one.ask()
        two.ask()
        got.append((one.answer(), two.answer()))
    assert (one.ended(), two.ended()) == (0, 0)
    return got


def claimed(path: pathlib.Path, holder: str, at: int, names: list[str]) -> set[bool]:
    """Whether a new process gets these."""
    asking = Asking(CLAIM, path, holder, at, names)
    asking.ask(len(names))
    got = {asking.answer() for _ in names}
    assert asking.ended() == 0
    return got


@pytest.fixture
def followers(tmp_path):
    """Two processes that follow one store, each with the file of what it hears."""
    started = []
    for number in range(2):
        heard = tmp_path / f"heard-{number}"
        with heard.open("w") as out:
            command = [sys.executable, "-c", FOLLOW, str(tmp_path / "proxy.sqlite")]
            started.append((subprocess.Popen(command, stdout=out, env=environment()), heard))
        wait_for(heard, [])
    yield [heard for _process, heard in started]
    for process, _heard in started:
        process.kill()
        process.wait()


def wait_for(heard: pathlib.Path, ids: list[str]) -> float:
    """When it heard of these routes as the last."""
    last: list[list] = []

    def there() -> bool:
        *lines, _half = heard.read_text().split("\n")
        last[:] = map(json.loads, lines[-1:])
        return [routes for _at, routes in last] == [ids]

    wait_until(there, f"{ids} are heard of")
    at: float = last[0][0]
    return at


def test_a_change_by_one_process_reaches_the_others_within_a_second(tmp_path, followers):
    saving = start(SAVE, str(tmp_path / "proxy.sqlite"), "a.example")
    saved = json.loads(saving.communicate(timeout=30)[0])
    for follower in followers:
        assert wait_for(follower, ["a.example"]) - saved < 1


def test_processes_that_write_at_once_lose_nothing(tmp_path, followers):
    sides = [[f"{side}-{number:02}.example" for number in range(15)] for side in "ab"]
    saving = [start(SAVE, str(tmp_path / "proxy.sqlite"), *names) for names in sides]
    for process in saving:
        process.communicate(timeout=60)
        assert process.returncode == 0
    for follower in followers:
        wait_for(follower, [*sides[0], *sides[1]])


def test_of_two_processes_that_race_for_a_lease_one_has_it(tmp_path):
    path, names = tmp_path / "proxy.sqlite", [f"{number}.example" for number in range(50)]
    assert [sum(got) for got in raced(CLAIM, path, names)] == [1] * 50
    assert claimed(path, "three", 59, names) == {False}
    assert claimed(path, "three", 60, names) == {True}
    assert claimed(path, "one", 61, names) == {False}


def test_processes_that_race_keep_one_budget(tmp_path):
    domains = [f"{number}.example" for number in range(50)]
    assert [sum(got) for got in raced(SPEND, tmp_path / "proxy.sqlite", domains)] == [1] * 50


def test_a_lease_outlives_a_kill_until_it_runs_out(tmp_path):
    path, names = tmp_path / "proxy.sqlite", [f"{number}.example" for number in range(5000)]
    asking = Asking(CLAIM, path, "killed", 0, names)
    asking.ask(len(names))
    told = [name for name in names[:20] if asking.answer()]
    # In the middle of the next.
    asking.process.kill()
    assert asking.ended() == -signal.SIGKILL
    assert claimed(path, "next", 59, told) == {False}
    assert claimed(path, "next", 60, told) == {True}


def test_an_instance_that_another_proxy_registered_is_routed_to_within_a_second(new_proxy, node):
    first = new_proxy()
    second = new_proxy(folder=first.folder)
    admin = Api(first.url).login()

    def status() -> int:
        return requests.get(f"{second.url}/shared-svc/", timeout=20).status_code

    assert status() == 404
    admin.add_instance(node.url, "shared-svc")
    wait_until(lambda: status() == 200, "the other proxy routes to it", 1)
    [instance] = admin.instances(slug="shared-svc")
    admin.ok("DELETE", f"/registry-svc/instance/{instance['id']}")
    wait_until(lambda: status() == 404, "the other proxy has forgotten it", 1)
    for proxy in (first, second):
        proxy.stop()


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


def sent(admin: Api, path: str, size: int, token: str) -> requests.Response:
    headers = {"Authorization": f"Bearer {token}"}
    return requests.put(f"{admin.url}{path}", data=b" " * size, headers=headers, timeout=20)


def test_bodies_over_1_mib_are_413(admin: Api):
    over = 1024 * 1024 + 1
    for path, token in (("/registry-svc/instance", admin.token), ("/proxy-svc/routes", "nobody's")):
        answer = sent(admin, path, over, token)
        assert answer.status_code == 413
        assert list(answer.json()) == ["error"]


def test_who_may_save_routes_may_send_32_mib(admin: Api):
    assert sent(admin, "/proxy-svc/routes", 1024 * 1024 + 1, admin.token).status_code == 400
    answer = sent(admin, "/proxy-svc/routes", 32 * 1024 * 1024 + 1, admin.token)
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
