"""Runs the peers beside us, each in turn, and writes medians and ratios as Markdown and JSON."""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import platform
import statistics
import sys

import peers
from load import load, loader_name

PROXY_CORE = 0
LOAD_CORE = 1
OURS = "onebackend_proxy, access log"


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of load, each time")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--json", type=pathlib.Path, help="write the figures there")
    arguments = parser.parse_args()

    with contextlib.ExitStack() as running:
        port = running.enter_context(peers.backend(LOAD_CORE))
        proxies = {
            "twisted.web.proxy.ReverseProxyResource": running.enter_context(peers.stock(port, PROXY_CORE)),
            f"{OURS} to /dev/null": running.enter_context(peers.ours(port, PROXY_CORE, "/dev/null")),
            f"{OURS} to a file": running.enter_context(peers.ours(port, PROXY_CORE, "{folder}/access.log")),
        }
        figures: dict[str, dict[str, list[float]]] = {
            name: {"rate": [], "per_cpu_second": []} for name in proxies
        }
        for number in range(arguments.rounds):
            for name, proxy in proxies.items():
                print(f"round {number + 1} of {arguments.rounds}: {name}", file=sys.stderr)
                before = proxy.cpu()
                result = load(proxy.url, arguments.seconds, arguments.connections, LOAD_CORE)
                if result.errors:
                    sys.exit(f"{name}: {result.errors}")
                used = proxy.cpu() - before
                figures[name]["rate"].append(result.rate)
                figures[name]["per_cpu_second"].append(result.rate * arguments.seconds / used)
        report(figures, arguments)


def report(figures: dict[str, dict[str, list[float]]], arguments: argparse.Namespace) -> None:
    """The table, every ratio against the first peer."""
    medians = {
        name: {kind: statistics.median(values) for kind, values in kinds.items()}
        for name, kinds in figures.items()
    }
    first = next(iter(medians.values()))
    print(f"Small keep-alive GETs, {arguments.connections} connections, {arguments.rounds} rounds of")
    print(f"{arguments.seconds:g} s, medians; loader: {loader_name()}, Python {platform.python_version()}\n")
    rows = [("proxy", "requests/s", "ratio", "per CPU second", "ratio")]
    for name, median in medians.items():
        rate, per_cpu = median["rate"], median["per_cpu_second"]
        rows.append(
            (
                name,
                f"{rate:,.0f}",
                f"{rate / first['rate']:.2f}",
                f"{per_cpu:,.0f}",
                f"{per_cpu / first['per_cpu_second']:.2f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for number, row in enumerate(rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    if arguments.json:
        arguments.json.write_text(json.dumps({"medians": medians, "rounds": figures}, indent=1) + "\n")


main()
