"""Every limit on what clients and services may do, in one place; each is a setting of the program.

The defaults and where they stand beside nginx, HAProxy, Caddy and Envoy are in docs/settings.rst.
"""

from __future__ import annotations

from typing import Any

import attrs

from .balancing import Ejection, Timeouts

KIB = 1024
SIZE, COUNT, SECONDS = "size", "count", "seconds"


def _limit(default: Any, kind: str, help: str, zero: bool = False) -> Any:
    """A field whose metadata make an option of it: what its text means, its help, whether it may be 0."""
    return attrs.field(default=default, metadata={"kind": kind, "help": help, "zero": zero})


@attrs.frozen
class Limits:
    """Sizes in bytes, times in seconds; 0 means no limit where the help says so."""

    head_size: int = _limit(32 * KIB, SIZE, "Bytes of a request's head; more is 431.")
    head_fields: int = _limit(128, COUNT, "Header fields of a request; more is 431.")
    target_size: int = _limit(16 * KIB, SIZE, "Bytes of a request target; more is 414.")
    head_timeout: float = _limit(30.0, SECONDS, "For a request's head, from its first byte; then 408.")
    body_limit: int = _limit(0, SIZE, "Bytes of a request's body; more is 413. 0 is no limit.", zero=True)
    chunk_extension_size: int = _limit(1 * KIB, SIZE, "Bytes of the extensions of one chunk; more is 400.")
    keepalive_timeout: float = _limit(75.0, SECONDS, "An idle client connection is closed after this.")
    keepalive_requests: int = _limit(1000, COUNT, "Requests on one connection, after which it is closed.")
    pipelined: int = _limit(16, COUNT, "Requests taken from a connection before they can be answered.")
    answer_head_size: int = _limit(64 * KIB, SIZE, "Bytes of the head of a service's answer; more is 502.")
    interim_answers: int = _limit(16, COUNT, "1xx answers of a service to one request; more is 502.")
    connect_timeout: float = _limit(5.0, SECONDS, "To connect to a service; then 504.")
    first_byte_timeout: float = _limit(60.0, SECONDS, "From a request to the head of its answer; then 504.")
    idle_timeout: float = _limit(
        60.0, SECONDS, "Without a byte of a body, either way; then 408, 504 or a reset."
    )
    tunnel_timeout: float = _limit(3600.0, SECONDS, "Without a byte through a WebSocket or other tunnel.")
    upstream_connections: int = _limit(4096, COUNT, "Connections to one instance; further requests wait.")
    upstream_queue: int = _limit(
        1024, COUNT, "Requests that may wait for one instance; more is 503.", zero=True
    )
    upstream_wait: float = _limit(5.0, SECONDS, "That a request may wait for a connection; then 503.")
    upstream_keepalive: int = _limit(64, COUNT, "Idle connections kept to one instance.", zero=True)
    upstream_keepalive_timeout: float = _limit(
        30.0, SECONDS, "An idle one is closed after this, or twice it."
    )
    handshake_timeout: float = _limit(10.0, SECONDS, "For a TLS handshake; then the connection is closed.")
    tls_contexts: int = _limit(2048, COUNT, "Certificates held ready, at 22 KiB each; more are loaded anew.")
    acme_names_per_hour: int = _limit(20, COUNT, "New names certified per registered domain and hour.")
    acme_wildcard_names_per_week: int = _limit(
        20, COUNT, "Of names below wildcard Routes, per registered domain and week. 0 is none.", zero=True
    )
    eject_after: int = _limit(
        3, COUNT, "Failures in a row that take an instance out of use. 0 is never.", zero=True
    )
    eject_timeout: float = _limit(1.0, SECONDS, "Out of use for, doubled each time that it fails again.")

    @property
    def timeouts(self) -> Timeouts:
        """Those that one exchange has, where its route says nothing else."""
        return Timeouts(self.connect_timeout, self.first_byte_timeout, self.idle_timeout, self.tunnel_timeout)

    @property
    def ejection(self) -> Ejection:
        """When an instance is taken out of use."""
        return Ejection(self.eject_after, self.eject_timeout)


DEFAULTS = Limits()
