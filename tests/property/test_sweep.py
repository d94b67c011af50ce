"""Rounds of the sweep: every repository once, none before its time, all within the period."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from consumer.state.sweep import (
    MAX_PAGE,
    Finding,
    Round,
    Told,
    Tracked,
    Way,
    confirmed,
    finding,
    page_due,
    page_size,
)

_BEGAN = 1_800_000_000.0
_revs = st.sampled_from([f"3l4q{letter}aaaaaa22" for letter in "abcdef"])


@given(
    total=st.integers(1, 3_000),
    period=st.floats(60.0, 86_400.0),
    pauses=st.lists(st.floats(0.0, 5_000.0), max_size=20),
)
def test_a_walk_is_even_and_ends(total: int, period: float, pauses: list[float]) -> None:
    walk, now, pages = Round(Way.HOSTS, _BEGAN, ended=False, total=total, taken=0), _BEGAN, 0
    while walk.taken < total:
        now = max(now, page_due(walk, period))  # else it is late: nothing ran for a while
        size = page_size(walk, period, now)
        assert 1 <= size <= MAX_PAGE
        walk = replace(walk, taken=min(total, walk.taken + size))
        ahead = min(60.0, period / 100)
        even = total * (now - _BEGAN + ahead) / period
        assert walk.taken <= max(even, 1.0 + total * (now - _BEGAN) / period) + 1e-6
        pages += 1
        if pages < len(pauses):
            now += pauses[pages]
    assert now <= _BEGAN + period + sum(pauses)


@given(
    ours=st.lists(_revs, min_size=1, max_size=6).map(sorted),
    told=_revs,
    waits=st.lists(st.floats(0.0, 400.0), min_size=1, max_size=6),
)
def test_only_what_stays_behind_is_synced(ours: list[str], told: str, waits: list[float]) -> None:
    """Our rev moves on while a newer one is waited for."""
    known = Tracked("did:plc:a", 0, "active", "active", ours[0], None)
    found, now = finding(known, Told(rev=told)), _BEGAN
    for rev, wait in zip(ours, waits, strict=False):
        if found is not Finding.NEWER:
            break
        now += wait
        known = replace(known, rev=rev)
        found = confirmed(known, told, _BEGAN, firehose_at=None, confirm_after=600.0, now=now)
    assert known.rev is not None
    if found is Finding.BEHIND:
        assert known.rev < told
        assert now >= _BEGAN + 600.0
    elif found is Finding.IN_STEP:
        assert known.rev >= told
    else:
        assert found is Finding.NEWER
