"""docs/verification.md: its rows name reasons and tests that exist, and leave no reason out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from consumer.errors import Reason
from tests.fuzz import tables
from tests.vectors import needs_vectors

TESTS = Path(__file__).parents[1]
DOCUMENT = TESTS.parent / "docs" / "verification.md"
HAPPENS = {"refuse", "desync", "ignore", "skip", "retry", "fail", "disconnect"}
# What no rule for the network's input produces: our own topics and processes.
OURS = {Reason.BACKFILL_MALFORMED, Reason.PARKED_OVERFLOW, Reason.STALLED}

_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Rule:
    number: int
    rule: str
    source: str
    broken: str
    reasons: tuple[str, ...]
    tests: tuple[str, ...]


def _rules() -> list[Rule]:
    found = []
    for line in DOCUMENT.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6 and cells[0].isdigit():
            number, rule, source, broken, reasons, tests = cells
            codes = (tuple(_CODE.findall(cell)) for cell in (reasons, tests))
            found.append(Rule(int(number), rule, source, broken, *codes))
    return found


RULES = _rules()


def test_every_row_was_read() -> None:
    assert [rule.number for rule in RULES] == list(range(1, len(RULES) + 1))
    assert len(RULES) > 45


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.number}")
def test_a_rule_names_what_exists(rule: Rule) -> None:
    assert rule.rule
    assert rule.source
    assert rule.broken in HAPPENS
    assert set(rule.reasons) <= set(Reason)
    assert rule.tests
    for name in rule.tests:
        file, _, test = name.partition("::")
        source = (TESTS / file).read_text()
        assert re.search(rf"^\s*(async )?def {re.escape(test)}\(", source, re.MULTILINE), name


def test_every_reason_has_a_rule() -> None:
    named = {reason for rule in RULES for reason in rule.reasons}
    assert named | OURS == set(Reason)


def test_the_table_of_cases_is_what_code_says_today() -> None:
    assert tables.written("cases") == tables.cases_by_class(), "python -m tests.fuzz.tables"


@needs_vectors
def test_the_table_of_vectors_is_what_code_says_today() -> None:
    assert tables.written("dasl") == tables.dasl_cases(), "python -m tests.fuzz.tables"
