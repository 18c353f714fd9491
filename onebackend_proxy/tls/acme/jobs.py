"""Names to order certificates for: one order each, a few at once, those that clients wait for first."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import attrs
from twisted.internet.defer import Deferred, gatherResults
from twisted.python.failure import Failure

AT_ONCE = 4
"""Orders under way; as many more may be for clients that wait."""
PACE, PACE_SECONDS = 10, 10.0
"""New orders in so many seconds, at most: what certmagic allows itself with one account."""
KEPT_FOR_VISITORS = 3
"""Of these, those that only clients who wait for the name of a Route may use."""
MAX_QUEUE = 1000
"""Names that wait for their turn, of those that nobody waits for."""
LAST_WORDS = 2.0
"""Seconds in which orders that are broken off may take their challenges back."""


@attrs.define(eq=False)
class Job:
    """A name whose certificate is to be ordered, and who waits for that.

    `demanded` says that a client waits, `forced` that somebody wants it whatever has failed before, and
    `since` when the first did, in Unix seconds. `made_up` is a name that no Route lists. `running` is what is
    under way, `ordered` whether it has come to an order.
    """

    name: str
    since: float
    made_up: bool = False
    demanded: bool = False
    forced: bool = False
    running: Deferred[None] | None = None
    ordered: bool = False
    _waiters: list[Deferred[None]] = attrs.field(factory=list, init=False)

    def wait(self) -> Deferred[None]:
        """Fires when it has ended, well or not; to cancel it cancels nothing else."""
        waiter: Deferred[None] = Deferred()
        self._waiters.append(waiter)
        return waiter

    def tell(self, failure: Failure | None) -> None:
        """It has ended."""
        for waiter in self._waiters:
            if waiter.called:
                continue
            if failure is None:
                waiter.callback(None)
            else:
                waiter.errback(failure)

    def cancel(self) -> None:
        """Break it off."""
        if self.running is not None:
            self.running.cancel()


class Jobs:
    """The jobs of one process. `run` does one, and `ended` is told of it before who waits is.

    `later` is called with the seconds after which `begin` is to be called again.
    """

    def __init__(
        self,
        reactor: Any,
        run: Callable[[Job], Coroutine[Any, Any, None]],
        ended: Callable[[Job, Failure | None], None],
        later: Callable[[float], None],
    ) -> None:
        self._reactor = reactor
        self._run = run
        self._told = ended
        self._later = later
        self._jobs: dict[str, Job] = {}
        # Those who wait for the name of a Route; such names; and what strangers have made up.
        self._visitors: deque[Job] = deque()
        self._listed: deque[Job] = deque()
        self._made_up: deque[Job] = deque()
        self._turn_of_listed = True
        self._running = 0
        # When those began that are under way or have come to an order.
        self._begun: dict[Job, float] = {}
        self._stopping = False

    def __repr__(self) -> str:
        return f"<Jobs: {self._running} of {len(self._jobs)} under way>"

    def __contains__(self, name: object) -> bool:
        return name in self._jobs

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    @property
    def full(self) -> bool:
        """Whether no more should be added that nobody waits for."""
        return len(self._listed) + len(self._made_up) >= MAX_QUEUE

    def add(self, name: str, *, made_up: bool = False, demanded: bool = False, forced: bool = False) -> Job:
        """The job for this name, which is a new one if there is none."""
        job = self._jobs.get(name)
        if job is None:
            job = self._jobs[name] = Job(name, self._reactor.seconds(), made_up)
            (self._made_up if made_up else self._listed).append(job)
        if demanded and not job.demanded:
            job.demanded = True
            if job.running is None and not job.made_up:
                self._listed.remove(job)
                self._visitors.append(job)
        job.forced = job.forced or forced
        return job

    def begin(self) -> None:
        """Begin as many as may be under way, those first that somebody waits for."""
        now = self._reactor.seconds()
        self._begun = {job: at for job, at in self._begun.items() if now - PACE_SECONDS < at <= now}
        while not self._stopping:
            queue = self._next_queue()
            if queue is None:
                return
            visitors = queue is self._visitors
            if len(self._begun) >= (PACE if visitors else PACE - KEPT_FOR_VISITORS):
                self._later(min(self._begun.values()) + PACE_SECONDS - now)
                return
            if self._running >= (2 * AT_ONCE if visitors else AT_ONCE):
                return
            if not visitors:
                self._turn_of_listed = queue is self._made_up
            job = queue.popleft()
            self._begun[job] = now
            self._running += 1
            job.running = Deferred.fromCoroutine(self._run(job))
            job.running.addBoth(self._ended, job)

    def _next_queue(self) -> deque[Job] | None:
        """Visitors first; of the others now one that a Route lists, now one that a stranger has made up."""
        others = (self._listed, self._made_up) if self._turn_of_listed else (self._made_up, self._listed)
        return next((queue for queue in (self._visitors, *others) if queue), None)

    def _ended(self, result: Any, job: Job) -> None:
        self._running -= 1
        if not job.ordered:
            # Nobody was asked for anything.
            self._begun.pop(job, None)
        self._finish(job, result if isinstance(result, Failure) else None)
        self._later(0.0)

    def _finish(self, job: Job, failure: Failure | None) -> None:
        del self._jobs[job.name]
        self._told(job, failure)
        job.tell(failure)

    def stop(self, failure: Failure) -> Deferred[Any]:
        """Begin no more, tell `failure` to those in the queue, and break off the others; fires soon."""
        self._stopping = True
        for queue in (self._visitors, self._listed, self._made_up):
            queue.clear()
        ending = []
        for job in self:
            if job.running is None:
                self._finish(job, failure)
            else:
                ending.append(_end_of(job.running))
                job.cancel()
        return gatherResults(ending).addTimeout(LAST_WORDS, self._reactor, onTimeoutCancel=lambda *_: None)


def _end_of(running: Deferred[None]) -> Deferred[None]:
    """Fires when `running` has ended, well or not; to cancel this does not cancel that."""
    waiter: Deferred[None] = Deferred()

    def tell(result: Any) -> Any:
        if not waiter.called:
            waiter.callback(None)
        return result

    running.addBoth(tell)
    return waiter
