"""``twistd web --listen onebackend:...``: another Twisted program with a proxy's certificates."""

from __future__ import annotations

import subprocess

import pytest
from twisted.web.http import H2_ENABLED

from .edge import shown_serial, wait_for_certificate
from .proxy_process import TWISTD, environment
from .waiting import free_port, wait_until

WITHIN = 2.0


class WebProcess:
    """``twistd web`` that serves files over https, by the certificates in a proxy's folder."""

    def __init__(self, work, folder):
        self.port = free_port()
        files = work / "files"
        files.mkdir()
        (files / "page.txt").write_text("a page of twistd web")
        self.log = work / "web.log"
        # What belongs to the endpoint inside is escaped, its equals signs too.
        listen = f"onebackend:tcp\\:{self.port}\\:interface\\=127.0.0.1:folder={folder}"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*TWISTD, "web", "--path", str(files), "--listen", listen],
                cwd=work,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def listens(self):
        assert self.process.poll() is None, self.log.read_text()
        return "starting on" in self.log.read_text()


@pytest.fixture
def web(new_edge, tmp_path):
    """With a proxy on the same folder."""
    edge = new_edge()
    edge.certify("x.test")
    web = WebProcess(tmp_path, edge.folder)
    try:
        wait_until(web.listens, "twistd web listens", 20)
        yield edge, web
    finally:
        web.process.terminate()
        web.process.wait(20)
    assert "Traceback" not in web.log.read_text()
    edge.stop()


def asked(edge, web, host, *options):
    # Instead of the port that would be the edge's own.
    edge.https_port = web.port
    return edge.curl(f"https://{host}/page.txt", *options)


def test_another_program_serves_with_the_certificates(web):
    edge, web = web
    answer = asked(edge, web, "x.test")
    assert (answer.status, answer.body) == (200, b"a page of twistd web")
    # It speaks what it can: twisted.web has HTTP/2 where the package "priority" is installed.
    assert answer.version == ("2" if H2_ENABLED else "1.1")
    assert asked(edge, web, "x.test", "--http1.1").version == "1.1"


def test_it_follows_what_is_saved_at_the_proxy(web):
    edge, web = web
    renewed = edge.certify("x.test")
    wait_for_certificate(web.port, "x.test", renewed.certificate.serial_number, WITHIN)
    added = edge.certify("y.test")
    wait_for_certificate(web.port, "y.test", added.certificate.serial_number, WITHIN)
    assert shown_serial(web.port, "x.test") == renewed.certificate.serial_number


def test_local_names_are_the_same_authoritys(web):
    edge, web = web
    edge.trust_local()
    assert asked(edge, web, "localhost").status == 200
