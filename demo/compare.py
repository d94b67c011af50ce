"""The comparison: the fold of ``chive.events``, the rows in PostgreSQL, and what the PDS lists.

Three sets of wanted records that must be equal, record by record, CID by CID.  The rules per
account, as the design states them: of a served account all three hold its records; of a
deactivated one too (rows are kept, nothing is deleted); of a deleted one none of them holds
anything.  Beside that the record of every newest event must be the one the PDS gives, and the
account's status must be the PDS's.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from consumer.kafka.client import Client
from consumer.kafka.reader import PartitionReader, TopicPartition
from consumer.kafka.topics import Topic, Topics
from consumer.scope import Scope
from consumer.store.database import Connection, Database
from demo.fold import Fold, Json, Place
from demo.listing import Listing
from demo.schemas import Judgement, errors_by
from procedures.syntax import cid_text

_WAIT = 0.5  # seconds for the next records
_ROWS = "SELECT did, path, cid FROM records WHERE cid IS NOT NULL"
_REPOS = "SELECT did, status FROM repos"


@dataclass(frozen=True, slots=True)
class Rows:
    """The tables: ``cids`` of existing records by AT-URI, ``statuses`` of repos by DID."""

    cids: dict[str, str]
    statuses: dict[str, str]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The verdict.  ``differences`` is empty exactly when everything agrees.

    ``collections`` counts the records of the PDS, the rows and the fold, by collection;
    ``events`` counts what ``chive.events`` held, by kind; ``values`` what other topics held.
    """

    collections: dict[str, tuple[int, int, int]]
    accounts: Counter[str]
    events: Counter[str]
    values: Counter[str]
    differences: list[str]

    @property
    def equal(self) -> bool:
        return not self.differences


async def fold_events(
    client: Client, topics: Topics, since: Mapping[TopicPartition, int] | None = None
) -> Fold:
    """Read ``chive.events`` to its end, as a ``read_committed`` consumer.

    From offset 0 on, or from the offset of each partition in ``since``.
    """
    fold = Fold(errors_by(Topic.EVENTS), topics.partition_of)
    name = topics.name(Topic.EVENTS)
    places = [TopicPartition(name, partition) for partition in range(topics.partitions)]
    positions = since or dict.fromkeys(places)
    async with await PartitionReader.open(client, positions) as reader:
        ends = {place: latest for place, (_, latest) in (await reader.bounds()).items()}
        while any([await reader.position(place) < end for place, end in ends.items()]):
            for record in await reader.fetch(wait=_WAIT):
                place = Place(record.partition, record.offset)
                fold.add(place, record.key, record.value, dict(record.headers))
    fold.finish()
    return fold


async def read_rows(database: Database) -> Rows:
    """Read the records and the accounts' statuses from PostgreSQL."""
    async with database.transaction() as connection:
        return await _rows(connection)


async def _rows(connection: Connection) -> Rows:
    records = await (await connection.execute(_ROWS)).fetchall()
    repos = await (await connection.execute(_REPOS)).fetchall()
    cids = {f"at://{did}/{path}": cid_text(bytes(cid)) for did, path, cid in records}
    return Rows(cids, {did: status for did, status in repos})  # noqa: C416  rows are tuples


def compare(
    listing: Listing, rows: Rows, fold: Fold, scope: Scope, others: Judgement
) -> Comparison:
    """Compare the three, and the statuses; ``others`` is what was found on other topics."""
    folded = {uri: entry.cid or "" for uri, entry in fold.records.items()}
    differences = [
        *fold.problems,
        *others.problems,
        *_unequal("row", listing.cids, rows.cids),
        *_unequal("event", listing.cids, folded),
        *_wrong_values(listing.values, fold),
        *_wrong_statuses(listing, rows, fold),
        *(f"unwanted: {uri}" for uri in folded if not scope.wants(uri.split("/", 3)[3])),
    ]
    sides = [_by_collection(side) for side in (listing.cids, rows.cids, folded)]
    return Comparison(
        collections={
            name: (sides[0][name], sides[1][name], sides[2][name])
            for name in sorted(set().union(*sides))
        },
        accounts=Counter(listing.statuses.values()),
        events=fold.counts,
        values=others.counts,
        differences=differences,
    )


def _by_collection(cids: Mapping[str, str]) -> Counter[str]:
    return Counter(uri.split("/")[3] for uri in cids)


def _unequal(side: str, truth: Mapping[str, str], found: Mapping[str, str]) -> Iterator[str]:
    for uri in sorted(truth.keys() | found.keys()):
        if truth.get(uri) != found.get(uri):
            yield f"{uri}: PDS {truth.get(uri)}, {side} {found.get(uri)}"


def _wrong_values(values: Mapping[str, Json], fold: Fold) -> Iterator[str]:
    for uri, value in values.items():
        entry = fold.records.get(uri)
        if entry is not None and _plain(entry.record) != _plain(value):
            yield f"{uri}: the event's record is not the PDS's"


def _plain(value: Any) -> Any:
    """Bring atproto JSON to one form: base64 may come with or without its padding."""
    match value:
        case {"$bytes": str(text), **rest} if not rest:
            return base64.b64decode(text + "=" * (-len(text) % 4))
        case dict():
            return {key: _plain(each) for key, each in value.items()}
        case list():
            return [_plain(each) for each in value]
        case _:
            return value


def _wrong_statuses(listing: Listing, rows: Rows, fold: Fold) -> Iterator[str]:
    for did, status in sorted(rows.statuses.items()):
        expected = listing.statuses.get(did, "deleted")
        if status != expected:
            yield f"{did}: PDS {expected}, repos.status {status}"
        if fold.accounts.get(did, expected) != expected:
            yield f"{did}: PDS {expected}, newest account event {fold.accounts[did]}"
    for did in sorted({uri.split("/")[2] for uri in listing.cids} - rows.statuses.keys()):
        yield f"{did}: has wanted records and is not tracked"
