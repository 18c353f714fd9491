"""What sslyze finds weak, by Mozilla's intermediate configuration: nothing. ``tox -e edge`` has sslyze."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys

import pytest

from ..tls.making import known_key

EXPECTED = {
    # It trusts no authority of ours.
    "certificate_path_validation": r".*",
    # Stronger than those that Mozilla names, and what OpenSSL offers.
    "tls_curves": r"TLS curves \{('secp521r1'|'X448'|, )+\} are supported, but should be rejected\.",
}


@pytest.fixture(scope="module")
def sslyze() -> list[str]:
    if importlib.util.find_spec("sslyze") is not None:
        return [sys.executable, "-m", "sslyze"]
    found = shutil.which("sslyze")
    if found is None:
        # It wants an older cryptography than the newest that we work with.
        pytest.skip("no sslyze here: tox -e edge")
    return [found]


@pytest.mark.parametrize("kind", ["P-256", "RSA-2048"])
def test_nothing_is_weak(edge, node, host, kind, sslyze, tmp_path):
    edge.route(host, node.url)
    edge.certify(host, key=known_key(kind))
    report = tmp_path / "report.json"
    options = ["--sni", host, "--mozilla_config=intermediate", "--resum", f"--json_out={report}"]
    done = subprocess.run(
        [*sslyze, *options, f"127.0.0.1:{edge.https_port}"], capture_output=True, text=True, timeout=120
    )
    issues = re.findall(r"^ +\* (\w+): (.*)$", done.stdout.partition("COMPLIANCE AGAINST")[2], re.MULTILINE)
    assert issues, done.stdout + done.stderr
    assert [(name, text) for name, text in issues if not re.fullmatch(EXPECTED.get(name, "(?!)"), text)] == []
    [result] = json.loads(report.read_text())["server_scan_results"]
    assert (result["connectivity_status"], result["scan_status"]) == ("COMPLETED", "COMPLETED")
    found = result["scan_result"]
    statuses = {name: each["status"] for name, each in found.items() if "status" in each}
    assert set(statuses.values()) <= {"COMPLETED", "NOT_SCHEDULED"}, statuses
    # And it has not found nothing because it found nobody.
    suites = {
        name: len(found[f"{name}_cipher_suites"]["result"]["accepted_cipher_suites"])
        for name in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1", "tls_1_2", "tls_1_3")
    }
    assert {name: number for name, number in suites.items() if number} == {"tls_1_2": 3, "tls_1_3": 3}
    resumption = found["session_resumption"]["result"]
    assert resumption["tls_ticket_resumption_result"] == "FULLY_SUPPORTED", resumption
