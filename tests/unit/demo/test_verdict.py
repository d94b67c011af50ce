"""The demo's verdict: good only when everything is equal, done, and ended in good order."""

from __future__ import annotations

import io
from collections import Counter

import pytest
from rich.console import Console

from demo.catch_up import Behind
from demo.compare import Comparison
from demo.run import _verdict
from demo.view import show_verdict

VOTES = "pub.chive.graph.vote"


def comparison(*differences: str) -> Comparison:
    return Comparison(
        {VOTES: (3, 3, 2)},
        Counter(active=1),
        Counter({"record create": 3}),
        Counter({"chive.operations": 2}),
        list(differences),
    )


@pytest.mark.parametrize(
    ("differences", "fine", "code"),
    [([], True, 0), (["one"], True, 1), ([], False, 1), (["one"], False, 1)],
)
def test_the_exit_code(differences: list[str], fine: bool, code: int) -> None:
    console = Console(quiet=True)
    assert _verdict(console, comparison(*differences), fine=fine) == code


def test_the_table_and_the_differences_are_shown() -> None:
    console = Console(record=True, width=100, file=io.StringIO())
    show_verdict(console, comparison(*(f"difference {number}" for number in range(40))))
    text = console.export_text()
    assert VOTES in text
    assert "2 chive.operations" in text
    assert "difference 29" in text
    assert "difference 30" not in text
    assert "and 10 more" in text


@pytest.mark.parametrize("field", ["seqs", "lanes", "waiting", "outbox"])
def test_anything_left_is_not_caught_up(field: str) -> None:
    zeros = {"seqs": 0, "lanes": 0, "waiting": 0, "outbox": 0}
    assert Behind(**zeros).nothing
    assert not Behind(**{**zeros, field: 1}).nothing
