"""What twistd runs."""

from __future__ import annotations

import signal
import types
from typing import Any

import pytest

import onebackend_proxy
from onebackend_proxy import ProxyService, service
from onebackend_proxy.listening import ListeningService
from onebackend_proxy.options import Options
from onebackend_proxy.service import makeService

from .assembly import AssemblyTests
from .conformance import instance


class TestMakeService(AssemblyTests):
    """What twistd runs."""

    def options(self, *arguments: str) -> Options:
        options = Options()
        self.patch(service, "ProxyService", lambda settings, reactor: ProxyService(settings, self.reactor))
        self.patch(
            service,
            "ListeningService",
            lambda proxy, _reactor, _daemon: ListeningService(proxy, self.reactor),
        )
        options.parseOptions(
            ["--folder", str(self.folder), "--access-log", self.settings.access_log, *arguments]
        )
        return options

    def test_its_parts(self) -> None:
        made = makeService(self.options())
        assert [type(child).__name__ for child in made] == ["ProxyService", "ListeningService", "_Process"]

    def test_a_folder_that_cannot_be_used_is_one_line(self) -> None:
        self.folder.write_text("a file")
        refusals: list[str] = []

        def refuse(message: str) -> None:
            refusals.append(message)
            raise SystemExit(1)

        options = self.options()
        self.patch(service, "refuse_to_start", refuse)
        with pytest.raises(SystemExit):
            makeService(options)
        assert len(refusals) == 1 and refusals[0].startswith("--folder: ")

    def test_a_second_signal_does_not_wait(self) -> None:
        set_to: dict[int, Any] = {}
        fake = types.SimpleNamespace(
            signal=lambda number, call: set_to.__setitem__(number, call),
            SIGTERM=signal.SIGTERM,
            SIGINT=signal.SIGINT,
            SIGHUP=signal.SIGHUP,
        )
        self.patch(service, "signal", fake)
        self.store.save_instance(instance("http://10.0.0.1:8000"))
        proxy, listening = self.started()
        self.upstream()
        signals = service._Process(proxy, listening, self.reactor)
        signals.startService()
        assert set_to == {}
        self.reactor.run()
        self.reactor.stops = 0
        self.reactor.advance(0)
        assert set(set_to) == {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
        client = self.connect(listening).ask(b"GET /svc/x HTTP/1.1")
        wire = self.upstream()
        set_to[signal.SIGTERM](signal.SIGTERM, None)
        assert self.reactor.stops == 1
        stopped = [listening.stopService(), proxy.stopService()]
        assert not client.wire.closed
        set_to[signal.SIGINT](signal.SIGINT, None)
        self.reactor.pump([0.0] * 3)
        assert self.reactor.stops == 1
        assert wire.aborted and client.wire.closed
        for each in stopped:
            self.successResultOf(each)


def test_public_names_are_loaded_when_they_are_used() -> None:
    for name in onebackend_proxy.__all__:
        assert getattr(onebackend_proxy, name).__name__ == name
    assert sorted(onebackend_proxy.__all__) == onebackend_proxy.__all__
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        onebackend_proxy.Nonsense  # noqa: B018
