"""``GET /proxy-svc/metrics``: what Prometheus scrapes."""

from __future__ import annotations

from ..password_work import InThread
from .exposition import MetricSources, text_of
from .json_resource import Answer, Call, Operation
from .permissions import METRICS_VIEW, require


def metrics_operation(sources: MetricSources, in_thread: InThread) -> Operation:
    """The call that tells all numbers, to who may see them or has the token for it."""

    async def read(call: Call) -> Answer:
        if not call.keyed:
            require(call.caller.roles, METRICS_VIEW)
        # The text takes long to make where there are many Routes: not in the reactor's thread.
        text, headers = await in_thread(text_of, sources.picture(), call.accept, call.accept_encoding)
        return Answer(200, encoded=text, headers=headers)

    return Operation(b"GET", ("metrics",), read, key=sources.token)
