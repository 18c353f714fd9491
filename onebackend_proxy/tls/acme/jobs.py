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
MAX_QUEUE = 1000
"""Names that wait for their turn, of those that nobody waits for."""
LAST_WORDS = 2.0
"""Seconds in which orders that are broken off may take their challenges back."""


@attrs.define(eq=False)
class Job:
    """A name whose certificate is to be ordered, and who waits for that.

    `demanded` says that a client waits, `forced` that somebody wants it whatever has failed before, and
    `since` when the first did, in Unix seconds. `running` is the order, once it is under way.
    """

    name: str
    since: float
    demanded: bool = False
    forced: bool = False
    running: Deferred[None] | None = None
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
        self._queue: deque[Job] = deque()
        self._running = 0
        self._begun: deque[float] = deque()
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
        return len(self._queue) >= MAX_QUEUE

    def add(self, name: str, *, demanded: bool = False, forced: bool = False) -> Job:
        """The job for this name, which is a new one if there is none."""
        job = self._jobs.get(name)
        if job is None:
            job = self._jobs[name] = Job(name, self._reactor.seconds())
            self._queue.append(job)
        if demanded and not job.demanded:
            job.demanded = True
            if job.running is None:
                self._queue.remove(job)
                self._queue.appendleft(job)
        job.forced = job.forced or forced
        return job

    def begin(self) -> None:
        """Begin as many as may be under way."""
        now = self._reactor.seconds()
        while self._begun and not now - PACE_SECONDS < self._begun[0] <= now:
            self._begun.popleft()
        while self._queue and not self._stopping:
            if len(self._begun) >= PACE:
                self._later(self._begun[0] + PACE_SECONDS - now)
                return
            job = self._queue[0]
            if self._running >= (2 * AT_ONCE if job.demanded else AT_ONCE):
                return
            self._queue.popleft()
            self._begun.append(now)
            self._running += 1
            job.running = Deferred.fromCoroutine(self._run(job))
            job.running.addBoth(self._ended, job)

    def _ended(self, result: Any, job: Job) -> None:
        self._running -= 1
        self._finish(job, result if isinstance(result, Failure) else None)
        self._later(0.0)

    def _finish(self, job: Job, failure: Failure | None) -> None:
        del self._jobs[job.name]
        self._told(job, failure)
        job.tell(failure)

    def stop(self, failure: Failure) -> Deferred[Any]:
        """Begin no more, tell `failure` to those in the queue, and break off the others; fires soon."""
        self._stopping = True
        self._queue.clear()
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
