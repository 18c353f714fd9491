"""What one round of a scenario measures of one proxy, and whether the figure may be believed."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import trouble
from backend import MIB, SMALL, SMALL_ANSWER, Backend
from connections import growth, idle, is_silent, slow_readers
from load import Load, Outcome, negotiated, pace, saturate
from processes import HERE, LOAD_CORE, Running, pinned

KIB = 1024
GIB = 1 << 30
SMALL_GET = Load(SMALL)
CPU = "CPU µs/request"


@dataclass
class Measured:
    """One round: the figure, further columns by their titles, what went wrong, what TLS agreed on."""

    figure: float
    columns: dict[str, float] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    negotiated: tuple[str, ...] = ()
    answers: int = 0


@dataclass
class Bench:
    """What every measurement uses: the backend, seconds of load, the requests/s to pace by where it paces."""

    backend: Backend
    seconds: int
    rate: float = 0.0


Check = Callable[[http.client.HTTPResponse], str]
Measure = Callable[[Bench, Running], Measured]


def answers(expected: bytes) -> Check:
    """The answer's body must be this one."""

    def check(answer: http.client.HTTPResponse) -> str:
        got = answer.read()
        return "" if got == expected else f"the answer was {got[:40]!r}"

    return check


def closes(answer: http.client.HTTPResponse) -> str:
    """The proxy must close the connection as it was asked to."""
    return answers(SMALL_ANSWER)(answer) or ("" if answer.will_close else "the connection stays open")


def has_length(size: int) -> Check:
    """The answer must be so long; that all of it comes is the loader's to see."""
    return lambda answer: "" if answer.length == size else f"an answer of {answer.length} bytes"


def took(size: int) -> Check:
    """The backend must have got a request of at least so many bytes."""

    def check(answer: http.client.HTTPResponse) -> str:
        got = answer.read()
        return "" if got.isdigit() and int(got) >= size else f"the backend got {got[:40]!r} bytes"

    return check


def probe(proxy: Running, load: Load, check: Check) -> list[str]:
    """What is wrong with one request: no load is put on a proxy that cannot do that."""
    with contextlib.closing(proxy.connection()) as connection:
        headers = dict(header.split(": ", 1) for header in load.headers)
        connection.request(load.method, load.path, b"x" * load.body or None, headers)
        answer = connection.getresponse()
        wrong = f"status {answer.status}" if answer.status != 200 else check(answer)
    return [f"probe: {wrong}"] if wrong else []


def watched(bench: Bench, run: Callable[[], Outcome]) -> Outcome:
    """The outcome of the load, with an error where the backend was not asked for every answer."""
    before = bench.backend.requests()
    outcome = run()
    if not outcome.requests:
        outcome.errors.append("no request was answered")
    seen = bench.backend.requests(before + outcome.requests) - before
    if seen < outcome.requests:
        outcome.errors.append(f"only {seen} of {outcome.requests} requests came to the backend")
    return outcome


def rated(proxy: Running, run: Callable[[], Outcome]) -> Measured:
    """Answers a second of this load, and the processor time of one."""
    agreed = negotiated(proxy)
    before = proxy.cpu()
    outcome = run()
    cpu = proxy.cpu() - before
    columns = {
        CPU: cpu * 1e6 / max(outcome.requests, 1),
        "busy %": 100 * cpu / outcome.seconds,
    }
    rate = outcome.requests / outcome.seconds
    return Measured(rate, columns, outcome.errors, agreed, outcome.requests)


def requests_per_second(load: Load, check: Check) -> Measure:
    """As `rated`, of a load whose answers must pass the check."""

    def measure(bench: Bench, proxy: Running) -> Measured:
        if wrong := probe(proxy, load, check):
            return Measured(0.0, errors=wrong)
        return rated(proxy, lambda: watched(bench, lambda: saturate(proxy, load, bench.seconds)))

    return measure


def mib_per_second(load: Load, check: Check) -> Measure:
    """MiB of bodies a second, whichever way they go, and what the proxy's memory did meanwhile."""

    def measure(bench: Bench, proxy: Running) -> Measured:
        if wrong := probe(proxy, load, check):
            return Measured(0.0, errors=wrong)
        agreed = negotiated(proxy)
        saturate(proxy, load, 1)
        cpu, memory = proxy.cpu(), proxy.memory()
        proxy.forget_peak()
        outcome = watched(bench, lambda: saturate(proxy, load, bench.seconds))
        cpu = proxy.cpu() - cpu
        size = outcome.requests * load.body or outcome.bytes
        columns = {
            "CPU s/GiB": cpu * GIB / max(size, 1),
            "busy %": 100 * cpu / outcome.seconds,
            "MiB before": memory / MIB,
            "MiB peak": proxy.peak() / MIB,
            "MiB after": proxy.memory() / MIB,
            "grew, MiB": (proxy.peak() - memory) / MIB,
        }
        return Measured(size / MIB / outcome.seconds, columns, outcome.errors, agreed)

    return measure


def idle_memory(count: int) -> Measure:
    """KiB of each idle keep-alive connection, once all are there."""

    def measure(bench: Bench, proxy: Running) -> Measured:
        errors = saturate(proxy, SMALL_GET, 1).errors
        before = proxy.memory()
        with idle(proxy, count) as sockets:
            used = proxy.memory() - before
            left = sum(map(is_silent, sockets))
        if left < count:
            errors.append(f"{count - left} of {count} were closed")
        return Measured(used / count / KIB, {"MiB before": before / MIB}, errors)

    return measure


def slow_reader_memory(count: int) -> Measure:
    """KiB at most of each reader of 512 MB that hardly reads, and what it still grew by after a while."""

    def measure(bench: Bench, proxy: Running) -> Measured:
        errors = saturate(proxy, SMALL_GET, 1).errors
        before = proxy.memory()
        samples = slow_readers(proxy, count, max(4, 2 * bench.seconds))
        columns = {"grew, KiB": growth(samples) / count / KIB, "MiB before": before / MIB}
        return Measured((max(samples) - before) / count / KIB, columns, errors)

    return measure


def latency(bench: Bench, proxy: Running) -> Measured:
    """p99 in milliseconds at the bench's fixed rate."""
    if wrong := probe(proxy, SMALL_GET, answers(SMALL_ANSWER)):
        return Measured(0.0, errors=wrong)
    outcome = _paced(bench, proxy)
    times = outcome.milliseconds
    columns = {name: times.get(key, 0.0) for name, key in (("p50", "p50"), ("p99.9", "p999"), ("max", "max"))}
    columns["requests/s kept"] = outcome.requests / outcome.seconds
    return Measured(times.get("p99", 0.0), columns, outcome.errors)


def _paced(bench: Bench, proxy: Running) -> Outcome:
    return watched(bench, lambda: pace(proxy, SMALL_GET, bench.seconds, bench.rate))


def disturbance(bench: Bench, proxy: Running) -> Measured:
    """How many times the p99 that ordinary clients see in peace they see among troublesome ones."""
    calm = _paced(bench, proxy)
    before = proxy.memory()
    proxy.forget_peak()
    command = pinned([sys.executable, str(HERE / "trouble.py"), str(proxy.port)], LOAD_CORE)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        ready = child.stdout.readline()
        settled = proxy.memory()
        troubled = _paced(bench, proxy)
        late = proxy.memory()
        child.send_signal(signal.SIGTERM)
        said, complaint = child.communicate(timeout=30)
    errors = calm.errors + troubled.errors
    ended = json.loads(said.strip() or "{}")
    wanted = sum(trouble.COUNTS.values())
    if not ready or ended.get("open", 0) < wanted:
        errors.append(f"of {wanted} troublesome clients {ended.get('open', 0)} were there {complaint[-300:]}")
    peace, war = calm.milliseconds.get("p99", 0.0), troubled.milliseconds.get("p99", 0.0)
    columns = {
        "p99 in peace, ms": peace,
        "p99 in trouble, ms": war,
        "KiB each": (proxy.peak() - before) / wanted / KIB,
        "grew, MiB": (late - settled) / MIB,
        "opened again": ended.get("again", 0),
    }
    return Measured(war / peace if peace else 0.0, columns, errors)
