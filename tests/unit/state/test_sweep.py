"""What a check of a repository finds, and when the next page of a round is due."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consumer.state.sweep import (
    MAX_PAGE,
    Choice,
    Finding,
    Round,
    Told,
    Tracked,
    Way,
    before_asking,
    confirmed,
    finding,
    is_young,
    next_round,
    page_due,
    page_size,
    way,
)
from procedures.failures import Failure
from procedures.syntax import tid_time

OLD, OURS, NEW = "3l4qaaaaaaa22", "3l4qbbbbbbb22", "3l4qccccccc22"
REPO = Tracked("did:plc:a", 0, "active", "active", OURS, "https://pds.example")
NOW, CONFIRM, DAY = 1_800_000_000.0, 600.0, 86_400.0


@pytest.mark.parametrize(
    ("told", "found"),
    [
        (Told(rev=OURS), Finding.IN_STEP),
        (Told(rev=OLD), Finding.IN_STEP),
        (Told(rev=NEW), Finding.NEWER),
        (Told(status="deactivated"), Finding.REFUSED),
        (Told(failure=Failure.HOST_UNREACHABLE), Finding.UNASKED),
    ],
)
def test_an_answer(told: Told, found: Finding) -> None:
    assert finding(REPO, told) is found


def test_any_revision_is_newer_than_none() -> None:
    assert finding(replace(REPO, rev=None), Told(rev=OLD)) is Finding.NEWER


def test_what_is_not_asked() -> None:
    assert before_asking(REPO) is None
    assert before_asking(replace(REPO, sync_state="desynchronized")) is Finding.SYNCING
    assert before_asking(replace(REPO, status="takendown")) is Finding.INACTIVE


def confirm(known: Tracked = REPO, *, after: float, firehose: float | None = None) -> Finding:
    return confirmed(known, NEW, NOW, firehose_at=firehose, confirm_after=CONFIRM, now=NOW + after)


def test_a_newer_revision_has_time_to_come() -> None:
    assert confirm(after=CONFIRM - 1) is Finding.NEWER
    assert confirm(replace(REPO, rev=NEW), after=CONFIRM) is Finding.IN_STEP
    assert confirm(after=CONFIRM) is Finding.BEHIND


def test_it_is_waited_for_while_the_firehose_is_late() -> None:
    assert confirm(after=CONFIRM, firehose=NOW - 1) is Finding.NEWER
    assert confirm(after=CONFIRM, firehose=NOW + 1) is Finding.BEHIND
    assert confirm(after=30 * CONFIRM, firehose=NOW - 1) is Finding.BEHIND


def test_what_happened_in_between_decides() -> None:
    assert confirm(replace(REPO, status="deleted"), after=CONFIRM) is Finding.INACTIVE
    assert confirm(replace(REPO, sync_state="desynchronized"), after=1) is Finding.SYNCING


def test_a_revision_that_was_just_made_may_be_on_its_way() -> None:
    made = tid_time(NEW)
    assert is_young(NEW, None, made + 9, 10.0)
    assert not is_young(NEW, None, made + 10, 10.0)
    assert is_young(NEW, made - 1, made + 3_600, 10.0)  # the firehose was not read up to it
    assert not is_young(NEW, made + 1, made + 3_600, 10.0)


@pytest.mark.parametrize(
    ("tracked", "listed", "served", "cheaper"),
    [
        (10_000, None, True, Way.HOSTS),
        (10_000, 40_000_000, True, Way.HOSTS),
        (2_000_000, 40_000_000, True, Way.LISTING),
        (2_000_000, None, True, Way.LISTING),
        (2_000_000, 40_000_000, False, Way.HOSTS),
        (10_000, 20_000, True, Way.LISTING),
        (0, 0, True, Way.HOSTS),
    ],
)
def test_the_cheaper_way(tracked: int, listed: int | None, served: bool, cheaper: Way) -> None:
    assert way(Choice.AUTO, tracked, listed, served=served) is cheaper
    assert way(Choice.HOSTS, tracked, listed, served=served) is Way.HOSTS
    assert way(Choice.LISTING, tracked, listed, served=served) is Way.LISTING


def walk(total: int, taken: int = 0) -> Round:
    return Round(Way.HOSTS, NOW, ended=False, total=total, taken=taken)


def test_a_round_takes_the_whole_period() -> None:
    assert page_due(walk(4), DAY) == NOW
    assert page_due(walk(4, 1), DAY) == NOW + DAY / 4
    assert page_due(walk(4, 9), DAY) == page_due(walk(4, 3), DAY) == NOW + DAY * 3 / 4
    assert page_due(walk(0), DAY) == NOW


def test_pages_are_small_and_catch_up() -> None:
    assert page_size(walk(10), DAY, NOW) == 1
    assert page_size(walk(86_400), DAY, NOW) == 60  # a minute
    assert page_size(walk(1_000), 100.0, NOW) == 10  # a hundredth of the period
    assert page_size(walk(10_000), DAY, NOW + DAY / 2) == MAX_PAGE  # nothing ran since it began
    assert page_size(walk(10, 10), DAY, NOW + DAY) == MAX_PAGE


def test_rounds_keep_their_time_of_day() -> None:
    assert next_round(None, DAY, NOW) == NOW
    assert next_round(walk(1), DAY, NOW + DAY + 60) == NOW + DAY
    assert next_round(walk(1), DAY, NOW + 3 * DAY) == NOW + 3 * DAY
