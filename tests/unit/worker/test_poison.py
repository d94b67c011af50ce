from __future__ import annotations

from consumer.worker.poison import ALONE_CRASHES, CRASHES, Alone, PoisonGuard

SPAN = 3


class Owner:
    """An owner of a lane that crashes, or not; ``stalls`` is the column of the lane."""

    def __init__(self, stalls: int, *, unclean_takeover: bool) -> None:
        self.stalls = stalls
        self.writes = 0
        self.guard = PoisonGuard(stalls, unclean_takeover=unclean_takeover, span=SPAN)

    def tries(self, source: Alone = Alone.FIREHOSE) -> None:
        count = self.guard.before(source)
        if count is not None:
            self.stalls = count
            self.writes += 1

    def commits(self) -> None:
        self.stalls = self.guard.after()


def crashes(times: int, stalls: int = 0) -> int:
    """Return the crash count that owners leave who crash at the same input one after another."""
    for _ in range(times):
        owner = Owner(stalls, unclean_takeover=True)
        owner.tries()
        stalls = owner.stalls
    return stalls


def test_the_normal_course_writes_nothing() -> None:
    owner = Owner(0, unclean_takeover=False)
    for _ in range(5):
        owner.tries()
        owner.commits()
    assert (owner.writes, owner.stalls) == (0, 0)


def test_a_crash_is_counted_once_and_forgotten_with_the_next_batch() -> None:
    owner = Owner(0, unclean_takeover=True)
    owner.tries()
    assert (owner.writes, owner.stalls) == (1, 1)
    assert not owner.guard.alone
    owner.commits()
    owner.tries()
    assert (owner.writes, owner.stalls) == (1, 0)


def test_after_three_crashes_inputs_are_tried_alone() -> None:
    # The first crash is not counted yet; two more owners have crashed; now a third one comes.
    third = Owner(crashes(CRASHES - 1), unclean_takeover=True)
    assert third.guard.alone
    assert third.guard.quarantined is None
    third.tries(Alone.BACKFILL)
    assert third.stalls == Alone.BACKFILL


def test_an_input_that_crashes_alone_once_is_a_suspect_and_tried_first() -> None:
    alone = Owner(crashes(CRASHES - 1), unclean_takeover=True)
    alone.tries(Alone.BACKFILL)
    heir = Owner(alone.stalls, unclean_takeover=True)
    assert (heir.guard.quarantined, heir.guard.suspect) == (None, Alone.BACKFILL)
    assert heir.guard.alone
    heir.tries(Alone.BACKFILL)
    heir.commits()
    assert (heir.guard.suspect, heir.stalls) == (None, CRASHES), "it was innocent"
    heir.tries(Alone.BACKFILL)
    assert heir.stalls == Alone.BACKFILL, "the next one begins anew"


def test_the_input_that_crashes_alone_again_is_quarantined() -> None:
    stalls = crashes(CRASHES - 1)
    for _ in range(ALONE_CRASHES):
        alone = Owner(stalls, unclean_takeover=True)
        assert alone.guard.quarantined is None
        alone.tries(Alone.PARKED)
        stalls = alone.stalls
    judge = Owner(stalls, unclean_takeover=True)
    assert (judge.guard.quarantined, judge.guard.alone) == (Alone.PARKED, False)
    judge.tries()
    assert judge.writes == 0
    judge.commits()
    assert (judge.guard.quarantined, judge.stalls) == (None, 0)


def test_inputs_are_tried_alone_until_a_whole_batch_is_passed() -> None:
    owner = Owner(CRASHES, unclean_takeover=False)
    for _ in range(SPAN - 1):
        owner.tries()
        assert owner.stalls == Alone.FIREHOSE
        owner.commits()
        assert owner.stalls == CRASHES
    owner.tries()
    owner.commits()
    assert owner.stalls == 0
    assert not owner.guard.alone


def test_a_crash_between_two_that_are_tried_alone_quarantines_nothing() -> None:
    owner = Owner(CRASHES, unclean_takeover=False)
    owner.tries()
    owner.commits()
    heir = Owner(owner.stalls, unclean_takeover=True)
    assert heir.guard.quarantined is None
    assert heir.guard.alone


def test_an_error_that_is_no_crash_quarantines_nothing() -> None:
    """A loop that broke while one input was tried alone goes on with the same owner."""
    again = Owner(Alone.PARKED, unclean_takeover=False)
    assert again.guard.quarantined is None
    assert again.guard.alone
