"""A program with pages of its own that also serves whatever is registered with it, below /services.

Run it with ``python docs/examples/embedded.py --port 8000 --folder data``. The account 1backend logs in at
``/services/user-svc/login`` with the password that is in ``data/admin-password`` from then on; a service that
is registered as ``hello`` is found at ``/services/hello/``.
"""

from __future__ import annotations

import argparse
import pathlib

from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.web.resource import Resource

from onebackend_proxy import ProxyService, ProxySite, Settings


class Welcome(Resource):
    """A page of the program's own."""

    isLeaf = True

    def render_GET(self, request):
        request.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
        return b"The services are below /services.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="A twisted.web program that embeds onebackend_proxy.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("data"))
    options = parser.parse_args()

    proxy = ProxyService(Settings(folder=options.folder), reactor)
    proxy.startService()
    reactor.addSystemEventTrigger("before", "shutdown", proxy.stopService)

    root = Resource()
    root.putChild(b"", Welcome())
    root.putChild(b"services", proxy.resource)

    # On a ProxySite bodies stream in both directions; the program's own pages do not notice.
    site = ProxySite(root, reactor)
    endpoint = serverFromString(reactor, f"tcp:{options.port}:interface=127.0.0.1")

    def listening(port):
        print(f"http://127.0.0.1:{port.getHost().port}/", flush=True)

    # Only when the registry is read does the proxy know where to send requests.
    proxy.ready.addCallback(lambda _: endpoint.listen(site)).addCallback(listening)
    reactor.run()


if __name__ == "__main__":
    main()
