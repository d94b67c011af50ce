"""Which accounts belong to which shard: each to one, always the same."""

from __future__ import annotations

import string
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.kafka.topics import Topics
from consumer.shard import MAX_SHARDS, WHOLE, Shard, shard_of

DIDS = st.one_of(
    st.text(string.ascii_lowercase + "234567", min_size=24, max_size=24).map("did:plc:{}".format),
    st.text(string.ascii_lowercase + "-.", min_size=1, max_size=40).map("did:web:{}".format),
    st.text(max_size=40),
)
COUNTS = st.integers(1, MAX_SHARDS)
MANY = [f"did:plc:{number:024d}" for number in range(20_000)]


@pytest.mark.parametrize(
    ("did", "of"),
    [
        # The first four bytes of sha256sum are 099e4ea9, 3e234cd3 and e3b0c442.
        ("did:plc:ewvi7nxzyoun6zhxrhs64oiz", {2: 2, 3: 1, 4: 2, 7: 2, 1024: 682}),
        ("did:web:example.com", {2: 2, 3: 1, 4: 4, 7: 4, 1024: 212}),
        ("", {2: 1, 3: 3, 4: 3, 7: 2, 1024: 67}),
    ],
)
def test_the_shard_of_an_account_never_changes(did: str, of: dict[int, int]) -> None:
    assert {count: shard_of(did, count) for count in of} == of


@given(DIDS, COUNTS)
def test_each_account_belongs_to_exactly_one_shard(did: str, count: int) -> None:
    assert [k for k in range(1, count + 1) if Shard(k, count).has(did)] == [shard_of(did, count)]


@given(DIDS, st.integers(1, MAX_SHARDS // 2))
def test_a_shard_is_split_into_two_of_twice_as_many(did: str, count: int) -> None:
    whole = shard_of(did, count)
    assert Shard(whole, 2 * count).has(did) != Shard(whole + count, 2 * count).has(did)


@pytest.mark.parametrize("count", [2, 3, 8, 64])
def test_shards_are_of_about_the_same_size(count: int) -> None:
    sizes = Counter(shard_of(did, count) for did in MANY)
    mean = len(MANY) / count
    assert set(sizes) == set(range(1, count + 1))
    assert all(abs(size - mean) < 6 * mean**0.5 for size in sizes.values())


@pytest.mark.parametrize("count", [2, 4, 8])
def test_each_shard_has_accounts_on_all_partitions(count: int) -> None:
    topics = Topics("t.", 8)
    for number in range(1, count + 1):
        own = [did for did in MANY if Shard(number, count).has(did)]
        sizes = Counter(map(topics.partition_of, own))
        mean = len(own) / 8
        assert all(abs(sizes[lane] - mean) < 6 * mean**0.5 for lane in range(8))


@given(COUNTS.flatmap(lambda of: st.tuples(st.integers(1, of), st.just(of))))
def test_the_text_of_a_shard_names_it(shard: tuple[int, int]) -> None:
    assert Shard.parse(str(Shard(*shard))) == Shard(*shard)


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "01/2", "1/2/3", "1/1025", "-1/2"])
def test_what_names_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="NUMBER/OF"):
        Shard.parse(text)


def test_who_has_an_account_is_said_where_it_is_not() -> None:
    did = "did:web:example.com"
    other = Shard(shard_of(did, 3) % 3 + 1, 3)
    assert f"{did} belongs to shard {shard_of(did, 3)}/3" in (other.elsewhere(did) or "")
    assert Shard(shard_of(did, 3), 3).elsewhere(did) is None
    assert WHOLE.elsewhere(did) is None
    assert WHOLE.is_whole
