"""The configuration files of the peers: nginx, HAProxy, Caddy and Traefik, without and with TLS.

TLS is as somebody sets it up who cares: certificates from files, tickets on, nothing asked of a network.
"""

from __future__ import annotations

import json
import pathlib
from dataclasses import dataclass

from sites import Site

KEPT = 256
"""Idle connections to the backend that a peer may keep: more than any scenario needs at once."""


@dataclass(frozen=True)
class Wanted:
    """What every configuration says: where to listen, what is behind, the names served over TLS if any."""

    folder: pathlib.Path
    port: int
    backend: int
    site: Site | None


_NGINX = """
worker_processes 1; daemon off; error_log {folder}/error.log; pid {folder}/pid;
events {{ worker_connections 20000; }}
http {{
  access_log {log}; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  {http}
  upstream backend {{ server 127.0.0.1:{backend}; keepalive {kept}; }}
  {tls}
  {servers}
}}
"""
_NGINX_SERVER = """
  server {{
    listen 127.0.0.1:{port} {options}; {names}
    location / {{ {location} }}
  }}
"""
# Streamed like everybody else's, and large answers in memory only: no peer writes bodies to a disk.
NGINX_PROXY = """
      proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $http_host; proxy_set_header X-Real-IP $remote_addr;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Host $http_host;
      proxy_request_buffering off; proxy_max_temp_file_size 0;
"""
NGINX_TICKETS = "ssl_session_cache shared:bench:10m; ssl_session_timeout 1d; ssl_session_tickets on;"
_NGINX_TLS = """
  ssl_protocols TLSv1.2 TLSv1.3; ssl_prefer_server_ciphers off;
  server_names_hash_max_size 16384; server_names_hash_bucket_size 128;
"""


NGINX_STORE = (
    "proxy_cache_path {folder}/cache keys_zone=bench:100m max_size=100m inactive=1h use_temp_path=off;"
)
NGINX_CACHED = NGINX_PROXY + "proxy_cache bench;"
NGINX_GZIP = NGINX_PROXY + "gzip on; gzip_types application/json; gzip_min_length 1024;"


def nginx_limits(admitted: int) -> str:
    """The zone that counts."""
    return f"limit_req_zone $binary_remote_addr zone=bench:10m rate={admitted}r/s;"


def nginx_limited(burst: int) -> str:
    """A location where it is asked."""
    return NGINX_PROXY + f"limit_req zone=bench burst={burst} nodelay; limit_req_status 429;"


def nginx(wanted: Wanted, log: str, location: str, tickets: str, stranger: bool, http: str) -> str:
    """With a server for each name; `stranger` shows them all the certificate of another name.

    `http` is what else stands outside of servers.
    """
    site = wanted.site
    if site is None:
        servers = _NGINX_SERVER.format(port=wanted.port, options="backlog=4096", names="", location=location)
    else:
        servers = ""
        for number, name in enumerate(site.names):
            bundle = site.stranger if stranger else site.bundle(name)
            servers += _NGINX_SERVER.format(
                port=wanted.port,
                # `http2 on` is not known to the nginx of every distribution yet.
                options="ssl http2" if number else "ssl http2 backlog=4096",
                names=f"server_name {name}; ssl_certificate {bundle}; ssl_certificate_key {bundle};",
                location=location,
            )
    return _NGINX.format(
        folder=wanted.folder,
        log=log.format(folder=wanted.folder),
        http=http.format(folder=wanted.folder),
        backend=wanted.backend,
        kept=KEPT,
        tls=_NGINX_TLS + tickets if site else "",
        servers=servers,
    )


_HAPROXY = """
global
  nbthread 1
  maxconn 12000
  # It would want two descriptors for each of these.
  no strict-limits
defaults
  mode http
  timeout connect 5s
  timeout client 75s
  timeout server 60s
  option forwardfor
  http-reuse always
listen proxy
  http-request set-header X-Forwarded-Proto http
  bind 127.0.0.1:{port}
  server backend 127.0.0.1:{backend}
"""


def haproxy(wanted: Wanted) -> str:
    """Without TLS only."""
    return _HAPROXY.format(port=wanted.port, backend=wanted.backend)


# HTTP/3 is off, as nobody else here has it.
_CADDY = """
{{
  admin off
  auto_https off
  ocsp_stapling off
  persist_config off
  servers {{
    protocols h1 h2
  }}
}}
{address}:{port} {{
  bind 127.0.0.1
  {tls}
  {more}
  reverse_proxy 127.0.0.1:{backend} {{
    transport http {{
      keepalive_idle_conns_per_host {kept}
    }}
  }}
}}
"""


CADDY_LOG = "log {{\n    output file {folder}/access.log\n  }}"
CADDY_GZIP = "encode gzip"


def caddy(wanted: Wanted, more: str = "") -> str:
    """With one block for all names, and their certificates from their folder; `more` stands in it."""
    site = wanted.site
    return _CADDY.format(
        address="https://*.bench.example" if site else "http://",
        port=wanted.port,
        tls=f"tls {{\n    load {site.bundles}\n  }}" if site else "",
        more=more.format(folder=wanted.folder),
        backend=wanted.backend,
        kept=KEPT,
    )


def traefik(wanted: Wanted, middleware: dict[str, object] | None = None) -> str:
    """In JSON, which is YAML; with one middleware or none."""
    site = wanted.site
    router = {
        "rule": "PathPrefix(`/`)",
        "service": "backend",
        **({"middlewares": ["one"]} if middleware else {}),
    }
    config: dict[str, object] = {
        "http": {
            "routers": {"all": router},
            **({"middlewares": {"one": middleware}} if middleware else {}),
            "services": {
                "backend": {"loadBalancer": {"servers": [{"url": f"http://127.0.0.1:{wanted.backend}"}]}}
            },
        }
    }
    if site:
        files = [str(site.bundle(name)) for name in site.names]
        config["tls"] = {"certificates": [{"certFile": file, "keyFile": file} for file in files]}
    return json.dumps(config)


def traefik_arguments(path: str, wanted: Wanted) -> list[str]:
    """What it wants to be told before it reads that file."""
    return [
        f"--entrypoints.web.address=127.0.0.1:{wanted.port}",
        *(["--entrypoints.web.http.tls=true"] if wanted.site else []),
        f"--providers.file.filename={path}",
        f"--serverstransport.maxidleconnsperhost={KEPT}",
        "--log.level=ERROR",
        "--global.checknewversion=false",
        "--global.sendanonymoususage=false",
    ]
