"""Names: each looked up once at a time and kept for a moment, and slow ones in nobody's way."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as running
from twisted.internet.defer import Deferred
from twisted.internet.error import DNSLookupError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from onebackend_proxy.upstream.names import (
    FAILURE_KEPT,
    KEPT,
    MAX_KEPT,
    NEW,
    QUICK,
    SLOW,
    SLOWLY,
    LookupFailed,
    LookupGivenUp,
    Names,
    names_of,
)

from ..properties import PROPERTY

# Twisted types it as a module.
reactor: Any = running
HOSTS = ("192.0.2.1", "2001:db8::1")


class Threads(Clock):
    """A clock whose threads wait to be let go: `asked` has the names they look up, `said` what is found."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.said: dict[str, Any] = {}
        self._works: list[Callable[[], None]] = []

    def names(self) -> Names:
        return Names(self, self._getaddrinfo, self._start)

    def callFromThread(self, call: Callable[..., object], *args: Any) -> None:
        self.callLater(0, call, *args)

    def _start(self, name: str, work: Callable[[], None]) -> None:
        self.asked.append(name)
        self._works.append(work)

    def _getaddrinfo(self, name: bytes, port: int, *, type: int) -> Any:
        assert (port, type) == (0, socket.SOCK_STREAM)
        said = self.said.get(name.decode("ascii"), HOSTS)
        if isinstance(said, Exception):
            raise said
        return [
            (socket.AF_INET6, type, 6, "", (host, 0, 0, 0))
            if ":" in host
            else (socket.AF_INET, type, 6, "", (host, 0))
            for host in said
        ]

    def answer(self, name: str | None = None) -> None:
        """Let the look-up of this name go, or the first one that is at work."""
        index = 0 if name is None else self.asked.index(name)
        del self.asked[index]
        self._works.pop(index)()
        self.advance(0)


class NamesTests(SynchronousTestCase):
    """With threads that a test lets go."""

    def setUp(self) -> None:
        self.threads = Threads()
        self.names = self.threads.names()

    def known(self, name: str, takes: float = 0.0) -> None:
        """Look this name up until what was found is forgotten again."""
        self.names.look_up(name).addErrback(lambda _: None)
        self.threads.advance(takes)
        self.threads.answer(name)
        self.threads.advance(KEPT)


class TestAnswers(NamesTests):
    """What is found, how often it is asked, and how long it is kept."""

    def test_the_addresses_in_their_order(self) -> None:
        for hosts in (HOSTS, HOSTS[::-1]):
            self.threads.said["a.example"] = hosts
            found = self.names.look_up("a.example")
            self.assertNoResult(found)
            self.threads.answer()
            assert self.successResultOf(found) == hosts
            self.threads.advance(KEPT)

    def test_one_look_up_whoever_asks(self) -> None:
        found = [self.names.look_up("a.example") for _ in range(3)]
        assert self.threads.asked == ["a.example"]
        self.threads.answer()
        assert [self.successResultOf(each) for each in found] == [HOSTS] * 3

    def test_what_is_known_comes_at_once_and_for_a_moment(self) -> None:
        self.names.look_up("a.example")
        self.threads.answer()
        self.threads.advance(KEPT - 0.1)
        assert self.successResultOf(self.names.look_up("a.example")) == HOSTS
        self.threads.advance(0.1)
        self.assertNoResult(self.names.look_up("a.example"))
        assert self.threads.asked == ["a.example"]

    def test_a_failure_is_kept_too_but_not_as_long(self) -> None:
        self.threads.said["a.example"] = socket.gaierror(socket.EAI_NONAME, "not known")
        for found in [self.names.look_up("a.example") for _ in range(2)]:
            if self.threads.asked:
                self.threads.answer()
            self.failureResultOf(found, DNSLookupError)
        self.threads.advance(FAILURE_KEPT - 0.1)
        self.failureResultOf(self.names.look_up("a.example"), DNSLookupError)
        assert self.threads.asked == []
        self.threads.advance(0.1)
        self.assertNoResult(self.names.look_up("a.example"))

    def test_a_name_without_an_address_is_not_one_that_could_not_be_looked_up(self) -> None:
        for said, error, text in (
            (
                socket.gaierror(socket.EAI_NONAME, "x"),
                DNSLookupError,
                "DNS lookup failed: no address for n0.",
            ),
            (
                socket.gaierror(socket.EAI_NODATA, "x"),
                DNSLookupError,
                "DNS lookup failed: no address for n1.",
            ),
            ((), DNSLookupError, "DNS lookup failed: no address for n2."),
            (socket.gaierror(socket.EAI_AGAIN, "Later"), LookupFailed, "looking up its name failed: Later"),
            (OSError(24, "Too many files"), LookupFailed, "looking up its name failed: Too many files"),
            (UnicodeError("odd"), LookupFailed, "looking up its name failed: odd"),
        ):
            name = f"n{len(self.threads.said)}"
            self.threads.said[name] = said
            found = self.names.look_up(name)
            self.threads.answer()
            assert str(self.failureResultOf(found, error).value) == text

    def test_a_name_that_idna_does_not_know(self) -> None:
        for name in ("my_service", "a" * 70):
            found = self.names.look_up(name)
            self.threads.answer(name)
            assert self.successResultOf(found) == HOSTS

    def test_what_is_kept_is_bounded(self) -> None:
        for number in range(MAX_KEPT + 1):
            self.names.look_up(f"a{number}")
            self.threads.answer()
        assert repr(self.names) == f"<Names {MAX_KEPT} kept, 0 at work, 0 queued>"
        self.successResultOf(self.names.look_up("a1"))
        self.assertNoResult(self.names.look_up("a0"))

    def test_what_was_not_asked_for_longest_is_forgotten(self) -> None:
        for name in ("a", "b", "a"):
            self.known(name)
        for number in range(MAX_KEPT - 1):
            self.names.look_up(f"more{number}")
            self.threads.answer()
        assert "a" in self.names._answers
        assert "b" not in self.names._answers

    def test_no_thread(self) -> None:
        def no_thread(name: str, work: object) -> None:
            raise RuntimeError("can't start new thread")

        names = Names(self.threads, in_thread=no_thread)
        found = names.look_up("a.example")
        self.assertNoResult(found)
        self.threads.advance(0)
        assert "can't start new thread" in str(self.failureResultOf(found, LookupFailed).value)
        assert repr(names) == "<Names 1 kept, 0 at work, 0 queued>"


class TestGivingUp(NamesTests):
    """Who gives up waits no longer; the look-up may go on."""

    def test_one_gives_up(self) -> None:
        gone, waits = self.names.look_up("a.example"), self.names.look_up("a.example")
        gone.cancel()
        self.failureResultOf(gone, LookupGivenUp)
        self.threads.answer()
        assert self.successResultOf(waits) == HOSTS

    def test_all_give_up_and_the_answer_serves_who_comes_next(self) -> None:
        found = self.names.look_up("a.example")
        found.cancel()
        self.failureResultOf(found, LookupGivenUp)
        joined = self.names.look_up("a.example")
        assert self.threads.asked == ["a.example"]
        self.threads.answer()
        assert self.successResultOf(joined) == self.successResultOf(self.names.look_up("a.example")) == HOSTS

    def test_what_waits_for_a_thread_is_not_looked_up_for_nobody(self) -> None:
        for number in range(NEW):
            self.names.look_up(f"a{number}")
        waits = self.names.look_up("b.example")
        assert repr(self.names) == f"<Names 0 kept, {NEW} at work, 1 queued>"
        waits.cancel()
        self.failureResultOf(waits, LookupGivenUp)
        assert repr(self.names) == f"<Names 0 kept, {NEW} at work, 0 queued>"
        self.threads.answer()
        assert "b.example" not in self.threads.asked

    def test_one_gives_up_because_another_has_its_answer(self) -> None:
        first, second = self.names.look_up("a.example"), self.names.look_up("a.example")
        first.addCallback(lambda _: second.cancel())
        self.threads.answer()
        self.successResultOf(first)
        self.failureResultOf(second, LookupGivenUp)


class TestThreads(NamesTests):
    """How many look-ups are at work, and who waits for whom."""

    def test_names_that_were_slow_leave_threads_to_all_others(self) -> None:
        for number in range(SLOWLY + 1):
            self.known(f"slow{number}", SLOW + 0.1)
        for number in range(SLOWLY + 1):
            self.names.look_up(f"slow{number}")
        assert len(self.threads.asked) == SLOWLY
        self.names.look_up("new.example")
        assert self.threads.asked[-1] == "new.example"

    def test_new_names_leave_threads_to_those_that_were_quick(self) -> None:
        for number in range(QUICK - NEW + 1):
            self.known(f"quick{number}", SLOW)
        for number in range(NEW + 1):
            self.names.look_up(f"new{number}")
        assert len(self.threads.asked) == NEW
        for number in range(QUICK - NEW + 1):
            self.names.look_up(f"quick{number}")
        assert len(self.threads.asked) == QUICK
        assert self.threads.asked[-1] == f"quick{QUICK - NEW - 1}"
        # A thread that becomes free is for one that was quick.
        self.threads.answer()
        assert self.threads.asked[-1] == f"quick{QUICK - NEW}"

    def test_localhost_waits_for_nobody(self) -> None:
        self.test_new_names_leave_threads_to_those_that_were_quick()
        found = self.names.look_up("localhost")
        assert self.threads.asked[-1] == "localhost"
        self.threads.answer("localhost")
        assert self.successResultOf(found) == HOSTS
        assert len(self.threads.asked) == QUICK

    def test_a_name_that_was_slow_may_be_quick_again(self) -> None:
        self.known("b.example", SLOW + 0.1)
        self.known("b.example")
        for number in range(NEW):
            self.names.look_up(f"new{number}")
        self.names.look_up("b.example")
        assert self.threads.asked[-1] == "b.example"


@PROPERTY
@given(
    st.lists(
        st.tuples(st.sampled_from(["ask", "answer", "give up", "wait"]), st.integers(0, 60)), max_size=120
    )
)
def test_every_look_up_ends_and_no_thread_is_lost(steps: list[tuple[str, int]]) -> None:
    threads = Threads()
    names = threads.names()
    asked: list[Deferred[Any]] = []
    results: list[Any] = []
    for step, number in steps:
        if step == "ask":
            for name in ("localhost", *(f"a{each}" for each in range(number))):
                asked.append(names.look_up(name))
                asked[-1].addBoth(results.append)
        elif step == "answer" and threads.asked:
            threads.answer(threads.asked[number % len(threads.asked)])
        elif step == "give up" and asked:
            asked[number % len(asked)].cancel()
        elif step == "wait":
            threads.advance(number / 10)
        assert len(set(threads.asked)) == len(threads.asked) <= QUICK + 1
    while threads.asked:
        threads.answer()
    assert len(results) == len(asked)
    assert repr(names).endswith("kept, 0 at work, 0 queued>")


class TestRealThreads(TestCase):
    """The threads and the getaddrinfo of the system, and of one that hangs."""

    async def test_localhost(self) -> None:
        assert set(await names_of(reactor).look_up("localhost")) & {"127.0.0.1", "::1"}
        assert names_of(reactor) is names_of(reactor)

    async def test_slow_names_hold_up_nobody(self) -> None:
        go_on = threading.Event()
        self.addCleanup(go_on.set)

        def getaddrinfo(name: bytes, *rest: Any, **named: Any) -> Any:
            if name.startswith(b"slow"):
                go_on.wait(60)
            return socket.getaddrinfo("127.0.0.1", *rest, **named)

        names = Names(reactor, getaddrinfo)
        slow = [names.look_up(f"slow{number}.example") for number in range(2 * NEW)]
        assert await names.look_up("localhost") == ("127.0.0.1",)
        # Nor are the reactor's own threads in use.
        done: Deferred[None] = Deferred()
        reactor.callInThread(lambda: reactor.callFromThread(done.callback, None))
        await done
        slow[-1].cancel()
        with self.assertRaises(LookupGivenUp):
            await slow[-1]
        go_on.set()
        for found in slow[:-1]:
            assert await found == ("127.0.0.1",)


ENDS = """
import socket, time
from twisted.internet import reactor
from onebackend_proxy.upstream.names import names_of

def hangs(*rest, **named):
    time.sleep(60)

names = names_of(reactor)
names._getaddrinfo = hangs
for number in range(12):
    names.look_up(f"slow{number}.example")
names.look_up("localhost")
reactor.callLater(0.1, reactor.stop)
reactor.run()
print("stopped")
"""


def test_the_end_of_the_process_waits_for_no_name() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=30, check=True
    )
    assert (done.stdout, done.stderr) == ("stopped\n", "")
