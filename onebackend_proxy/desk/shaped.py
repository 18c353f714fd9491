"""Exchanges whose answers get other fields: what most policies come to, once the request is let in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ProxyError
from ..exchange import Exchange
from ..messages import Headers, ResponseHead
from ..policies.editing import Values
from .outlet import Outlet, shaped

if TYPE_CHECKING:
    from .guard import Guard


class PolicyExchange(Exchange):
    """An exchange of a Route with a policy, or of such a service, which has to be told of the guard."""

    guard: Guard
    fields: Headers = []  # noqa: RUF012 (never changed in place)
    """What is added to the answer, whoever makes it."""

    asked_host = b""
    """The host that the client asked for, where the service gets another one."""

    def values(self, **more: str) -> Values:
        """What placeholders stand for, and what else is said."""
        return Values(self.request, self.user, self.asked_host, **more)

    @property
    def only_listens(self) -> bool:
        """Whether there is nothing more to do but to hear the upstream out."""
        return self._request_done and not self._paused_by_client

    def request_ended(self, trailers: Headers) -> None:
        """See `Exchange`; what the policy has a word on is not said in trailers."""
        if trailers:
            guard = self.guard
            if guard.request_edits is not None:
                trailers = guard.request_edits.without(trailers)
            if guard.forward is not None:
                copied = guard.forward.copied
                trailers = [field for field in trailers if field[0].lower() not in copied]
        Exchange.request_ended(self, trailers)

    def answer_ended(self, trailers: Headers) -> None:
        """See `Exchange`; as with `request_ended`."""
        if trailers and self.guard.response_edits is not None:
            trailers = self.guard.response_edits.without(trailers)
        Exchange.answer_ended(self, trailers)

    def refuse(self, error: ProxyError) -> None:
        """See `Exchange`."""
        self.fields = [*self.fields, *error.fields]
        super().refuse(error)


class ShapedExchange(PolicyExchange):
    """One that was let in at once, and whose answer's body stays as it is."""

    lines = b""
    """`fields`, as they go out."""

    def head_received(self, head: ResponseHead) -> None:
        """See `Exchange`."""
        Exchange.head_received(self, shaped(head, self, self.lines))

    def refuse(self, error: ProxyError) -> None:
        """See `Exchange`."""
        self._downstream = Outlet(self._downstream, self)
        super().refuse(error)
