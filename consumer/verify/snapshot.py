"""Verify a whole repository, as ``com.atproto.sync.getRepo`` answers it; make chunks.  Pure.

A ``BlockSource`` holds the repository; only the blocks that are looked at are in memory.
``Snapshot.open`` proves all of it: every block's hash, the commit's signature, and a complete
tree (order, layers, ranges, prefixes).  Blocks that nothing links to are tolerated: a server may
send what it has.  Then ``chunks`` yields the wanted records: of a large repository by walking the
tree once more, through the wanted intervals alone.

A repository is as good as its records.  A key that is no path of a record, and a value that is no
DAG-CBOR, are left out.  A wanted record without a block is *unknown*: neither there nor gone.
Blocks of records that are not wanted are not asked for.

Not for the event loop: the time grows with the repository.  ``alive`` is called now and then
and may raise to give up.

Specification: https://atproto.com/specs/repository.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from typing import Protocol, TypeVar

from consumer.backfill import Entry
from consumer.errors import Reason, Refused
from consumer.scope import Interval
from consumer.verify.keys import SigningKey
from consumer.verify.mst import MAX_HEIGHT, check_layers, layer
from consumer.verify.node import parse_node
from consumer.verify.signed import Signed, check_rev, check_signature, read_signed
from consumer.verify.stream import Location
from consumer.verify.verified import Counts, Evidence, Incomplete
from procedures.syntax import DAG_CBOR_PREFIX, MAX_PATH, cid_text, is_path

MAX_ENTRIES, MAX_BYTES = 1_000, 1024 * 1024  # of one chunk; a single record may be larger

_PORTION = 2_000  # keys between two calls of ``alive``
_LOOKED_UP = 500  # CIDs at once
_END = b"\xff" * (MAX_PATH + 1)  # behind every key


K = TypeVar("K", bytes, str)

Alive = Callable[[], None]
"""Called now and then; raises to give up."""


class BlockSource(Protocol):
    """The blocks of one CAR."""

    def index(self, largest: int, most: int, alive: Alive) -> tuple[bytes, ...]:
        """Check the hash of every block, and return the roots.

        The first call.  Raises ``Refused``, also for a block of over ``largest`` bytes and for
        over ``most`` blocks.
        """

    def get(self, cid: bytes) -> bytes | None:
        """Return the block of ``cid``, None if there is none."""

    def locate(self, cids: Iterable[bytes]) -> Mapping[bytes, Location]:
        """Return the locations of those of ``cids`` that have a block."""

    def read(self, location: Location) -> bytes:
        """Return the block at ``location``."""

    def close(self) -> None:
        """Release what it holds."""


@dataclass(frozen=True, slots=True)
class SnapshotLimits:
    """``records`` and ``kept`` are numbers, ``block`` bytes, ``rev_ahead`` seconds.

    ``kept``: wanted records kept in memory; for more, the tree is walked a second time.
    """

    records: int = 5_000_000
    block: int = 2_000_000
    rev_ahead: float = 300.0
    kept: int = 20_000


@dataclass(frozen=True, slots=True)
class _Found:
    """What the walk through a whole tree has found.

    ``records``: the wanted ones whose bytes are there.  ``missing``: the digest of the CIDs of
    the others, None without any.  ``wanted``: path and CID of all wanted, None if they are many.
    """

    records: int
    left_out: Counts
    missing: str | None
    wanted: list[tuple[str, bytes]] | None


@dataclass(frozen=True, slots=True)
class ChunkContent:
    """Consecutive wanted records: of the keys in (``after``, ``through``] there are no others.

    ``unknown`` are the paths of those whose bytes are missing.  ``after`` is None at the first
    chunk, ``through`` at the last.  There may be none at all.
    """

    after: str | None
    through: str | None
    intervals: tuple[Interval, ...]
    entries: tuple[Entry, ...]
    unknown: tuple[str, ...] = ()

    @property
    def last(self) -> bool:
        return self.through is None


class Snapshot:
    """A verified repository.  Open with ``open``, always close.

    ``records`` is the number of its records within ``intervals`` whose bytes are there.
    ``left_out`` counts, by reason, the entries of the whole tree that are no records, and the
    wanted records without bytes.  ``evidence`` is None if there are none of the latter; else it is
    equal for two snapshots of one commit that lack the same ones.
    """

    def __init__(
        self,
        blocks: BlockSource,
        commit: bytes,
        signed: Signed,
        intervals: Sequence[Interval],
        found: _Found,
    ) -> None:
        self.rev = signed.rev
        self.data = signed.data
        self.commit = commit
        self.records = found.records
        self.left_out = found.left_out
        self.evidence: Evidence | None = None if found.missing is None else (commit, found.missing)
        self._intervals = intervals
        self._wanted = found.wanted
        self._blocks = blocks

    @classmethod
    def open(
        cls,
        blocks: BlockSource,
        did: str,
        key: SigningKey,
        limits: SnapshotLimits,
        intervals: Sequence[Interval],
        *,
        now: float,
        alive: Alive,
    ) -> Snapshot:
        """Verify that ``blocks`` is the repository of ``did``, signed with ``key``.

        ``intervals`` (disjoint, in key order) are what is wanted of it; ``now`` is Unix time in
        seconds.  The snapshot owns ``blocks``: it closes them, also when it raises ``Refused``
        (``Incomplete`` if nodes of the tree are missing behind a good signature).
        """
        try:
            most = 2 * limits.records + MAX_HEIGHT  # no honest tree has more nodes than keys
            roots = blocks.index(limits.block, most, alive)
            signed = read_signed(roots, blocks.get, did)
            check_rev(signed.rev, limits.rev_ahead, now)
            check_signature(signed, key)
            try:
                found = _check_tree(signed.data, blocks, limits, intervals, alive)
            except Refused as error:
                if error.reason is Reason.TREE_PARTIAL:
                    raise Incomplete(error.reason, error.detail, roots[0]) from error
                raise
        except BaseException:
            blocks.close()
            raise
        return cls(blocks, roots[0], signed, intervals, found)

    def close(self) -> None:
        """Release the blocks."""
        self._blocks.close()

    def chunks(self, alive: Alive, boundaries: Iterable[str] = ()) -> Iterator[ChunkContent]:
        """Yield the wanted records in key order; at least one chunk.

        A chunk ends at each of ``boundaries`` (in key order), so that it covers no more of what its
        reader has than lies between two of them, however much of that is gone here.
        """
        open_chunk = _OpenChunk(self._intervals)
        left = deque(boundaries)
        for path, cid, record in self._records(alive):
            while left and left[0] < path:
                yield open_chunk.ended(left.popleft())
            if open_chunk.is_full(len(record or b"")):
                yield open_chunk.ended(open_chunk.newest)
            open_chunk.add(path, cid, record)
        while left:
            yield open_chunk.ended(left.popleft())
        yield open_chunk.ended(None)

    def _records(self, alive: Alive) -> Iterator[tuple[str, bytes, bytes | None]]:
        """Yield path, CID and DAG-CBOR of the wanted records; None without a block."""
        wanted = self._walk_wanted(alive) if self._wanted is None else iter(self._wanted)
        for portion in _portions(wanted):
            alive()
            located = self._blocks.locate(cid for _, cid in portion)
            for path, cid in portion:
                location = located.get(cid)
                yield path, cid, None if location is None else self._blocks.read(location)

    def _walk_wanted(self, alive: Alive) -> Iterator[tuple[str, bytes]]:
        bounds = _bounds(self._intervals)

        def overlaps(low: bytes, high: bytes) -> bool:
            return any(lower < high and low < upper for lower, upper in bounds)

        for key, cid in _walk(self.data, self._blocks, overlaps, alive):
            if any(lower <= key < upper for lower, upper in bounds):
                path = _path_of(key)
                if path is not None and cid[:4] == DAG_CBOR_PREFIX:
                    yield path, cid


@dataclass(slots=True)
class _OpenChunk:
    """The chunk that records are added to."""

    intervals: Sequence[Interval]
    after: str | None = None
    entries: list[Entry] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    size: int = 0
    newest: str | None = None  # the path that was added last

    def is_full(self, more: int) -> bool:
        """Tell whether a record of ``more`` bytes has to go into the next one."""
        count = len(self.entries) + len(self.unknown)
        return count > 0 and (count >= MAX_ENTRIES or self.size + more > MAX_BYTES)

    def add(self, path: str, cid: bytes, record: bytes | None) -> None:
        """Add a record, without its bytes if they are missing."""
        self.newest = path
        if record is None:
            self.unknown.append(path)
            self.size += len(path)
        else:
            self.entries.append(Entry(path, cid, record))
            self.size += len(record)

    def ended(self, through: str | None) -> ChunkContent:
        """Return the chunk that ends at ``through``, and begin the next one there."""
        covered = clipped(self.intervals, self.after, through)
        chunk = ChunkContent(self.after, through, covered, tuple(self.entries), tuple(self.unknown))
        self.after, self.entries, self.unknown, self.size = through, [], [], 0
        return chunk


def _bounds(intervals: Sequence[Interval]) -> list[tuple[bytes, bytes]]:
    return [(i.lower.encode(), _END if i.upper is None else i.upper.encode()) for i in intervals]


def clipped(
    intervals: Sequence[Interval], after: str | None, through: str | None
) -> tuple[Interval, ...]:
    """Return what of ``intervals`` lies in (``after``, ``through``]."""
    lowest = "" if after is None else after + "\0"
    highest = None if through is None else through + "\0"
    found = []
    for interval in intervals:
        lower = max(interval.lower, lowest)
        uppers = [upper for upper in (interval.upper, highest) if upper is not None]
        upper = min(uppers) if uppers else None
        if upper is None or lower < upper:
            found.append(Interval(lower, upper))
    return tuple(found)


def _check_tree(
    root: bytes,
    blocks: BlockSource,
    limits: SnapshotLimits,
    intervals: Sequence[Interval],
    alive: Alive,
) -> _Found:
    """Walk the whole tree, whose nodes must all be there; return what is in it."""
    tally, bounds = _Tally(limits.kept), _bounds(intervals)
    count = 0
    for portion in _portions(_walk(root, blocks, lambda _low, _high: True, alive)):
        count += len(portion)
        if count > limits.records:
            raise Refused(Reason.FETCH_TOO_BIG, f"more than {limits.records} records")
        wanted = tally.wanted_of(portion, bounds)
        if wanted:
            tally.add(wanted, blocks.locate(cid for _, cid in wanted))
    return tally.found()


class _Tally:
    """What the walk through a whole tree finds."""

    def __init__(self, most_kept: int) -> None:
        self._most_kept = most_kept
        self._records = 0
        self._left_out: Counter[Reason] = Counter()
        self._missing = sha256()
        self._kept: list[tuple[str, bytes]] | None = []

    def wanted_of(
        self, portion: Iterable[tuple[bytes, bytes]], bounds: Sequence[tuple[bytes, bytes]]
    ) -> list[tuple[str, bytes]]:
        """Return path and CID of the wanted records; count what is no record."""
        wanted = []
        for key, cid in portion:
            path = _path_of(key)
            if path is None:
                self._left_out[Reason.PATH_INVALID] += 1
            elif cid[:4] != DAG_CBOR_PREFIX:
                self._left_out[Reason.RECORD_RAW] += 1
            elif any(lower <= key < upper for lower, upper in bounds):
                wanted.append((path, cid))
        return wanted

    def add(self, wanted: list[tuple[str, bytes]], located: Mapping[bytes, Location]) -> None:
        """Count ``wanted``, of which those that are ``located`` have their bytes."""
        for _, cid in wanted:
            if cid in located:
                self._records += 1
            else:
                self._left_out[Reason.BLOCK_MISSING] += 1
                self._missing.update(cid)
        if self._kept is not None:
            self._kept += wanted
            if len(self._kept) > self._most_kept:
                self._kept = None

    def found(self) -> _Found:
        """Return all of it."""
        missing = self._missing.hexdigest() if self._left_out[Reason.BLOCK_MISSING] else None
        left_out = tuple(sorted(item for item in self._left_out.items() if item[1]))
        return _Found(self._records, left_out, missing, self._kept)


def _path_of(key: bytes) -> str | None:
    """Return the path of the record at ``key``; None: there can be no record."""
    try:
        path = key.decode("ascii")
    except UnicodeDecodeError:
        return None
    return path if is_path(path) else None


def _portions(found: Iterator[tuple[K, bytes]]) -> Iterator[list[tuple[K, bytes]]]:
    """Yield keys or paths, with their CIDs, by as many as are looked up at once."""
    while portion := list(islice(found, _LOOKED_UP)):
        yield portion


@dataclass(slots=True)
class _Open:
    """A node on the way down: what is left of it, and the keys that bound it."""

    keys: list[bytes]
    values: list[bytes]
    children: list[bytes | None]
    level: int
    low: bytes
    high: bytes
    at: int = 0
    gone_down: bool = False


def _walk(
    root: bytes, blocks: BlockSource, enter: Callable[[bytes, bytes], bool], alive: Alive
) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and CIDs in order, below the nodes whose range is to be entered.

    Memory is bounded by the height: a node can be valid in one place only, for its keys lie
    strictly between those of the nodes above.
    """
    top = _node(root, blocks, None, b"", _END)
    stack = [top]
    count = 0
    while stack:
        node = stack[-1]
        if not node.gone_down:
            node.gone_down = True
            child = node.children[node.at]
            if child is not None:
                low = node.keys[node.at - 1] if node.at else node.low
                high = node.keys[node.at] if node.at < len(node.keys) else node.high
                if enter(low, high):
                    stack.append(_node(child, blocks, node.level - 1, low, high))
                    continue
        if node.at == len(node.keys):
            stack.pop()
            continue
        yield node.keys[node.at], node.values[node.at]
        node.at += 1
        node.gone_down = False
        count += 1
        if count % _PORTION == 0:
            alive()


def _node(cid: bytes, blocks: BlockSource, level: int | None, low: bytes, high: bytes) -> _Open:
    """Read a node and check it; ``level`` None: it is the root."""
    block = blocks.get(cid)
    if block is None:
        raise Refused(Reason.TREE_PARTIAL, f"no block for the node {cid_text(cid)}")
    keys, values, _, links = parse_node(cid, block)
    if not keys and (links[0] is not None) == (level is None):
        raise Refused(Reason.TREE_INVALID, f"node {cid_text(cid)}: without keys")
    if level is None:
        level = layer(keys[0]) if keys else 0
    if level > MAX_HEIGHT or (level == 0 and any(links)):
        raise Refused(Reason.TREE_INVALID, f"node {cid_text(cid)}: at a wrong height")
    if keys and not (low < keys[0] and keys[-1] < high):
        raise Refused(Reason.TREE_INVALID, f"node {cid_text(cid)}: keys out of bounds")
    check_layers(cid, keys, level)
    return _Open(keys, values, links, level, low, high)
