"""To whom an answer goes that the proxy has asked for on its own account."""

from __future__ import annotations

from ..messages import Headers, ResponseHead
from ..tunnel import Tunnel


class Nobody:
    """An `interfaces.Downstream` without a client: what is asked for in the background is for the cache."""

    def inform(self, head: ResponseHead) -> None:
        """See `interfaces.Downstream`, as all that follows."""

    respond = inform

    def write(self, data: bytes) -> None:
        """Not sent to anybody."""

    def flush(self) -> None:
        """Nothing was held."""

    def end(self, trailers: Headers) -> None:
        """Complete."""

    def abort(self) -> None:
        """Broken off."""

    def refuse(self, status: int, message: str) -> None:
        """The exchange itself tells the log."""

    def pause_request(self) -> None:
        """There is no body."""

    def resume_request(self) -> None:
        """There is none."""

    def switch(self, head: ResponseHead, tunnel: Tunnel) -> None:
        """Never asked for."""

    def half_close(self) -> None:
        """Never, either."""
