"""What an answer goes through on its way to the client: each filter is a `Downstream` before another."""

from __future__ import annotations

from ..interfaces import Downstream
from ..messages import Headers, ResponseHead
from ..tunnel import Tunnel


class Filter:
    """An `interfaces.Downstream` that passes everything on as it is; others change what they are about."""

    def __init__(self, to: Downstream) -> None:
        self.to = to

    def inform(self, head: ResponseHead) -> None:
        """See `interfaces.Downstream`."""
        self.to.inform(head)

    def respond(self, head: ResponseHead) -> None:
        """See `interfaces.Downstream`."""
        self.to.respond(head)

    def write(self, data: bytes) -> None:
        """See `interfaces.Downstream`."""
        self.to.write(data)

    def flush(self) -> None:
        """See `interfaces.Downstream`."""
        self.to.flush()

    def end(self, trailers: Headers) -> None:
        """See `interfaces.Downstream`."""
        self.to.end(trailers)

    def abort(self) -> None:
        """See `interfaces.Downstream`."""
        self.to.abort()

    def refuse(self, status: int, message: str) -> None:
        """See `interfaces.Downstream`."""
        self.to.refuse(status, message)

    def pause_request(self) -> None:
        """See `interfaces.Downstream`."""
        self.to.pause_request()

    def resume_request(self) -> None:
        """See `interfaces.Downstream`."""
        self.to.resume_request()

    def switch(self, head: ResponseHead, tunnel: Tunnel) -> None:
        """See `interfaces.Downstream`."""
        self.to.switch(head, tunnel)

    def half_close(self) -> None:
        """See `interfaces.Downstream`."""
        self.to.half_close()
