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
from collections.abc import Iterable, Iterator, Sequence
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

from consumer.backfill import Cause, LookupKind
from consumer.errors import Reason
from consumer.state.discovery import AnswerKind, SearchState
from consumer.state.sweep import Finding
from procedures.contract import METHODS
from procedures.failures import Failure
from procedures.messages import RefusalReason
from procedures.operations import CHILD_TYPES, Phase, Type

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
    PROXY = "proxy"  # the proxy opens no connection
    REJECTED = "rejected"  # the handshake was answered with an HTTP error
    TEXT_FRAME = "text_frame"
    TOO_BIG = "too_big"
    ERROR_FRAME = "error_frame"
    DENIED = "denied"  # the first frame lies before the position: to be confirmed
    PROTOCOL = "protocol"  # the peer broke the websocket protocol
    KAFKA = "kafka"  # ours: the position must be read again


class EpochCause(StrEnum):
    """Why continuity of the firehose broke (each is a loss window)."""

    RESET = "reset"
    TOO_OLD = "too_old"
    RELAY = "relay"


class Stage(StrEnum):
    """The role that refused."""

    TAILER = "tailer"
    WORKER = "worker"
    FETCHER = "fetcher"


class Sweep(StrEnum):
    """What a sweep of the controller put right."""

    LOST = "lost"  # an operation whose fetcher was lost
    PASSED = "passed"  # one whose injected messages did not complete it
    REPAIRED = "repaired"  # a desynchronized repo without a sync
    FORGOTTEN = "forgotten"  # an operation that ended long ago


class BatchStep(StrEnum):
    """Parts of a worker's batch; ``total`` is the whole."""

    READ = "read"
    VERIFY = "verify"
    LOAD = "load"
    APPLY = "apply"
    WRITE = "write"
    TOTAL = "total"


class Service(StrEnum):
    """What can be unreachable and is waited for."""

    KAFKA = "kafka"
    POSTGRES = "postgres"
    RELAY = "relay"
    PLC = "plc"
    PDS = "pds"
    EMBEDDED = "embedded_stack"
    PROXY = "proxy"
    SCHEMA_REGISTRY = "schema_registry"


class TransactionOutcome(StrEnum):
    """How a Kafka transaction ended."""

    COMMITTED = "committed"
    FENCED = "fenced"
    UNKNOWN = "unknown"


class LookupOutcome(StrEnum):
    """How one attempt at a lookup ended."""

    ANSWERED = "answered"
    FAILED = "failed"  # for good: the answer says so
    RETRIED = "retried"


class Claim(StrEnum):
    """What happened to the ownership of a lane."""

    CLAIMED = "claimed"
    RELEASED = "released"
    LOST = "lost"  # the compare-and-set found another owner


ROOTS = (
    "tailer",
    "worker",
    "workers",
    "fetcher",
    "controller",
    "discovery",
    "http",
    "publisher",
    "lookups",
    "operations",
    "gateway",
    "changes",
)
EVENT_TYPES = ("record", "account", "identity", "sync")
EVENT_SOURCES = ("firehose", "backfill", "refresh", "account")

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)
_SIZES = (1 << 10, 1 << 13, 1 << 16, 1 << 18, 1 << 20, 1 << 21, 1 << 22, 1 << 23, 1 << 24)

_M = TypeVar("_M", Counter, Gauge, Histogram)


def closed(metric: _M, *values: Iterable[str]) -> _M:
    """Create the series of all combinations of label values, in the order of the labels."""
    for combination in product(*values):
        metric.labels(*combination)
    return metric


def _counter(name: str, about: str, **labels: Iterable[str]) -> Counter:
    """Register a counter; each label has its closed set of values."""
    counter = Counter(name, about, list(labels), registry=REGISTRY)
    return closed(counter, *labels.values()) if labels else counter


def _histogram(
    name: str, about: str, buckets: Sequence[float], **labels: Iterable[str]
) -> Histogram:
    histogram = Histogram(name, about, list(labels), buckets=buckets, registry=REGISTRY)
    return closed(histogram, *labels.values()) if labels else histogram


def _gauge(name: str, about: str, *labels: str) -> Gauge:
    """Register a gauge; a lane or a root has a series while it is here."""
    return Gauge(name, about, labels, registry=REGISTRY)


def by_label(metric: Gauge | Counter) -> dict[str, float]:
    """Return the values of a metric that has one label, or of one without under ``""``."""
    return {
        next(iter(sample.labels.values()), ""): sample.value
        for family in metric.collect()
        for sample in family.samples
    }


class Ages(Collector):
    """A gauge of seconds since a moment, computed when read: the age of what is stuck grows.

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
        """Remove the series: another process measures it now."""
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


# --- Kafka -----------------------------------------------------------------------------------

_GROUPS = ("worker", "tailer", "controller")
GROUP_JOINED = closed(
    _gauge(
        "chive_kafka_group_joined",
        "1 while Kafka has said which partitions are this process's, none included, by group",
        "group",
    ),
    _GROUPS,
)
GROUP_PARTITIONS = closed(
    _gauge(
        "chive_kafka_group_partitions", "Partitions assigned to this process, by group", "group"
    ),
    _GROUPS,
)
_TOPICS = (
    "firehose",
    "backfill",
    "cursor",
    "control",
    "events",
    "operations",
    "published",
    "dead-letter",
)
OPEN_TRANSACTION = closed(
    _gauge(
        "chive_kafka_open_transaction_seconds",
        "Age in seconds of the oldest transaction that somebody left open, by topic",
        "topic",
    ),
    _TOPICS,
)

# --- process ---------------------------------------------------------------------------------

BUILD = _gauge(
    "chive_build_info",
    "Always 1; the labels are version and commit of this process, and the form of its core",
    "version",
    "commit",
    "core",
)
ROOT_UP = _gauge(
    "chive_root_up", "1 while this part (root task) of the process runs, else 0", "root"
)
ROOT_RESTARTS = _counter(
    "chive_root_restarts_total",
    "Times a part of the process started again because a service was unreachable",
    root=ROOTS,
)
LOOP_DELAY = _gauge(
    "chive_event_loop_delay_seconds",
    "Delay of the last heartbeat of the event loop in seconds; high: the process is overloaded",
)
WORKER_PROCESSES = _gauge(
    "chive_worker_processes", "Worker processes that run under this parent process"
)
WORKER_RESTARTS = _counter(
    "chive_worker_restarts_total", "Worker processes restarted after a signal killed them"
)
WAITS = _counter(
    "chive_waits_total",
    "Attempts that found a service unreachable and are repeated, by service",
    service=Service,
)

# --- input refused, at any stage -------------------------------------------------------------

REFUSED = _counter(
    "chive_refused_total",
    "Frames, messages and answers refused, by reason and by the role that refused",
    reason=Reason,
    stage=Stage,
)

# --- tailer ----------------------------------------------------------------------------------

FRAMES = _counter(
    "chive_tail_frames_total",
    "Frames received from the relay, by kind and outcome",
    kind=FrameKind,
    outcome=FrameOutcome,
)
TAIL_BYTES = _counter("chive_tail_received_bytes_total", "Bytes of frames received from the relay")
TAIL_ACTIVE = _gauge(
    "chive_tail_active",
    "1 while this process is the tailer that reads the relay, 0 while it stands by",
)
TAIL_CONNECTED = _gauge(
    "chive_tail_connected", "1 while this process is connected to the relay, else 0"
)
RECONNECTS = _counter(
    "chive_tail_reconnects_total",
    "Connections to the relay that ended or failed, by cause",
    cause=ReconnectCause,
)
RELAY_SWITCHES = _counter(
    "chive_tail_switches_total", "Switches from one relay of relay.urls to another"
)
EPOCHS = _counter(
    "chive_tail_sessions_total",
    "New epochs: breaks in the continuity of the firehose, by cause",
    cause=EpochCause,
)
CURSOR_SEQ = _gauge(
    "chive_tail_cursor_seq", "Sequence number of the cursor that is committed in Kafka"
)
CURSOR_AGE = Ages(
    "chive_tail_cursor_age_seconds", "Age in seconds of the frame at the committed cursor"
)
TAIL_LAG = Ages(
    "chive_tail_lag_seconds",
    "Age in seconds of the newest committed frame while more may wait; 0 when caught up",
)
TAIL_BATCH_FRAMES = _histogram(
    "chive_tail_batch_frames", "Frames forwarded in one Kafka transaction of the tailer", _COUNTS
)
TAIL_COMMIT_SECONDS = _histogram(
    "chive_tail_commit_seconds",
    "Duration in seconds of one Kafka transaction of the tailer",
    _SECONDS,
)
TAIL_QUEUED_BYTES = _gauge(
    "chive_tail_queued_bytes", "Bytes of frames received and not yet in a Kafka transaction"
)
TRACKED = _gauge("chive_tail_tracked_repos", "Repositories (DIDs) whose frames the tailer forwards")

# --- gateway ---------------------------------------------------------------------------------

OTHER_METHOD = "unknown"
CALLS = _counter(
    "chive_gateway_calls_total",
    "XRPC calls answered, by method and class of HTTP status",
    method=(*METHODS, OTHER_METHOD),
    status=("2xx", "3xx", "4xx", "5xx"),
)
CALL_SECONDS = _histogram(
    "chive_gateway_call_seconds",
    "Duration in seconds of one XRPC call, by method",
    _SECONDS,
    method=(*METHODS, OTHER_METHOD),
)

# --- controller ------------------------------------------------------------------------------

COMMANDS_REFUSED = _counter(
    "chive_control_refused_total",
    "Messages on the control topic that are not valid commands, by reason",
    reason=RefusalReason,
)
SWEPT = _counter(
    "chive_control_swept_total",
    "Operations and repositories that the controller's sweeps corrected, by kind",
    kind=Sweep,
)

# --- worker ----------------------------------------------------------------------------------

LANES_OWNED = _gauge("chive_worker_lanes", "Lanes that this process owns")
CLAIMS = _counter(
    "chive_worker_claims_total",
    "Changes of lane ownership in this process, by outcome",
    outcome=Claim,
)
WORKER_LAG = Ages(
    "chive_worker_lag_seconds",
    "Age in seconds of the newest applied frame while more wait in the lane; 0 when caught up",
    "lane",
)
COMPLETE_LAG = Ages(
    "chive_complete_lag_seconds",
    "Seconds since the moment up to which a partition was last said to be complete",
    "lane",
)
WORKER_INPUTS = _counter(
    "chive_worker_inputs_total",
    "Messages that the worker read, by topic",
    topic=("firehose", "backfill"),
)
BATCH_INPUTS = _histogram("chive_worker_batch_inputs", "Messages in one worker batch", _COUNTS)
BATCH_BYTES = _histogram(
    "chive_worker_batch_bytes", "Bytes of the messages in one worker batch", _SIZES
)
BATCH_SECONDS = _histogram(
    "chive_worker_batch_seconds",
    "Duration in seconds of one worker batch, by step",
    _SECONDS,
    step=BatchStep,
)
COMMITS_VERIFIED = _counter(
    "chive_worker_commits_verified_total", "Commits that passed all verification"
)
EVENTS = _counter(
    "chive_events_total",
    "Events written to the outbox, by type and source",
    type=EVENT_TYPES,
    source=EVENT_SOURCES,
)
DESYNCHRONIZED = _counter(
    "chive_worker_desynchronized_total",
    "Repositories marked as desynchronized, by reason",
    reason=(),
)
ACCOUNT_ANSWERS = _counter(
    "chive_worker_account_answers_total",
    "Answers about accounts, by what they did",
    verdict=(),
)
ACCOUNT_QUESTIONS = _counter(
    "chive_worker_account_questions_total",
    "Questions about accounts that the worker had, by their cause",
    cause=Cause,
)
PARKED = _counter(
    "chive_worker_parked_total", "Frames parked because the account's signing key is not known yet"
)
UNPARKED = _counter("chive_worker_unparked_total", "Parked frames processed again")
PARKED_FRAMES = _gauge("chive_worker_parked_frames", "Frames that are parked now, by lane", "lane")
STALLS = _counter("chive_worker_stalls_total", "Batches that a lane repeated after a crash")

# --- publisher -------------------------------------------------------------------------------

OUTBOX_DEPTH = _gauge(
    "chive_outbox_depth", "Outbox rows not yet published to Kafka, by lane", "lane"
)
OUTBOX_AGE = Ages(
    "chive_outbox_age_seconds",
    "Age in seconds of the oldest outbox row not yet published, by lane; 0 when empty",
    "lane",
)
PUBLISHED = _counter(
    "chive_published_total",
    "Records published to Kafka, by topic; those of routes count as events, each once",
    topic=("events", "operations", "dead-letter"),
)
PUBLISH_RECORDS = _histogram(
    "chive_publish_records", "Records in one Kafka transaction of the publisher", _COUNTS
)
PUBLISH_SECONDS = _histogram(
    "chive_publish_seconds",
    "Duration in seconds of one Kafka transaction of the publisher",
    _SECONDS,
)
TRANSACTIONS = _counter(
    "chive_transactions_total",
    "Kafka transactions, by role and outcome",
    role=("tailer", "publisher"),
    outcome=TransactionOutcome,
)

# --- discovery -------------------------------------------------------------------------------

LISTING_PAGES = _counter(
    "chive_discovery_pages_total",
    "Requests for pages of listings, by what the source answered",
    answer=AnswerKind,
)
LISTED = _counter(
    "chive_discovery_listed_total", "Entries of listings: repositories or hosts, known or not"
)
DISCOVERED = _counter(
    "chive_discovery_found_total", "Repositories found in listings that were not known before"
)
SEARCHES = closed(
    _gauge("chive_discovery_searches", "Searches of listings at sources, by state", "state"),
    SearchState,
)
FOUND_WAITING = _gauge(
    "chive_discovery_remembered", "Repositories found and not yet synced, nor known to be gone"
)
FOUND_FAILED = _gauge(
    "chive_discovery_failed", "Repositories found whose last sync failed; they are tried again"
)

# --- fetcher ---------------------------------------------------------------------------------

LOOKUPS = _counter(
    "chive_fetch_lookups_total",
    "Attempts at identity lookups and account checks, by kind and outcome",
    kind=LookupKind,
    outcome=LookupOutcome,
)
LOOKUP_SECONDS = _histogram(
    "chive_fetch_lookup_seconds",
    "Duration in seconds of one lookup, by kind",
    _SECONDS,
    kind=LookupKind,
)
INJECTED, IN_STEP = "injected", "in_step"
_ATTEMPTED = tuple(kind for kind in Type if kind not in {Type.DISCOVERY, *CHILD_TYPES})
ATTEMPTS = _counter(
    "chive_fetch_attempts_total",
    "Attempts at syncs and refreshes that ended, by type and outcome",
    type=_ATTEMPTED,
    outcome=(INJECTED, IN_STEP, *Failure),
)
ATTEMPTS_RUNNING = closed(
    _gauge(
        "chive_fetch_attempts_running",
        "Attempts at syncs and refreshes that run now, by type",
        "type",
    ),
    _ATTEMPTED,
)
PHASE_SECONDS = _histogram(
    "chive_fetch_phase_seconds",
    "Duration in seconds of one phase of an attempt, by type and phase",
    _SECONDS,
    type=_ATTEMPTED,
    phase=(Phase.RESOLVING, Phase.DOWNLOADING, Phase.VERIFYING, Phase.INJECTING),
)
SWEEP_FINDINGS = _counter(
    "chive_sweep_checks_total",
    "Checks of tracked repositories by the sweep, by finding",
    finding=Finding,
)
SWEEP_TRACKED = _gauge("chive_sweep_tracked", "Repositories that this round of the sweep covers")
SWEEP_TAKEN = _gauge("chive_sweep_taken", "Repositories that this round of the sweep has taken")
HOST_REFUSALS = _counter(
    "chive_fetch_refusals_total",
    "Errors that hosts answered by name, by meaning; what is not known is other",
    meaning=(),
)
DOWNLOADED_BYTES = _counter(
    "chive_fetch_downloaded_bytes_total", "Bytes of repositories downloaded"
)
INJECTED_BYTES = _counter(
    "chive_fetch_injected_bytes_total", "Bytes of chunks and proofs written to the backfill topic"
)
LOOKUPS_RUNNING = _gauge("chive_fetch_lookups_running", "Lookups that run now")
