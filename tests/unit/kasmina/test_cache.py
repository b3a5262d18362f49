"""The kernel cache: bounds, single flight, eviction for good."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from esper.kasmina.cache import Entry, Evicted, KernelCache


def entry(size: int) -> Entry:
    return Entry(torch.nn.Identity(), size, 0.1, 1.0, 1.0)


def test_the_cache_is_bounded_by_count_and_bytes_oldest_first():
    cache = KernelCache(max_bytes=100, max_count=2)
    for name in "ab":
        cache.get(name, lambda: entry(10))
    cache.get("a", lambda: pytest.fail("it is held"))
    cache.get("c", lambda: entry(10))
    assert "b" not in cache
    assert "a" in cache
    cache.get("d", lambda: entry(95))
    assert len(cache) == 1
    assert cache.bytes == 95
    cache.get("huge", lambda: entry(101))
    assert "huge" not in cache
    assert "d" in cache
    assert (cache.hits, cache.misses, cache.evictions) == (1, 5, 3)


def test_many_ask_one_loads():
    cache, loads, results = KernelCache(100, 10), [], []

    def load() -> Entry:
        loads.append(1)
        time.sleep(0.05)
        return entry(1)

    threads = [threading.Thread(target=lambda: results.append(cache.get("a", load))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1
    assert len({id(result) for result in results}) == 1


def test_a_failed_load_fails_for_all_and_may_be_tried_again():
    cache, started, failures = KernelCache(100, 10), threading.Event(), []

    def load() -> Entry:
        started.set()
        time.sleep(0.05)
        raise ValueError("no")

    def ask() -> None:
        try:
            cache.get("a", load)
        except ValueError as error:
            failures.append(error)

    first = threading.Thread(target=ask)
    first.start()
    started.wait()
    second = threading.Thread(target=ask)
    second.start()
    first.join()
    second.join()
    assert len(failures) == 2
    assert cache.get("a", lambda: entry(1)).size == 1


def test_banned_kernels_are_refused_even_while_they_load():
    cache = KernelCache(100, 10)
    cache.get("a", lambda: entry(1))
    cache.ban("a", "it raised")
    assert "a" not in cache
    with pytest.raises(Evicted, match="it raised"):
        cache.get("a", lambda: entry(1))

    def load() -> Entry:
        cache.ban("b", "meanwhile")
        return entry(1)

    with pytest.raises(Evicted, match="meanwhile"):
        cache.get("b", load)
    assert "b" not in cache
