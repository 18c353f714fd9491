"""A proxy whose listening sockets are somebody else's, as systemd's are: they outlive it."""

from __future__ import annotations

import pathlib
import shlex
import socket
import sys
from types import TracebackType

from .edge import Edge
from .proxy_process import command

# What systemd does between fork and exec (sd_listen_fds(3)): descriptors from 3 on, and whose they are.
_LAUNCHER = """
import os, sys
names, given = sys.argv[1], [os.dup(int(number)) for number in sys.argv[2].split(",")]
moved = [os.dup2(number, 100 + index) for index, number in enumerate(given)]
for index, number in enumerate(moved):
    os.dup2(number, 3 + index, inheritable=True)
os.closerange(3 + len(moved), 200)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(moved)), "LISTEN_FDNAMES": names}
os.execv(sys.argv[3], sys.argv[3:])
"""
UNITS = pathlib.Path(__file__).parents[2] / "docs" / "systemd"
"""The units that users install: what is in them is what these tests start."""
SERVICE = UNITS / "onebackend-proxy.service"
SOCKETS = tuple(UNITS / f"onebackend-proxy-{name}.socket" for name in ("http", "https", "services"))


def settings_of(unit: pathlib.Path, name: str) -> list[str]:
    """Every value that a unit gives to this setting."""
    lines = [line.partition("=") for line in unit.read_text().splitlines()]
    return [value for key, _, value in lines if key == name]


def unit_options() -> list[str]:
    """What the unit's command line has behind ``onebackend-proxy``."""
    [line] = settings_of(SERVICE, "ExecStart")
    words = shlex.split(line)
    return words[words.index("onebackend-proxy") + 1 :]


def _everywhere() -> socket.socket:
    """As ``ListenStream=80``: IPv6 and IPv4 in one, where there is IPv6."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("::", 0), family=socket.AF_INET6, backlog=4096, dualstack_ipv6=True)
    return socket.create_server(("0.0.0.0", 0), backlog=4096)


class ActivatedEdge(Edge):
    """An edge that inherits its sockets; it may be started again and again."""

    def __init__(self, work: pathlib.Path, *options: str) -> None:
        super().__init__(work, *options)
        self.sockets = (_everywhere(), _everywhere(), socket.create_server(("127.0.0.1", 0), backlog=4096))
        self.http_port, self.https_port, self.port = (each.getsockname()[1] for each in self.sockets)
        self.url = f"http://127.0.0.1:{self.port}"
        self.options = options
        self.descriptors = tuple(each.fileno() for each in self.sockets)

    def arguments(self) -> list[str]:
        """See `ProxyProcess`: by way of a launcher that does what systemd does."""
        options = unit_options()
        if not socket.has_dualstack_ipv6():
            options = [option.replace("INET6", "INET") for option in options]
        names = ":".join(settings_of(unit, "FileDescriptorName")[0] for unit in SOCKETS)
        numbers = ",".join(map(str, self.descriptors))
        program = command(*options, "--folder", str(self.folder), *self.options)
        return [sys.executable, "-c", _LAUNCHER, names, numbers, *program]

    def restart(self) -> None:
        """As ``systemctl restart``: SIGTERM, wait for the end, start it with the same sockets."""
        self.terminate()
        assert self.wait() == 0, self.log()
        self.start()

    def __enter__(self) -> ActivatedEdge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        for each in self.sockets:
            each.close()
