"""Relays, a tailer and lanes around the real rules of progress: who crashes, loses nothing durable.

Real are the tailer's position and collector, the plans of the lanes and what they know; played are
Kafka, PostgreSQL and the loops around them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from uuid import UUID

from consumer.kafka.topics import Topics
from consumer.kafka.transaction import OutRecord
from consumer.scope import Repos, Scope
from consumer.state.progress import NOWHERE, Place, Reached, Received, is_due
from consumer.store.rows import Lane, ParkedFrame, Parking
from consumer.tail.collector import Collector
from consumer.tail.cursor import Cursor, resume
from consumer.tail.relevance import Relevance
from consumer.worker import incoming, verdicts
from consumer.worker.cache import LaneCache
from consumer.worker.incoming import EpochNotice
from consumer.worker.plan import Plan
from procedures import times
from simulator.frames import commit_frame, identity_frame
from simulator.repo import Write
from tests.unit.worker.frames import NOW, WANTED, Author, identity, rules

PARTITIONS = 3
TOPICS = Topics("t.", PARTITIONS)
RELAYS = ("wss://one.test", "wss://two.test")
LIMIT = 1_000_000
_MOST = 3  # frames of one batch
_EVERY = 1.0

Frame = tuple[str, int]
"""A relay and its seq."""


@dataclass
class Relay:
    """What a relay has sent: frames by seq, whose, and whether they matter to anybody."""

    url: str
    seq: int
    frames: list[tuple[int, str, bytes]] = field(default_factory=list)

    def send(self, author: Author, *, signed: bool, skip: int) -> None:
        self.seq += 1 + skip
        if signed:
            author.seq += 1
            write = Write("create", f"{WANTED}/r{author.seq}", {"n": self.seq})
            frame = commit_frame(self.seq, author.repo.commit([write]))
        else:
            frame = identity_frame(self.seq, author.did)
        self.frames.append((self.seq, author.did, frame))

    def skip(self) -> None:
        """Send a frame that is not forwarded."""
        self.seq += 1
        author = "did:plc:stranger"
        self.frames.append((self.seq, author, b""))


@dataclass(frozen=True)
class LogRecord:
    """A record of a partition of the firehose."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


class Tailer:
    """Reads one relay at a time; what is not committed is lost with it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.relay = world.relays[0]
        self._collector: Collector | None = None
        self._replayed = False

    def crash(self, relay: Relay) -> None:
        """Begin anew at ``relay``."""
        self.relay, self._collector = relay, None

    def read(self, most: int) -> None:
        """Collect a few frames."""
        collector = self._opened()
        position = collector.position
        ahead = [each for each in self.relay.frames if each[0] >= (position.ask or 0)]
        if position.seq:  # what was replayed once on this connection does not come again
            ahead = [each for each in ahead if each[0] > position.seq] if self._replayed else ahead
        for seq, did, frame in ahead[:most]:
            if frame:
                collector.take([frame], 0.0)
            else:
                position.admit(seq, None, did, "#commit")
        self._replayed = True

    def commit(self) -> None:
        """Commit what is collected, all or nothing."""
        if self._collector is None or not self._collector.pending:
            return
        transaction = self._collector.cut(0.0)
        for record in transaction.records:
            self._world.append(record)
        self._world.cursors[self.relay.url] = transaction.cursor
        self._world.mirrors.append((self.relay.url, transaction.cursor))

    def _opened(self) -> Collector:
        if self._collector is None:
            url = self.relay.url
            position, cause = resume(self._world.cursors, url, PARTITIONS, start=0, now=NOW)
            relevance = Relevance(Scope(("pub.chive.*",), Repos.ALL), forward_all=True)
            self._collector = Collector(url, TOPICS, relevance, position, LIMIT, cause, linger=0.05)
            position.connected(NOW)
            self._collector.connected(0.0)
            self._replayed = False
        return self._collector


@dataclass
class Table:
    """What PostgreSQL holds of a lane."""

    row: Lane
    parked: list[ParkedFrame] = field(default_factory=list)
    known: set[str] = field(default_factory=set)  # whose keys
    said: Place = NOWHERE


class Owner:
    """The owner of a lane; one that dies leaves its table alone."""

    def __init__(self, world: World, lane: int) -> None:
        self._world = world
        self._lane = lane
        table = world.tables[lane]
        oldest: dict[str, Reached] = {}
        for one in table.parked:
            oldest.setdefault(one.did, incoming.place_of(incoming.of_parked(one)))
        self.cache = LaneCache(world.parkings(lane), parked_from=oldest)
        for did in table.known:
            self.cache.learn(identity(world.author(did).account, fetched_at=NOW + 1))

    def batch(self, frames: int, learn: str | None, received: Received | None) -> None:
        """Take frames, and perhaps the answer about an account, in one transaction."""
        world, table = self._world, self._world.tables[self._lane]
        taken = world.logs[self._lane][table.row.firehose_offset :][:frames]
        if taken and (lost := self._lost(table.row, taken[0])) is not None:
            table.row = lost  # a transaction of its own
        plan = Plan(table.row, self.cache, RULES, NOW)
        decided: list[Frame] = []
        for record in taken:
            found = incoming.notice_of(record) or incoming.of_record(record)
            at = plan.position
            if isinstance(found, EpochNotice):
                if found.epoch != at.epoch:
                    break
                plan.notice(found)
            elif not incoming.follows(found, at.epoch, at.last_seq):
                break
            else:
                before = len(plan.parks)
                plan.frame(verdicts.read(found, RULES))
                if len(plan.parks) == before:
                    decided.append((found.relay, found.seq))
        if learn is not None:
            self.cache.learn(identity(world.author(learn).account, fetched_at=NOW + 1))
            table.known.add(learn)
            decided += self._unpark(plan, learn)
        table.row = plan.position
        left = [one for one in table.parked if plan.decided.get(one.did, -1) < one.log_offset]
        table.parked = [*left, *plan.parks]
        world.events[self._lane] += decided
        self._say(plan, table, received)

    def _unpark(self, plan: Plan, did: str) -> list[Frame]:
        waiting = [one for one in self._world.tables[self._lane].parked if one.did == did]
        done = []
        for one in waiting[:_MOST]:
            frame = incoming.of_parked(one)
            if plan.parked_frame(verdicts.read(frame, RULES)):
                done.append((one.relay, one.seq))
        return done

    def _say(self, plan: Plan, table: Table, received: Received | None) -> None:
        found = plan.reached(received)
        if found is None or not is_due(found, table.said, 1e9, _EVERY):
            return
        self._world.seen["said"] += found.place > table.said
        if received is not None and found == received.reached:
            self._world.seen["by the cursor"] += 1
        if self.cache.oldest_parked() is not None:
            self._world.seen["held back"] += 1
        table.said = found.place
        self._world.events[self._lane].append(found)

    @staticmethod
    def _lost(row: Lane, record: LogRecord) -> Lane | None:
        """Return where the lane goes on if frames may be missing before ``record``."""
        found = incoming.notice_of(record) or incoming.of_record(record)
        if isinstance(found, EpochNotice):
            return None if found.epoch == row.epoch else replace(row, epoch=found.epoch, last_seq=0)
        if incoming.follows(found, row.epoch, row.last_seq):
            return None
        return replace(row, epoch=found.epoch, last_seq=found.prev_seq or 0)


RULES = rules(Repos.ALL)


class World:
    """Everything, and the promises that hold at every moment."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.authors = [Author.of(f"author {number}") for number in range(7)]
        self.relays = [Relay(url, seq) for url, seq in zip(RELAYS, (10, 4), strict=True)]
        self.logs: list[list[LogRecord]] = [[] for _ in range(PARTITIONS)]
        self.cursors: dict[str, Cursor] = {}
        self.mirrors: list[tuple[str, Cursor]] = []  # each was durable
        self.received: dict[str, Received] = {}
        self.tables = [Table(Lane(lane, UUID(int=7))) for lane in range(PARTITIONS)]
        self.events: list[list[Frame | Reached]] = [[] for _ in range(PARTITIONS)]
        self.seen: Counter[str] = Counter()
        self.tailer = Tailer(self)
        self.owners = [Owner(self, lane) for lane in range(PARTITIONS)]

    def author(self, did: str) -> Author:
        return next(each for each in self.authors if each.did == did)

    def parkings(self, lane: int) -> list[Parking]:
        counts: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        for one in self.tables[lane].parked:
            counts[one.did] += 1
            sizes[one.did] += len(one.frame)
        return [Parking(did, ready=False, frames=n, size=sizes[did]) for did, n in counts.items()]

    def append(self, record: OutRecord) -> None:
        """Put a record of the tailer into the log."""
        if record.topic != "t.firehose":
            return
        log = self.logs[record.partition]
        stamp = round(NOW * 1000) + len(log)
        log.append(LogRecord(len(log), stamp, record.key, record.value, record.headers))

    def mirror(self, index: int) -> None:
        """Show one of the cursors that were durable, not always the newest."""
        if self.mirrors:
            relay, cursor = self.mirrors[index]
            self.received[relay] = Received(
                Reached(relay, Place(cursor.epoch, cursor.seq), times.to_text(NOW), cursor.as_of),
                cursor.last,
            )

    def newest(self) -> Received | None:
        """Return what the lanes read of what is shown."""
        return max(self.received.values(), key=lambda one: one.reached.place.epoch, default=None)

    # -- what happens ------------------------------------------------------------------

    def step(self) -> None:
        """Let one thing happen."""
        acts: list[tuple[int, Callable[[], None]]] = [
            (6, self._send),
            (3, self._skip),
            (6, lambda: self.tailer.read(self.chance.randint(1, 6))),
            (5, self.tailer.commit),
            (5, lambda: self.mirror(-1)),
            (1, lambda: self.mirror(self.chance.randrange(len(self.mirrors) or 1))),
            (12, self._batch),
            (1, lambda: self.tailer.crash(self.tailer.relay)),
            (1, self._fail_over),
            (1, self._take_over),
        ]
        (act,) = self.chance.choices([act for _, act in acts], [weight for weight, _ in acts])
        act()

    def settle(self) -> None:
        """Let everything arrive."""
        for _ in range(2):
            self.tailer.read(10_000)
            self.tailer.commit()
        self.mirror(-1)
        for lane in range(PARTITIONS):
            while self.tables[lane].row.firehose_offset < len(self.logs[lane]):
                self.owners[lane].batch(_MOST, None, self.newest())
            while self.tables[lane].parked:
                did = self.tables[lane].parked[0].did
                self.owners[lane].batch(0, did, self.newest())
            self.owners[lane].batch(0, None, self.newest())

    def _send(self) -> None:
        author, relay = self.chance.choice(self.authors), self.chance.choice(self.relays)
        relay.send(author, signed=self.chance.random() < 0.6, skip=self.chance.choice((0, 0, 3)))

    def _skip(self) -> None:
        self.chance.choice(self.relays).skip()

    def _batch(self) -> None:
        lane = self.chance.randrange(PARTITIONS)
        learn = None
        if (parked := self.tables[lane].parked) and self.chance.random() < 0.3:
            learn = self.chance.choice(parked).did
        self.owners[lane].batch(self.chance.randint(0, _MOST), learn, self.newest())

    def _fail_over(self) -> None:
        self.seen["failover"] += 1
        self.tailer.crash(self.chance.choice(self.relays))

    def _take_over(self) -> None:
        """Let another process have a lane: what the last one knew is gone."""
        self.seen["take-over"] += 1
        lane = self.chance.randrange(PARTITIONS)
        self.owners[lane] = Owner(self, lane)

    # -- the promises ------------------------------------------------------------------

    def check(self) -> None:
        """Assert that every claim is true where it stands, and that none falls."""
        for lane, events in enumerate(self.events):
            decided: set[Frame] = set()
            said = NOWHERE
            for event in events:
                if isinstance(event, Reached):
                    assert event.place >= said, (lane, event)
                    said = event.place
                    missing = self._sent(lane, event) - decided
                    assert not missing, (lane, event, missing)
                else:
                    decided.add(event)

    def _sent(self, lane: int, at: Reached) -> set[Frame]:
        """Return the frames of a lane that matter, up to a place."""
        (relay,) = [each for each in self.relays if each.url == at.relay]
        return {
            (relay.url, seq)
            for seq, did, frame in relay.frames
            if frame and seq <= at.place.seq and TOPICS.partition_of(did) == lane
        }
