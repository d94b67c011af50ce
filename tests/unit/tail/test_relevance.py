"""What is forwarded, by scope."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest

from consumer.scope import Repos, Scope
from consumer.shard import Shard, shard_of
from consumer.tail.relevance import Relevance
from consumer.verify.frames import Kind, Peek

ALICE, BOB = "did:plc:alice", "did:plc:bob"
WANTED, OTHER = "pub.chive.eprint.submission/3k", "app.bsky.feed.post/3k"


def commit(did: str, *paths: str) -> Peek:
    return Peek(Kind.COMMIT, 1, did, None, paths)


def relevance(repos: Repos = Repos.COLLECTIONS, *, forward_all: bool = False) -> Relevance:
    scope = Scope(("pub.chive.*",), repos, dids=frozenset([BOB] if repos is Repos.LISTED else []))
    return Relevance(scope, forward_all=forward_all)


@pytest.mark.parametrize("kind", [Kind.SYNC, Kind.ACCOUNT, Kind.IDENTITY])
@pytest.mark.parametrize("repos", Repos)
def test_what_is_about_accounts_is_always_forwarded(kind: Kind, repos: Repos) -> None:
    assert relevance(repos).wants(Peek(kind, 1, ALICE, None))


def test_a_wanted_collection_makes_the_repository_tracked() -> None:
    filter_ = relevance()
    assert not filter_.wants(commit(ALICE, OTHER))
    assert filter_.wants(commit(ALICE, OTHER, WANTED))
    assert filter_.wants(commit(ALICE, OTHER))
    assert filter_.wants(commit(ALICE))
    assert not filter_.wants(commit(BOB, OTHER))
    assert filter_.tracked == 1


@pytest.mark.parametrize("forward_all", [False, True])
@pytest.mark.parametrize("repos", Repos)
def test_nothing_of_another_shard_is_forwarded(repos: Repos, *, forward_all: bool) -> None:
    own, other = Shard(shard_of(ALICE, 2), 2), Shard(3 - shard_of(ALICE, 2), 2)
    scope = Scope(("pub.chive.*",), repos, shard=other)
    there = Relevance(scope, forward_all=forward_all)
    here = Relevance(replace(scope, shard=own), forward_all=forward_all)
    for look in (*(Peek(kind, 1, ALICE, None) for kind in Kind), commit(ALICE, WANTED)):
        assert not there.concerns(look)
        assert not there.wants(look)
        assert here.concerns(look)
    assert there.tracked == 0
    assert here.wants(Peek(Kind.ACCOUNT, 1, ALICE, None))
    assert here.wants(commit(ALICE, WANTED)) == (forward_all or repos is not Repos.LISTED)


def test_announcing_an_account_does_not_make_it_tracked() -> None:
    filter_ = relevance()
    assert filter_.wants(Peek(Kind.IDENTITY, 1, ALICE, None))
    assert not filter_.wants(commit(ALICE, OTHER))


def test_what_was_tracked_before_is_forwarded() -> None:
    filter_ = relevance()
    filter_.track([BOB])
    assert filter_.wants(commit(BOB, OTHER))
    assert not filter_.wants(commit(ALICE, OTHER))


def test_listed_repositories_are_forwarded_whatever_they_hold_and_no_other_joins() -> None:
    filter_ = relevance(Repos.LISTED)
    assert filter_.wants(commit(BOB, OTHER))
    assert not filter_.wants(commit(ALICE, WANTED))


@pytest.mark.parametrize(
    "filter_", [relevance(Repos.ALL), relevance(forward_all=True)], ids=["scope", "setting"]
)
def test_all_means_all(filter_: Relevance) -> None:
    assert not filter_.selective
    assert filter_.wants(commit(ALICE, OTHER))


def test_names_of_any_length_are_not_remembered() -> None:
    filter_ = relevance()
    tracemalloc.start()
    try:
        for number in range(100):
            assert not filter_.wants(commit(ALICE, str(number) + "a" * 100_000))
        assert tracemalloc.get_traced_memory()[0] < 200_000
    finally:
        tracemalloc.stop()
