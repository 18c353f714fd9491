"""Whose budget an order is on."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.addresses import canonical_host
from onebackend_proxy.tls.acme.domains import registered_domain

from ...properties import PROPERTY

LABELS = st.sampled_from(
    ["a", "b", "www", "co", "com", "uk", "github", "io", "ck", "test", "xn--55qx5d", "cn"]
)
HOSTS = st.lists(LABELS, min_size=1, max_size=6).map(".".join)


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("example.com", "example.com"),
        ("a.b.example.com", "example.com"),
        ("*.example.com", "example.com"),
        ("*.b.example.com", "example.com"),
        ("a.b.x.co.uk", "x.co.uk"),
        # Who has a name at github.io shares no budget with the others there.
        ("ada.github.io", "ada.github.io"),
        ("www.ada.github.io", "ada.github.io"),
        # Rules with a wildcard, and the exception to one.
        ("a.b.foo.ck", "b.foo.ck"),
        ("a.www.ck", "www.ck"),
        # International suffixes, as canonical hosts spell them.
        (canonical_host("www.食狮.公司.cn"), canonical_host("食狮.公司.cn")),
        # Suffixes themselves, and what is below none that is known.
        ("github.io", "github.io"),
        ("*.github.io", "github.io"),
        ("co.uk", "co.uk"),
        ("com", "com"),
        ("localhost", "localhost"),
        ("a.b.internal", "b.internal"),
        # Addresses are nobody's domain.
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
    ],
)
def test_the_registered_domain(host, domain):
    assert registered_domain(host) == domain


@PROPERTY
@given(HOSTS)
def test_it_ends_the_host_and_is_its_own(host):
    domain = registered_domain(host)
    assert f".{host}".endswith(f".{domain}")
    assert registered_domain(domain) == domain
    assert registered_domain(f"*.{domain}") == domain


@PROPERTY
@given(HOSTS, LABELS)
def test_names_below_a_registered_domain_are_on_one_budget(host, label):
    domain = registered_domain(host)
    if registered_domain(f"{label}.{domain}") == domain:
        assert registered_domain(f"{label}.{host}") == domain


def test_the_list_is_read_when_it_is_first_needed():
    code = (
        "import sys; from onebackend_proxy.tls.acme import domains;"
        "assert 'publicsuffixlist' not in sys.modules;"
        "domains.registered_domain('a.b.com'); assert 'publicsuffixlist' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
