"""Every metric of the project: one catalogue, one registry, closed labels.

Import the module and use its names: ``metrics.REFUSED.labels(reason=…, stage=…).inc()``.
The values of every label come from a closed set (an enum here, in ``errors`` or a module's
own), or are a lane number; nothing that the network chose ever becomes a label.  Series of
closed sets exist from the start, so that a rate of something that has not happened yet is 0.
Count per batch in hot loops: one ``inc(n)`` costs as much as one ``inc()``.

Units are in the names: seconds, bytes; a name in ``_total`` only grows.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from enum import StrEnum
from itertools import product
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from consumer.errors import Reason

disable_created_metrics()  # type: ignore[no-untyped-call]  # the package omits the annotation

REGISTRY = CollectorRegistry(auto_describe=True)
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)


class FrameKind(StrEnum):
    """Types of frames as the relay names them; ``unknown`` for every other."""

    COMMIT = "#commit"
    SYNC = "#sync"
    ACCOUNT = "#account"
    IDENTITY = "#identity"
    INFO = "#info"
    ERROR = "error"
    UNKNOWN = "unknown"


class FrameOutcome(StrEnum):
    """What the tailer did with a frame."""

    FORWARDED = "forwarded"
    IRRELEVANT = "irrelevant"
    DUPLICATE = "duplicate"
    REFUSED = "refused"


class ReconnectCause(StrEnum):
    """Why the firehose connection ended or could not be made."""

    CLOSED = "closed"  # the relay closed it properly
    DROPPED = "dropped"  # the transport broke
    SILENCE = "silence"  # half-open: no frame and no pong
    UNREACHABLE = "unreachable"  # no address, no route, refused, timed out
    REJECTED = "rejected"  # the handshake was answered with an HTTP error
    TEXT_FRAME = "text_frame"
    TOO_BIG = "too_big"
    ERROR_FRAME = "error_frame"
    PROTOCOL = "protocol"  # the peer broke the websocket protocol
    KAFKA = "kafka"  # ours: the position must be read again


class SessionCause(StrEnum):
    """Why continuity of the firehose broke (each is a loss window)."""

    RESET = "reset"
    TOO_OLD = "too_old"
    RELAY = "relay"


class Stage(StrEnum):
    """Who refused."""

    TAILER = "tailer"
    WORKER = "worker"
    FETCHER = "fetcher"


class BatchStep(StrEnum):
    """Parts of a worker's batch; ``total`` is the whole."""

    READ = "read"
    VERIFY = "verify"
    LOAD = "load"
    APPLY = "apply"
    WRITE = "write"
    TOTAL = "total"


class Service(StrEnum):
    """What can be away and is waited for."""

    KAFKA = "kafka"
    POSTGRES = "postgres"
    RELAY = "relay"
    PLC = "plc"
    PDS = "pds"
    EMBEDDED = "embedded_stack"


class TransactionOutcome(StrEnum):
    """How a Kafka transaction ended."""

    COMMITTED = "committed"
    FENCED = "fenced"
    UNKNOWN = "unknown"


class LookupKind(StrEnum):
    """What the fetcher is asked."""

    IDENTITY = "identity"
    ACCOUNT = "account"


class LookupOutcome(StrEnum):
    """How one attempt at a look-up ended."""

    ANSWERED = "answered"
    FAILED = "failed"  # for good: the answer says so
    RETRIED = "retried"


class Claim(StrEnum):
    """What happened to the ownership of a lane."""

    CLAIMED = "claimed"
    RELEASED = "released"
    LOST = "lost"  # the compare-and-set found another owner


EVENT_TYPES = ("record", "account", "identity", "sync")
EVENT_SOURCES = ("firehose", "backfill", "refresh", "account")

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)
_SIZES = (1 << 10, 1 << 13, 1 << 16, 1 << 18, 1 << 20, 1 << 21, 1 << 22, 1 << 23, 1 << 24)

_M = TypeVar("_M", Counter, Gauge, Histogram)


def closed(metric: _M, *values: Iterable[str]) -> _M:
    """Create the series of every combination of label values, in the order of the labels."""
    for combination in product(*values):
        metric.labels(*combination)
    return metric


def by_label(gauge: Gauge) -> dict[str, float]:
    """Return the values of a gauge that has one label, or of one without under ``""``."""
    return {
        next(iter(sample.labels.values()), ""): sample.value
        for family in gauge.collect()
        for sample in family.samples
    }


class Ages(Collector):
    """A gauge of seconds since a moment, computed when it is read, so that what is stuck grows.

    ``since(moment)`` takes Unix seconds; ``settled()`` means nothing waits (0); a label that
    was never set, or was dropped, has no series.  ``label`` names the one label, if any.
    """

    def __init__(self, name: str, documentation: str, label: str | None = None) -> None:
        self._family = (name, documentation, None, [label] if label else [])
        self._moments: dict[str, float | None] = {}
        REGISTRY.register(self)

    def since(self, moment: float, label: object = "") -> None:
        """Let the age count from ``moment``."""
        self._moments[str(label)] = moment

    def settled(self, label: object = "") -> None:
        """Hold the age at 0."""
        self._moments[str(label)] = None

    def drop(self, label: object = "") -> None:
        """Forget the series: it is somebody else's."""
        self._moments.pop(str(label), None)

    def read(self, now: float) -> dict[str, float]:
        """Return the age by label value, never negative (clocks differ)."""
        return {
            label: 0.0 if moment is None else max(0.0, now - moment)
            for label, moment in self._moments.copy().items()
        }

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the family for the registry."""
        name, documentation, value, labels = self._family
        family = GaugeMetricFamily(name, documentation, value, labels)
        for label, age in self.read(time.time()).items():
            family.add_metric([label] if labels else [], age)
        yield family


# --- process ---------------------------------------------------------------------------------

ROOT_UP = Gauge(
    "chive_root_up", "1 while the root task runs in this process", ["root"], registry=REGISTRY
)
ROOT_RESTARTS = Counter(
    "chive_root_restarts_total",
    "Times a root began again because a service was away",
    ["root"],
    registry=REGISTRY,
)
LOOP_DELAY = Gauge(
    "chive_event_loop_delay_seconds",
    "How late the last heartbeat of the event loop was",
    registry=REGISTRY,
)
WORKER_PROCESSES = Gauge(
    "chive_worker_processes", "Worker processes alive under this parent", registry=REGISTRY
)
WORKER_RESTARTS = Counter(
    "chive_worker_restarts_total",
    "Worker processes started again after a signal",
    registry=REGISTRY,
)
WAITS = closed(
    Counter(
        "chive_waits_total",
        "Attempts that found a service away and were waited out",
        ["service"],
        registry=REGISTRY,
    ),
    Service,
)

# --- input refused, at any stage -------------------------------------------------------------

REFUSED = closed(
    Counter(
        "chive_refused_total",
        "Input refused, by reason and stage",
        ["reason", "stage"],
        registry=REGISTRY,
    ),
    Reason,
    Stage,
)

# --- tailer ----------------------------------------------------------------------------------

FRAMES = closed(
    Counter(
        "chive_tail_frames_total",
        "Frames received, by kind and what became of them",
        ["kind", "outcome"],
        registry=REGISTRY,
    ),
    FrameKind,
    FrameOutcome,
)
TAIL_BYTES = Counter(
    "chive_tail_received_bytes_total", "Bytes of frames received", registry=REGISTRY
)
TAIL_ACTIVE = Gauge(
    "chive_tail_active", "1 while it is this process's turn to tail", registry=REGISTRY
)
TAIL_CONNECTED = Gauge(
    "chive_tail_connected", "1 while the firehose is connected", registry=REGISTRY
)
RECONNECTS = closed(
    Counter(
        "chive_tail_reconnects_total",
        "Firehose connections that ended, by cause",
        ["cause"],
        registry=REGISTRY,
    ),
    ReconnectCause,
)
SESSIONS = closed(
    Counter(
        "chive_tail_sessions_total",
        "Breaks in the continuity of the firehose",
        ["cause"],
        registry=REGISTRY,
    ),
    SessionCause,
)
CURSOR_SEQ = Gauge(
    "chive_tail_cursor_seq", "Sequence number of the durable cursor", registry=REGISTRY
)
CURSOR_AGE = Ages(
    "chive_tail_cursor_age_seconds", "Age of the frame that the durable cursor points at"
)
TAIL_LAG = Ages(
    "chive_tail_lag_seconds",
    "Age of the newest durable frame while more may wait; 0 when caught up",
)
TAIL_BATCH_FRAMES = Histogram(
    "chive_tail_batch_frames",
    "Frames forwarded in one transaction",
    buckets=_COUNTS,
    registry=REGISTRY,
)
TAIL_COMMIT_SECONDS = Histogram(
    "chive_tail_commit_seconds",
    "Time of one tailer transaction",
    buckets=_SECONDS,
    registry=REGISTRY,
)
TAIL_QUEUED_BYTES = Gauge(
    "chive_tail_queued_bytes", "Bytes received and not yet in a transaction", registry=REGISTRY
)
TRACKED = Gauge("chive_tail_tracked_repos", "DIDs in the tailer's tracked set", registry=REGISTRY)

# --- worker ----------------------------------------------------------------------------------

LANES_OWNED = Gauge("chive_worker_lanes", "Lanes owned by this process", registry=REGISTRY)
CLAIMS = closed(
    Counter(
        "chive_worker_claims_total", "Changes in lane ownership", ["outcome"], registry=REGISTRY
    ),
    Claim,
)
WORKER_LAG = Ages(
    "chive_worker_lag_seconds",
    "Age of the newest applied frame while more wait in the lane; 0 when caught up",
    "lane",
)
WORKER_INPUTS = closed(
    Counter(
        "chive_worker_inputs_total", "Messages taken from each topic", ["topic"], registry=REGISTRY
    ),
    ("firehose", "backfill"),
)
BATCH_INPUTS = Histogram(
    "chive_worker_batch_inputs", "Messages in one worker batch", buckets=_COUNTS, registry=REGISTRY
)
BATCH_BYTES = Histogram(
    "chive_worker_batch_bytes",
    "Bytes of messages in one worker batch",
    buckets=_SIZES,
    registry=REGISTRY,
)
BATCH_SECONDS = closed(
    Histogram(
        "chive_worker_batch_seconds",
        "Time of a worker batch, by step",
        ["step"],
        buckets=_SECONDS,
        registry=REGISTRY,
    ),
    BatchStep,
)
COMMITS_VERIFIED = Counter(
    "chive_worker_commits_verified_total", "Commits that passed every check", registry=REGISTRY
)
EVENTS = closed(
    Counter(
        "chive_events_total",
        "Events decided, by type and source",
        ["type", "source"],
        registry=REGISTRY,
    ),
    EVENT_TYPES,
    EVENT_SOURCES,
)
DESYNCHRONIZED = Counter(
    "chive_worker_desynchronized_total",
    "Repos found to need a sync, by reason (closed in worker.report)",
    ["reason"],
    registry=REGISTRY,
)
PARKED = Counter("chive_worker_parked_total", "Frames parked for a missing key", registry=REGISTRY)
UNPARKED = Counter("chive_worker_unparked_total", "Parked frames taken up again", registry=REGISTRY)
PARKED_FRAMES = Gauge(
    "chive_worker_parked_frames", "Frames parked at present", ["lane"], registry=REGISTRY
)
STALLS = Counter(
    "chive_worker_stalls_total",
    "Batches that a lane had to try again after a crash",
    registry=REGISTRY,
)

# --- publisher -------------------------------------------------------------------------------

OUTBOX_DEPTH = Gauge(
    "chive_outbox_depth", "Rows decided and not yet published", ["lane"], registry=REGISTRY
)
OUTBOX_AGE = Ages(
    "chive_outbox_age_seconds", "Age of the oldest row not yet published; 0 when empty", "lane"
)
PUBLISHED = closed(
    Counter("chive_published_total", "Records published, by topic", ["topic"], registry=REGISTRY),
    ("events", "operations", "dead-letter"),
)
PUBLISH_RECORDS = Histogram(
    "chive_publish_records",
    "Records in one publisher transaction",
    buckets=_COUNTS,
    registry=REGISTRY,
)
PUBLISH_SECONDS = Histogram(
    "chive_publish_seconds",
    "Time of one publisher transaction",
    buckets=_SECONDS,
    registry=REGISTRY,
)
TRANSACTIONS = closed(
    Counter(
        "chive_transactions_total",
        "Kafka transactions, by who made them and how they ended",
        ["role", "outcome"],
        registry=REGISTRY,
    ),
    ("tailer", "publisher"),
    TransactionOutcome,
)

# --- fetcher ---------------------------------------------------------------------------------

LOOKUPS = closed(
    Counter(
        "chive_fetch_lookups_total",
        "Attempts at identity look-ups and account checks",
        ["kind", "outcome"],
        registry=REGISTRY,
    ),
    LookupKind,
    LookupOutcome,
)
LOOKUP_SECONDS = closed(
    Histogram(
        "chive_fetch_lookup_seconds",
        "Time of one look-up",
        ["kind"],
        buckets=_SECONDS,
        registry=REGISTRY,
    ),
    LookupKind,
)
LOOKUPS_RUNNING = Gauge("chive_fetch_lookups_running", "Look-ups under way", registry=REGISTRY)
