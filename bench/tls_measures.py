"""What one round measures of TLS besides keep-alive loads: handshakes, many names, contexts, HTTP/2.

The load's core can open hardly more connections than the proxy takes: figures of handshakes are by the
processor time that the proxy used, and stand also where it waited for the load.
"""

from __future__ import annotations

import statistics

from backend import MIB, SMALL, SMALL_ANSWER
from load import Load, Outcome, connect_often, http2
from measures import KIB, SMALL_GET, Bench, Measure, Measured, answers, closes, probe, watched
from processes import Running

NEW_EACH = Load(SMALL, headers=("Connection: close",))
ONE_AFTER_ANOTHER = Load(SMALL, headers=NEW_EACH.headers, connections=8)
PATIENCE = 60
"""Seconds within which every name must have been visited once."""
H2_REQUESTS = 900 * SMALL_GET.connections
"""Not more for each connection than nginx answers on one; h2load opens no other."""


def _connections(
    bench: Bench, proxy: Running, load: Load, seconds: int, *options: str
) -> tuple[Outcome, float]:
    """What came of it, and the proxy's processor time of one connection in microseconds."""
    before = proxy.cpu()
    outcome = watched(bench, lambda: connect_often(proxy, load, seconds, *options))
    cpu = proxy.cpu() - before
    if outcome.handshakes < outcome.requests:
        outcome.errors.append(f"{outcome.requests} answers, {outcome.handshakes} handshakes")
    return outcome, cpu * 1e6 / max(outcome.requests, 1)


def _resumption(outcome: Outcome, resume: bool) -> list[str]:
    """What is wrong with how many were resumed: all but each client's first, or none."""
    expected = outcome.handshakes - NEW_EACH.connections if resume else 0
    right = outcome.resumed >= expected if resume else outcome.resumed == 0
    return [] if right else [f"{outcome.resumed} of {outcome.handshakes} handshakes were resumed"]


def handshakes(resume: bool) -> Measure:
    """Connections for each second of the proxy's processor time: handshake, one small GET, end."""

    def measure(bench: Bench, proxy: Running) -> Measured:
        if wrong := probe(proxy, NEW_EACH, closes):
            return Measured(0.0, errors=wrong)
        options = ["-resume"] if resume else []
        outcome, each = _connections(bench, proxy, NEW_EACH, bench.seconds, *options)
        rate = outcome.requests / outcome.seconds
        columns = {
            "CPU µs/connection": each,
            "connections/s": rate,
            "busy %": rate * each / 1e4,
            "resumed %": 100 * outcome.resumed / max(outcome.handshakes, 1),
            "p50, ms": outcome.milliseconds.get("p50", 0.0),
        }
        errors = outcome.errors + _resumption(outcome, resume)
        return Measured(1e6 / each if each else 0.0, columns, errors, tuple(outcome.negotiated))

    return measure


def many_names(bench: Bench, proxy: Running) -> Measured:
    """The processor time of a connection for any of the site's names, in units of one for always the same."""
    assert proxy.site is not None
    if wrong := probe(proxy, NEW_EACH, closes):
        return Measured(0.0, errors=wrong)
    names = ["-names", str(proxy.site.names_file())]
    errors, columns = [], {}
    for visit in ("first", "second"):
        outcome, each = _connections(bench, proxy, NEW_EACH, PATIENCE, *names, "-each")
        errors += _unvisited(outcome, len(proxy.site.names))
        columns[f"CPU µs, each name's {visit}"] = each
    spent: dict[str, list[float]] = {"one name": [], "by chance": []}
    # In an order in which what else the machine does hits both.
    for which in ("one name", "by chance", "by chance", "one name"):
        options = names if which == "by chance" else []
        outcome, each = _connections(bench, proxy, NEW_EACH, max(1, bench.seconds // 2), *options)
        errors += outcome.errors + _resumption(outcome, False)
        spent[which].append(each)
    means = {which: statistics.fmean(times) for which, times in spent.items()}
    columns.update(means)
    ratio = means["by chance"] / means["one name"] if means["one name"] else 0.0
    return Measured(ratio, columns, errors, tuple(outcome.negotiated))


def _unvisited(outcome: Outcome, names: int) -> list[str]:
    wrong = [] if outcome.requests == names else [f"{outcome.requests} of {names} names were visited"]
    return outcome.errors + wrong


def context_memory(few: int, some: int, many: int) -> Measure:
    """MiB that it grows by from when `some` names were visited to `many`; it may keep `few` contexts."""

    def measure(bench: Bench, proxy: Running) -> Measured:
        assert proxy.site is not None
        if wrong := probe(proxy, NEW_EACH, closes):
            return Measured(0.0, errors=wrong)
        errors = connect_often(proxy, NEW_EACH, 1).errors
        before = proxy.fair_memory()
        after: dict[str, int] = {}
        # The last twice: what was not kept is loaded again.
        for name, count in (("few", few), ("some", some), ("many", many), ("again", many)):
            options = ["-names", str(proxy.site.names_file()), "-first", str(count), "-each"]
            outcome, _each = _connections(bench, proxy, ONE_AFTER_ANOTHER, PATIENCE, *options)
            errors += _unvisited(outcome, count)
            after[name] = proxy.fair_memory()
        columns = {
            "MiB before": before / MIB,
            f"after {few:,}": after["few"] / MIB,
            f"after {some:,}": after["some"] / MIB,
            f"after {many:,}": after["many"] / MIB,
            "and again": after["again"] / MIB,
            f"KiB each of {few:,}": (after["few"] - before) / few / KIB,
        }
        return Measured((after["again"] - after["some"]) / MIB, columns, errors)

    return measure


def http2_requests_per_second(bench: Bench, proxy: Running) -> Measured:
    """Answers a second over HTTP/2, and the processor time of one."""
    if wrong := probe(proxy, SMALL_GET, answers(SMALL_ANSWER)):
        return Measured(0.0, errors=wrong)
    before = proxy.cpu()
    outcome = watched(bench, lambda: http2(proxy, SMALL_GET, H2_REQUESTS))
    cpu = proxy.cpu() - before
    columns = {
        "CPU µs/request": cpu * 1e6 / max(outcome.requests, 1),
        "busy %": 100 * cpu / outcome.seconds,
    }
    return Measured(outcome.requests / outcome.seconds, columns, outcome.errors)
