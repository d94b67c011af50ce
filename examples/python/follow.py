"""Follow chive.events into SQLite, each event exactly once.

    python follow.py localhost:9092 chive.events index.sqlite

The offsets lie in the database and are written by the transaction that takes the events in: after a
crash at any point both are there, or neither.  Kafka's own offsets are not used, and nothing has to
be done to stop: end the process in any way, and start it again.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

BATCH = 500  # events in a transaction, at most
# The topic forgets what was deleted 14 days ago or earlier (min.compaction.lag.ms and
# delete.retention.ms).  An index that was away for longer could keep deleted records for ever.
LONGEST_AWAY = 7 * 86_400  # seconds

SCHEMA = """
CREATE TABLE IF NOT EXISTS offsets (  -- the next to read, and when it was written (Unix time)
    partition INTEGER PRIMARY KEY, next INTEGER NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS records (  -- event: the newest event of the record, as it came
    uri TEXT PRIMARY KEY, did TEXT NOT NULL, collection TEXT NOT NULL, rev TEXT NOT NULL,
    cid TEXT NOT NULL, event TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS records_did ON records (did);
CREATE TABLE IF NOT EXISTS accounts (  -- stale: records may be missing or out of date for now
    did TEXT PRIMARY KEY, active INTEGER NOT NULL DEFAULT TRUE,
    status TEXT NOT NULL DEFAULT 'active', stale INTEGER NOT NULL DEFAULT FALSE);
CREATE TABLE IF NOT EXISTS lanes (  -- of a partition: complete up to when, and which snapshot
    lane INTEGER PRIMARY KEY, as_of TEXT, snapshot TEXT);
CREATE VIEW IF NOT EXISTS shown AS  -- what people may see
    SELECT uri, did, collection, cid, event -> '$.record' AS record, coalesce(stale, FALSE) AS stale
    FROM records LEFT JOIN accounts USING (did) WHERE coalesce(active, TRUE);
"""


def main(servers: str, topic: str, path: str) -> None:
    """Follow ``topic`` on ``servers`` into the database at ``path``, for ever."""
    database = sqlite3.connect(path, isolation_level=None)
    # A power cut may take the last transactions from a WAL, but then their offsets too.
    database.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;" + SCHEMA)
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "follow",  # demanded by the client; nothing is kept under it
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",  # another topic of that name: begin with another file
        }
    )
    partitions = consumer.list_topics(topic, timeout=30.0).topics[topic].partitions
    if not partitions:
        sys.exit(f"there is no topic {topic}")
    offsets = stored(database, partitions)
    # All partitions by name, without a group: none is taken away.  To share the work, give each
    # process some of them, and a database of its own: an account lies in one partition.
    consumer.assign([TopicPartition(topic, number, offsets[number]) for number in partitions])
    while True:
        messages = consumer.consume(BATCH, timeout=1.0)
        if messages:
            take(database, messages, offsets)


def stored(database: sqlite3.Connection, partitions: Iterable[int]) -> dict[int, int]:
    """Return the next offset of each partition: 0 in a new database."""
    now = time.time()
    (newest,) = database.execute("SELECT max(at) FROM offsets").fetchone()
    if newest is not None and newest < now - LONGEST_AWAY:
        sys.exit("the index was away for too long: begin again with an empty database")
    with transaction(database):
        for number in partitions:
            database.execute("INSERT OR IGNORE INTO offsets VALUES (?, 0, ?)", (number, now))
    return dict(database.execute("SELECT partition, next FROM offsets"))


def take(database: sqlite3.Connection, messages: list[Any], offsets: dict[int, int]) -> None:
    """Take ``messages`` in, and move ``offsets``, in the database and here."""
    after = {}
    for message in messages:
        if message.error():
            raise KafkaException(message.error())
        after[message.partition()] = message.offset() + 1
    with transaction(database):
        for number, offset in after.items():
            move = "UPDATE offsets SET next = ?, at = ? WHERE partition = ? AND next = ?"
            moved = database.execute(move, (offset, time.time(), number, offsets[number]))
            if moved.rowcount != 1:
                sys.exit("another process writes to this database")
        for message in messages:
            apply(database, message.key(), message.value())
    offsets.update(after)


def apply(database: sqlite3.Connection, key: bytes | None, value: bytes | None) -> None:
    """Do to the tables what one record of the topic says.

    Within a partition, and so for an account, the order of the topic is the order of the changes.
    """
    if value is None:
        # A tombstone follows each delete; compaction removes the delete and leaves the tombstone.
        database.execute("DELETE FROM records WHERE uri = ?", (key and key.decode(),))
        return
    event: dict[str, Any] = json.loads(value)
    match event["type"]:
        case "record" if event["action"] == "delete":
            database.execute("DELETE FROM records WHERE uri = ?", (event["uri"],))
        case "record":
            # Creates and updates alike: an update may be the first that is heard of a record, and
            # a sync with "emit": "all" publishes what did not change once more.  A rev that is
            # older than the row's only comes if one reads the topic again into a full database.
            database.execute(
                "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (uri) DO UPDATE "
                "SET rev = excluded.rev, cid = excluded.cid, event = excluded.event "
                "WHERE excluded.rev >= records.rev",
                (
                    *(event[name] for name in ("uri", "did", "collection", "rev", "cid")),
                    value.decode(),  # not written anew: numbers keep their digits
                ),
            )
        case "account":
            # Hide, do not delete: an account may come back, and its records are not sent again.
            # If it was deleted, a delete comes for each record.
            database.execute(
                "INSERT INTO accounts (did, active, status) VALUES (?, ?, ?) ON CONFLICT (did) "
                "DO UPDATE SET active = excluded.active, status = excluded.status",
                (event["did"], event["active"], event["status"]),
            )
        case "sync":
            database.execute(
                "INSERT INTO accounts (did, stale) VALUES (?, ?) ON CONFLICT (did) "
                "DO UPDATE SET stale = excluded.stale",
                (event["did"], event["state"] != "active"),
            )
        case "progress":
            database.execute(
                "INSERT INTO lanes (lane, as_of) VALUES (?, ?) ON CONFLICT (lane) "
                "DO UPDATE SET as_of = excluded.as_of",
                (event["lane"], event["asOf"]),
            )
        case "snapshot_complete":
            database.execute(
                "INSERT INTO lanes (lane, snapshot) VALUES (?, ?) ON CONFLICT (lane) "
                "DO UPDATE SET snapshot = excluded.snapshot",
                (event["lane"], event["snapshot"]),
            )
        case _:
            pass  # identity: nothing here depends on handles; others are for newer programs


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Commit what the block does, or nothing of it."""
    database.execute("BEGIN IMMEDIATE")
    with database:
        yield


if __name__ == "__main__":
    match sys.argv[1:]:
        case [servers, topic, path]:
            main(servers, topic, path)
        case _:
            sys.exit("usage: follow.py SERVERS TOPIC FILE")
