"""The peer to beat first: twisted.web's own reverse proxy, on the reactor that it would run on here."""

from __future__ import annotations

import sys

from twisted.internet import reactor
from twisted.web.proxy import ReverseProxyResource
from twisted.web.server import Site


def main() -> None:
    """Listen on the port given first, before the backend's port given second."""
    port, backend = map(int, sys.argv[1:3])
    site = Site(ReverseProxyResource("127.0.0.1", backend, b""))
    # Its access log is text made for each request; without one it is at its fastest.
    site.log = lambda request: None
    reactor.listenTCP(port, site, interface="127.0.0.1")
    reactor.run()


main()
