"""What is kept takes as much memory as it says, and no more than it may."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from onebackend_proxy.desk.storage import Kept, Storage
from onebackend_proxy.headers import prepare_response
from onebackend_proxy.policies.cache_control import shown_date
from onebackend_proxy.policies.cache_requests import PLAIN
from onebackend_proxy.policies.caching import terms_of

NOW = 1_800_000_000.0


def kept(number: int = 0, size: int = 100, fields: int = 4) -> Kept:
    """An answer that differs from all others."""
    raw = [(b"Cache-Control", b"max-age=%d" % (1000 + number)), (b"Date", shown_date(NOW + number))]
    raw += [(b"X-%d-%d" % (number, each), b"value %d %d" % (number, each)) for each in range(fields)]
    head = prepare_response(b"GET", True, 200, b"OK", [*raw, (b"Content-Length", b"%d" % size)])
    terms = terms_of(PLAIN, head, NOW, NOW)
    assert terms is not None
    return Kept(b"http\nx.com\n/%d\n\n" % number, (), head, bytes(size), terms)


@pytest.mark.parametrize("size, fields", [(0, 0), (100, 5), (5000, 10), (100, 40)])
def test_sizes_are_not_flattered(size, fields):
    storage = Storage(10**9, 10**6)
    shelf = storage.shelf("x.com")
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(500):
            each = kept(number, size, fields)
            assert storage.put(shelf, each)
            each.head(NOW)
        gc.collect()
        real = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert storage.stats.entries == 500
    assert 0.7 < real / storage.stats.bytes < 1.1


def test_a_shelf_of_before_takes_nothing():
    storage = Storage(10**6, 10**6)
    old = storage.shelf("x.com")
    assert storage.put(old, kept())
    new = storage.shelf("x.com")
    assert storage.stats.entries == storage.stats.bytes == 0
    assert not storage.put(old, kept())
    assert storage.put(new, kept())
    assert storage.purge("x.com") == 1


def test_shelves_that_nobody_has_are_gone():
    storage = Storage(10**6, 10**6)
    for number in range(10):
        storage.shelf(f"{number}.x.com")
    gc.collect()
    assert len(storage._shelves) == 0
    assert repr(storage) == "<Storage: 0 answers, 0 of 1000000 bytes>"


def test_one_in_the_place_of_another():
    storage = Storage(10**6, 10**6)
    shelf = storage.shelf("x.com")
    first, second = kept(), kept()
    assert storage.put(shelf, first) and storage.put(shelf, second)
    assert (storage.stats.entries, storage.stats.bytes) == (1, second.size)
    storage.drop(first)
    assert storage.stats.entries == 1
    storage.drop(second)
    storage.drop(second)
    assert (storage.stats.entries, storage.stats.bytes, shelf.targets) == (0, 0, {})


def test_the_same_head_within_a_second():
    each = kept()
    assert each.head(NOW + 1.1) is each.head(NOW + 1.9)
    assert each.head(NOW + 1.9) is not each.head(NOW + 2)
    assert each.head(NOW + 2, b"fwd=stale").headers[-1] == (b"Cache-Status", b"onebackend-proxy; fwd=stale")
    assert each.head(NOW + 2).headers[-1] == (b"Cache-Status", b"onebackend-proxy; hit; ttl=998")
