"""The parts that a profile of the worker names."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import sampler

CHECKOUT = Path(__file__).parents[3]


@pytest.mark.parametrize("rule", [rule for rule in sampler._RULES if rule.startswith("consumer/")])
def test_every_rule_for_our_own_code_names_a_path(rule: str) -> None:
    assert (CHECKOUT / rule).exists()


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("consumer/lanes/publisher.py", "lane and publisher"),
        ("consumer/state/facts.py", "state and reconcile"),
        ("consumer/events/envelope.py", "event envelope"),
        ("consumer/verify/mst.py", "tree shape"),
        ("consumer/verify/stream.py", None),
        ("lib/python3.11/site-packages/psycopg/cursor.py", "PostgreSQL client"),
        ("lib/python3.11/asyncio/events.py", None),
    ],
)
def test_the_longest_rule_decides(path: str, part: str | None) -> None:
    assert sampler.Sampler()._part(str(CHECKOUT / path)) == part
