"""The main job: accounts, instances, and requests that reach them by slug."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess

import pytest
import requests

from . import programs
from .api import Api
from .raw_backend import RawBackend, answer_ok
from .raw_client import RawClient
from .waiting import free_port, wait_until


def curl(*arguments: str) -> str:
    done = subprocess.run(
        [programs.curl(), "--silent", "--show-error", "--max-time", "20", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_a_service_account_registers_its_own_instance_and_is_reached(proxy, admin, nginx, slug):
    service = admin.register(slug, "a-service-password")
    service.add_instance(nginx.url)
    assert [each["url"] for each in service.instances()] == [nginx.url]
    assert [each["slug"] for each in service.instances()] == [slug]

    text = curl(f"{proxy.url}/{slug}/hello?name=ada")

    assert text == f"nginx saw /{slug}/hello?name=ada for 127.0.0.1 from 127.0.0.1"
    again = Api(proxy.url).login(slug, "a-service-password")
    again.ok("DELETE", f"/registry-svc/instance/{again.instances()[0]['id']}")
    assert again.instances() == []


def test_a_service_sees_and_names_no_other_service(admin, nginx, slug):
    service = admin.register(slug, "a-service-password")
    answer = service.call("PUT", "/registry-svc/instance", {"url": nginx.url, "slug": "somebody-else"})
    assert answer.status_code == 403
    admin.add_instance(f"http://127.0.0.1:{free_port()}", slug + "-other")
    assert service.instances() == []


def test_a_node_service_gets_a_posted_body_whole(proxy, admin, node, slug):
    admin.add_instance(node.url, slug)
    body = bytes(range(256)) * 4096
    answer = requests.post(f"{proxy.url}/{slug}/upload", data=body, timeout=20)
    assert answer.status_code == 200
    assert answer.headers["X-Served-By"] == "node"
    seen = answer.json()
    assert (seen["method"], seen["url"], seen["size"]) == ("POST", f"/{slug}/upload", len(body))
    assert seen["sha256"] == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize(
    "rest",
    [
        b"/a%2Fb//c;d?x=%3F%25&y=../..",
        b"",
        b"/",
        b"?only=a&query",
        b"/%7euser/%E2%82%AC",
        b"/a/?x=/..//&empty=&&",
        b"/*'()!$,=:@&+",
    ],
)
def test_the_request_target_goes_upstream_byte_for_byte(backend, client, slug, rest):
    service = backend()
    target = b"/" + slug.encode() + rest
    assert client.get(target).status == 200
    assert service.heads[-1].startswith(b"GET " + target + b" HTTP/1.1\r\n")


def test_an_unknown_slug_is_404_in_json(client):
    answer = client.get(b"/nobody-svc/x")
    assert answer.status == 404
    assert answer.header(b"content-type").startswith(b"application/json")
    assert "service" in answer.json()["error"]


@pytest.mark.parametrize(
    "target", [b"/../x", b"//x", b"/", b"/%2e%2e/x", b"/.", b"/A_B/x", b"/%00/x", b"/user-svc%2Flogin"]
)
def test_a_slug_that_cannot_be_is_refused_in_json(client, target):
    answer = client.get(target)
    assert answer.status in (400, 404)
    assert list(answer.json()) == ["error"]


def test_a_dead_instance_is_502_in_json_and_only_the_log_has_its_address(proxy, admin, client, slug):
    port = free_port()
    admin.add_instance(f"http://127.0.0.1:{port}", slug)
    answer = client.get(b"/%s/x" % slug.encode())
    assert answer.status == 502
    assert list(answer.json()) == ["error"]
    whole = json.dumps([str(header) for header in answer.headers]) + answer.body.decode()
    assert str(port) not in whole
    assert "127.0.0.1" not in whole
    wait_until(
        lambda: re.search(rf"127\.0\.0\.1:{port}", proxy.log()), "the log names the dead instance's address"
    )


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_instance_takes_over_when_one_refuses(proxy, admin, backend, slug, method):
    alive = backend(answer_reading_the_body)
    for _ in range(3):
        admin.add_instance(f"http://127.0.0.1:{free_port()}", slug)
    for number in range(12):
        answer = requests.request(
            method, f"{proxy.url}/{slug}/{number}", data=b"x" if method == "POST" else None, timeout=20
        )
        assert (answer.status_code, answer.content) == (200, b"ok")
    assert len(alive.heads) >= 1


def answer_reading_the_body(connection):
    while connection.head:
        if connection.head.startswith(b"POST"):
            connection.read(1)
        connection.answer()
        connection.read_head()


def test_both_instances_of_a_service_get_their_share(proxy, slug, backend):
    backends = [backend(named(b"one")), backend(named(b"two"))]
    seen = {requests.get(f"{proxy.url}/{slug}/", timeout=20).content for _ in range(60)}
    assert seen == {b"one", b"two"}
    assert all(each.heads for each in backends)


def named(name: bytes):
    def script(connection):
        while connection.head:
            connection.answer(name)
            connection.read_head()

    return script


def test_a_removed_instance_is_asked_no_more(proxy, admin, slug):
    with RawBackend(answer_ok) as service:
        admin.add_instance(service.url, slug)
        with RawClient(proxy.port) as client:
            assert client.get(b"/%s/" % slug.encode()).status == 200
            [instance] = admin.instances(slug=slug)
            admin.ok("DELETE", f"/registry-svc/instance/{instance['id']}")
            assert client.get(b"/%s/" % slug.encode()).status == 404
        assert len(service.heads) == 1


def test_a_log_line_tells_of_the_request_and_no_secret_is_in_the_log(proxy, backend, slug):
    backend()
    token = "bearer-token-that-must-stay-out"
    requests.get(
        f"{proxy.url}/{slug}/logged", headers={"Authorization": f"Bearer {token}"}, timeout=20
    ).raise_for_status()
    wait_until(lambda: f"/{slug}/logged" in proxy.log(), "the access log has the request")
    assert token not in proxy.log()
    assert "a-password-for-tests" not in proxy.log()
