"""The last filter before the client: what the operator changes in answers, and pages in place of errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ..interfaces import Downstream
from ..messages import Answer, Headers, ResponseHead, field_lines, own_answer, refusal
from ..policies.editing import Edits, Values
from ..tunnel import Tunnel
from .filters import Filter

if TYPE_CHECKING:
    from .shaped import PolicyExchange


MAX_SWALLOWED = 64 * 1024
"""Bytes of an error's body that are read for nobody, so that the connection can be used again."""
_OF_BODY = frozenset(
    (
        b"accept-ranges",
        b"cache-control",
        b"content-disposition",
        b"content-encoding",
        b"content-language",
        b"content-length",
        b"content-location",
        b"content-md5",
        b"content-range",
        b"content-type",
        b"date",
        b"digest",
        b"etag",
        b"expires",
        b"last-modified",
        b"trailer",
    )
)


class Outlet(Filter):
    """Edits heads, adds the exchange's own fields, counts what goes out, and makes pages of errors."""

    _swallows = False
    _swallowed = 0
    _counts = True

    def __init__(self, to: Downstream, exchange: PolicyExchange) -> None:
        super().__init__(to)
        self._exchange = exchange

    def respond(self, head: ResponseHead) -> None:
        """See `interfaces.Downstream`."""
        exchange = self._exchange
        guard = exchange.guard
        if guard.intercepts and head.status >= 400:
            page = self._page(head.status, head.reason.decode("latin-1"))
            if page is not None:
                # What it says about its body is not about this one; all else, who may log in say, is.
                kept = [field for field in head.headers if field[0].lower() not in _OF_BODY]
                self._send(*own_answer(attrs.evolve(page, headers=kept + page.headers), self._method))
                self._swallows = True
                self.to.end([])
                return
        self.to.respond(shaped(head, self._exchange))

    def write(self, data: bytes) -> None:
        """See `interfaces.Downstream`."""
        if self._swallows:
            self._swallowed += len(data)
            return
        if self._counts:
            self._exchange.bytes_out += len(data)
        self.to.write(data)

    def flush(self) -> None:
        """See `interfaces.Downstream`."""
        if not self._swallows:
            self.to.flush()
        elif self._swallowed > MAX_SWALLOWED or not self._exchange.only_listens:
            self._exchange.client_gone("a page stands in the place of this error")

    def end(self, trailers: Headers) -> None:
        """See `interfaces.Downstream`."""
        if not self._swallows:
            self.to.end(trailers)

    def abort(self) -> None:
        """See `interfaces.Downstream`; who has had a page does not mind."""
        if not self._swallows:
            self.to.abort()

    def switch(self, head: ResponseHead, tunnel: Tunnel) -> None:
        """See `interfaces.Downstream`; a tunnel counts what goes through it."""
        self._counts = False
        self.to.switch(shaped(head, self._exchange), tunnel)

    @property
    def _method(self) -> bytes:
        return self._exchange.request.method

    def refuse(self, status: int, message: str) -> None:
        """See `interfaces.Downstream`: an error of ours."""
        page = self._page(status, message)
        method = self._method
        self._send(*(refusal(status, message, method) if page is None else own_answer(page, method)))
        self.to.end([])

    def _send(self, head: ResponseHead, body: bytes) -> None:
        self.to.respond(shaped(head, self._exchange))
        if body:
            self._exchange.bytes_out += len(body)
            self.to.write(body)

    def _page(self, status: int, message: str) -> Answer | None:
        pages = self._exchange.guard.pages
        if pages is None:
            return None
        page = pages.page(status, self._exchange.values(status=str(status), message=message))
        if page is None:
            return None
        fields = [(b"Content-Type", b"text/html; charset=utf-8"), (b"Cache-Control", b"no-store")]
        return Answer(status, fields, page)


def shaped(head: ResponseHead, exchange: PolicyExchange, lines: bytes = b"") -> ResponseHead:
    """An answer's head with the exchange's own fields, and the policy's edits.

    `lines` are those fields as they go out, if somebody knows that already.
    """
    fields = exchange.fields
    edits = exchange.guard.response_edits
    if fields:
        head = head.with_lines(head.headers + fields, head.lines + (lines or field_lines(fields)))
        if edits is None:
            return head
    elif edits is None:
        return head
    elif edits.constant:
        return exchange.guard.edited(head)
    return with_edits(head, edits, exchange.values())


def with_edits(head: ResponseHead, edits: Edits, values: Values) -> ResponseHead:
    """The same after the edits."""
    return head.with_lines(*edits.applied(head.headers, head.lines, values))
