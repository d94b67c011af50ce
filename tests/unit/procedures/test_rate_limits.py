"""Token buckets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procedures.rate_limits import Rate, TokenBuckets, address_key

RATE = Rate(burst=3, per_second=0.5)


def test_a_burst_then_the_rate() -> None:
    buckets = TokenBuckets(RATE)
    assert [buckets.take("a", 0) for _ in range(4)] == [0, 0, 0, 2]
    assert buckets.take("a", 1.5) == 0.5
    assert buckets.take("a", 2.0) == 0
    assert buckets.take("b", 2.0) == 0


def test_a_rate_made_slower_allows_single_calls_still() -> None:
    assert Rate(30, 1).at(2) == Rate(60, 2)
    assert Rate(30, 1).at(0.01) == Rate(1, 0.01)


def test_refused_calls_cost_nothing_and_time_never_runs_backwards() -> None:
    buckets = TokenBuckets(RATE)
    for _ in range(20):
        buckets.take("a", 10)
    assert buckets.take("a", 5) == 2
    assert buckets.take("a", 7) == 0


@given(st.lists(st.floats(min_value=0, max_value=3), max_size=100))
def test_no_more_than_the_burst_and_the_rate(waits: list[float]) -> None:
    buckets, now, allowed = TokenBuckets(RATE), 0.0, 0
    for wait in waits:
        now += wait
        allowed += buckets.take("a", now) == 0
    assert allowed <= RATE.burst + now * RATE.per_second + 1e-6


def test_memory_is_bounded_and_the_busy_are_remembered() -> None:
    buckets = TokenBuckets(Rate(1, 0.001), capacity=10)
    for n in range(1_000):
        buckets.take("busy", n / 1_000)
        buckets.take(f"other-{n}", n / 1_000)
        assert len(buckets) <= 10
    assert buckets.take("busy", 1) > 0
    assert buckets.take("other-5", 1) == 0


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "20010db800010002/64"),
        ("2001:db8:1:2:ffff::", "20010db800010002/64"),
        ("testclient", "testclient"),
        (None, "-"),
    ],
)
def test_an_ipv6_network_is_one_client(host: str | None, key: str) -> None:
    assert address_key(host) == key
