from __future__ import annotations

from dataclasses import replace

from consumer.state.progress import Place, Reached
from consumer.store.rows import Parking
from consumer.worker.cache import KnownAccount, LaneCache, ParkedQueue
from tests.unit.worker.frames import NOW, Author, identity

DID = "did:plc:x"
AT = Reached("wss://relay.test", Place(1, 5), "2026-07-04T14:39:14.123Z", 7.0)


def test_nothing_is_known_of_a_stranger() -> None:
    assert LaneCache().account(DID) == KnownAccount(None, tracked=False, queue=None)


def test_an_account_is_its_identity_its_repo_and_its_parked_frames() -> None:
    author = Author.of()
    cache = LaneCache([Parking(author.did, ready=True, frames=2, size=300)])
    cache.learn(identity(author.account))
    cache.track(author.did)
    assert cache.account(author.did) == KnownAccount(
        identity(author.account), tracked=True, queue=ParkedQueue(2, 300, ready=True)
    )
    assert (cache.ready(), cache.parked_frames()) == ([author.did], 2)


def test_an_older_identity_does_not_replace_a_newer_one() -> None:
    newer = identity(Author.of().account)
    cache = LaneCache()
    cache.learn(newer)
    cache.learn(replace(newer, fetched_at=newer.fetched_at - 1, pds=None))
    assert cache.identities.get(newer.did) == newer
    again = replace(newer, pds=None)
    cache.learn(again)
    assert cache.identities.get(newer.did) == again


def test_a_queue_goes_with_its_last_frame() -> None:
    cache = LaneCache()
    cache.park(DID, 100, AT)
    cache.park(DID, 50, replace(AT, place=Place(1, 9)))
    assert cache.queues == {DID: ParkedQueue(2, 150, ready=False)}
    assert cache.oldest_parked() == AT
    cache.unpark(DID, 100, AT)
    assert cache.queues == {DID: ParkedQueue(1, 50, ready=False)}
    assert cache.oldest_parked() == replace(AT, place=Place(1, 6))
    cache.unpark(DID, 50, replace(AT, place=Place(1, 9)))
    assert cache.queues == {}
    assert cache.oldest_parked() is None


def test_an_old_identity_is_looked_up_again_once_in_an_interval() -> None:
    cache = LaneCache()
    due = [cache.refresh_due(DID, NOW + seconds, 60.0) for seconds in (0, 59, 60, 61)]
    assert due == [True, False, True, False]
    assert cache.refresh_due("did:plc:y", NOW + 1, 60.0)
