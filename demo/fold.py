"""The fold of ``chive.events``: what a consumer that reads from offset 0 knows in the end.  Pure.

Folding also judges the stream, as its readers rely on it: every value fits the published
schema, ids never repeat, lane and out_seq rise, progress and the revs of a record never fall, no
live event comes after progress has said that all are there up to its seq, an event starts where
the last one of its record left off, and a delete is followed by its tombstone.
``problems`` lists every breach.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of the fold: its CID as text, its atproto JSON, the rev of the last event."""

    cid: str | None
    record: Json | None
    rev: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record of Kafka was read, for messages."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"


class Fold:
    """Add every record of the topic in the order of its partition, then ask.

    ``errors_of`` returns what the schema says against a value, None if it fits;
    ``partition_of`` is the placement of a DID.
    """

    def __init__(
        self, errors_of: Callable[[Json], str | None], partition_of: Callable[[str], int]
    ) -> None:
        self.entries: dict[str, Entry] = {}  # by AT-URI; a cid of None is a deleted record
        self.accounts: dict[str, str] = {}  # the newest announced status, by DID
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self._errors_of = errors_of
        self._partition_of = partition_of
        self._ids: set[str] = set()
        self._out_seqs: dict[int, int] = {}
        self._progress: dict[int, Json] = {}  # the newest by partition
        self._buried: dict[str, Place] = {}  # deletes whose tombstone has not come

    @property
    def records(self) -> dict[str, Entry]:
        """The records that exist, by AT-URI."""
        return {uri: entry for uri, entry in self.entries.items() if entry.cid is not None}

    def add(
        self, place: Place, key: bytes | None, value: bytes | None, headers: Mapping[str, bytes]
    ) -> Json | None:
        """Take the next record of a partition; return its event, None for a tombstone."""
        name = (key or b"").decode()
        self._check_headers(place, headers)
        if value is None:
            self.counts["tombstones"] += 1
            if self._buried.pop(name, None) is None:
                self._breach(place, f"a tombstone without a delete: {name}")
            return None
        event: Json = orjson.loads(value)
        self._check_event(place, name, event)
        match event["type"]:
            case "record":
                self.counts[f"record {event['action']}"] += 1
                self._check_complete(place, event)
                self._take_record(place, name, event)
            case "account":
                self.counts["account"] += 1
                self.accounts[event["did"]] = event["status"]
            case "progress":
                self.counts["progress"] += 1
                self._check_progress(place, event)
            case other:
                self.counts[str(other)] += 1
        return event

    def finish(self) -> None:
        """Say that the topic ends here: what is still owed is a breach."""
        for name, place in self._buried.items():
            self._breach(place, f"no tombstone after the delete of {name}")
        self._buried.clear()

    def _check_headers(self, place: Place, headers: Mapping[str, bytes]) -> None:
        out_seq = int(headers.get("out_seq", b"-1"))
        if int(headers.get("lane", b"-1")) != place.partition:
            self._breach(place, f"lane {headers.get('lane')!r} is not the partition")
        if out_seq <= self._out_seqs.get(place.partition, -1):
            self._breach(place, f"out_seq {out_seq} does not rise")
        self._out_seqs[place.partition] = out_seq

    def _check_event(self, place: Place, name: str, event: Json) -> None:
        if error := self._errors_of(event):
            self._breach(place, f"not in the schema: {error}")
        if event["id"] in self._ids:
            self._breach(place, f"id {event['id']} repeats")
        self._ids.add(event["id"])
        if _partition_of(event, self._partition_of) != place.partition:
            self._breach(place, f"{name} belongs on another partition")
        if name != _key_of(event):
            self._breach(place, f"the key {name} is not the event's")
        if name in self._buried:
            self._breach(place, f"an event between the delete of {name} and its tombstone")

    def _take_record(self, place: Place, uri: str, event: Json) -> None:
        old = self.entries.get(uri)
        if old is not None:
            self._check_sequel(place, uri, old, event)
        elif event["action"] != "create":
            self.counts["records older than the topic"] += 1
        if event["action"] == "delete":
            self._buried[uri] = place
        self.entries[uri] = Entry(event["cid"], event["record"], event["rev"])

    def _check_sequel(self, place: Place, uri: str, old: Entry, event: Json) -> None:
        if event["rev"] < old.rev:
            self._breach(place, f"the rev of {uri} falls from {old.rev} to {event['rev']}")
        if (old.cid is None) != (event["action"] == "create"):
            self._breach(place, f"{event['action']} of {uri} after {old}")
        if old.cid != event["prev"]:
            self._breach(place, f"prev of {uri} is not the cid of the event before it")

    def _check_progress(self, place: Place, event: Json) -> None:
        before = self._progress.get(place.partition)
        if before and (event["epoch"], event["seq"]) < (before["epoch"], before["seq"]):
            self._breach(place, f"progress falls to {event['epoch']}/{event['seq']}")
        self._progress[place.partition] = event

    def _check_complete(self, place: Place, event: Json) -> None:
        said = self._progress.get(place.partition)
        same = said is not None and event["live"] and said["relay"] == event["relay"]
        if said and same and event["seq"] <= said["seq"]:
            self._breach(place, f"{event['seq']} comes after complete up to {said['seq']}")

    def _breach(self, place: Place, what: str) -> None:
        self.problems.append(f"{place} {what}")


def _partition_of(event: Json, partition_of: Callable[[str], int]) -> int:
    """Return where an event belongs: by its account, or by the lane that speaks of itself."""
    return partition_of(event["did"]) if "did" in event else int(event["lane"])


def _key_of(event: Json) -> str:
    match event["type"]:
        case "record":
            return str(event["uri"])
        case "progress":
            return f"lane/{event['lane']}"
        case "snapshot_complete":
            return f"lane/{event['lane']}/snapshot"
        case kind:
            return f"{event['did']}#{kind}"
