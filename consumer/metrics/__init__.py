"""Every metric of the project: one catalogue, one registry, closed labels.

Import the module and use its names: ``metrics.REFUSED.labels(reason=…, stage=…).inc()``.
The values of every label come from a closed set (an enum in ``labels``, in ``errors`` or a
module's own), or are a lane number; nothing that the network chose ever becomes a label.
Series of closed sets exist from the start, so that a rate of something that has not happened
yet is 0.
Count per batch in hot loops: one ``inc(n)`` costs as much as one ``inc()``.

Units are in the names: seconds, bytes; a name in ``_total`` only grows.
"""

from __future__ import annotations

from consumer.backfill import Cause, LookupKind
from consumer.errors import Reason
from consumer.metrics.labels import (
    BatchStep,
    Claim,
    EpochCause,
    FrameKind,
    FrameOutcome,
    LookupOutcome,
    ReconnectCause,
    Service,
    Stage,
    Sweep,
    TransactionOutcome,
)
from consumer.metrics.registry import REGISTRY as REGISTRY
from consumer.metrics.registry import Ages as Ages
from consumer.metrics.registry import by_label as by_label
from consumer.metrics.registry import closed as closed
from consumer.metrics.registry import counter, gauge, histogram
from consumer.state.discovery import AnswerKind, SearchState
from consumer.state.sweep import Finding
from procedures.contract import METHODS
from procedures.failures import Failure
from procedures.messages import RefusalReason
from procedures.operations import CHILD_TYPES, Phase, Type

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


# --- Kafka -----------------------------------------------------------------------------------

_GROUPS = ("worker", "tailer", "controller")
GROUP_JOINED = closed(
    gauge(
        "chive_kafka_group_joined",
        "1 while Kafka has said which partitions are this process's, none included, by group",
        "group",
    ),
    _GROUPS,
)
GROUP_PARTITIONS = closed(
    gauge("chive_kafka_group_partitions", "Partitions assigned to this process, by group", "group"),
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
    gauge(
        "chive_kafka_open_transaction_seconds",
        "Age in seconds of the oldest transaction that somebody left open, by topic",
        "topic",
    ),
    _TOPICS,
)

# --- process ---------------------------------------------------------------------------------

BUILD = gauge(
    "chive_build_info",
    "Always 1; the labels are version and commit of this process, the form of its core, its shard",
    "version",
    "commit",
    "core",
    "shard",
)
ROOT_UP = gauge(
    "chive_root_up", "1 while this part (root task) of the process runs, else 0", "root"
)
ROOT_RESTARTS = counter(
    "chive_root_restarts_total",
    "Times a part of the process started again because a service was unreachable",
    root=ROOTS,
)
LOOP_DELAY = gauge(
    "chive_event_loop_delay_seconds",
    "Delay of the last heartbeat of the event loop in seconds; high: the process is overloaded",
)
WORKER_PROCESSES = gauge(
    "chive_worker_processes", "Worker processes that run under this parent process"
)
WORKER_RESTARTS = counter(
    "chive_worker_restarts_total", "Worker processes restarted after a signal killed them"
)
WAITS = counter(
    "chive_waits_total",
    "Attempts that found a service unreachable and are repeated, by service",
    service=Service,
)

# --- input refused, at any stage -------------------------------------------------------------

REFUSED = counter(
    "chive_refused_total",
    "Frames, messages and answers refused, by reason and by the role that refused",
    reason=Reason,
    stage=Stage,
)

# --- tailer ----------------------------------------------------------------------------------

FRAMES = counter(
    "chive_tail_frames_total",
    "Frames received from the relay, by kind and outcome",
    kind=FrameKind,
    outcome=FrameOutcome,
)
TAIL_BYTES = counter("chive_tail_received_bytes_total", "Bytes of frames received from the relay")
TAIL_ACTIVE = gauge(
    "chive_tail_active",
    "1 while this process is the tailer that reads the relay, 0 while it stands by",
)
TAIL_CONNECTED = gauge(
    "chive_tail_connected", "1 while this process is connected to the relay, else 0"
)
RECONNECTS = counter(
    "chive_tail_reconnects_total",
    "Connections to the relay that ended or failed, by cause",
    cause=ReconnectCause,
)
RELAY_SWITCHES = counter(
    "chive_tail_switches_total", "Switches from one relay of relay.urls to another"
)
EPOCHS = counter(
    "chive_tail_sessions_total",
    "New epochs: breaks in the continuity of the firehose, by cause",
    cause=EpochCause,
)
CURSOR_SEQ = gauge(
    "chive_tail_cursor_seq", "Sequence number of the cursor that is committed in Kafka"
)
CURSOR_AGE = Ages(
    "chive_tail_cursor_age_seconds", "Age in seconds of the frame at the committed cursor"
)
TAIL_LAG = Ages(
    "chive_tail_lag_seconds",
    "Age in seconds of the newest committed frame while more may wait; 0 when caught up",
)
TAIL_BATCH_FRAMES = histogram(
    "chive_tail_batch_frames", "Frames forwarded in one Kafka transaction of the tailer", _COUNTS
)
TAIL_COMMIT_SECONDS = histogram(
    "chive_tail_commit_seconds",
    "Duration in seconds of one Kafka transaction of the tailer",
    _SECONDS,
)
TAIL_QUEUED_BYTES = gauge(
    "chive_tail_queued_bytes", "Bytes of frames received and not yet in a Kafka transaction"
)
TRACKED = gauge("chive_tail_tracked_repos", "Repositories (DIDs) whose frames the tailer forwards")

# --- gateway ---------------------------------------------------------------------------------

OTHER_METHOD = "unknown"
CALLS = counter(
    "chive_gateway_calls_total",
    "XRPC calls answered, by method and class of HTTP status",
    method=(*METHODS, OTHER_METHOD),
    status=("2xx", "3xx", "4xx", "5xx"),
)
CALL_SECONDS = histogram(
    "chive_gateway_call_seconds",
    "Duration in seconds of one XRPC call, by method",
    _SECONDS,
    method=(*METHODS, OTHER_METHOD),
)

# --- controller ------------------------------------------------------------------------------

COMMANDS_REFUSED = counter(
    "chive_control_refused_total",
    "Messages on the control topic that are not valid commands, by reason",
    reason=RefusalReason,
)
SWEPT = counter(
    "chive_control_swept_total",
    "Operations and repositories that the controller's sweeps corrected, by kind",
    kind=Sweep,
)

# --- worker ----------------------------------------------------------------------------------

LANES_OWNED = gauge("chive_worker_lanes", "Lanes that this process owns")
CLAIMS = counter(
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
WORKER_INPUTS = counter(
    "chive_worker_inputs_total",
    "Messages that the worker read, by topic",
    topic=("firehose", "backfill"),
)
BATCH_INPUTS = histogram("chive_worker_batch_inputs", "Messages in one worker batch", _COUNTS)
BATCH_BYTES = histogram(
    "chive_worker_batch_bytes", "Bytes of the messages in one worker batch", _SIZES
)
BATCH_SECONDS = histogram(
    "chive_worker_batch_seconds",
    "Duration in seconds of one worker batch, by step",
    _SECONDS,
    step=BatchStep,
)
COMMITS_VERIFIED = counter(
    "chive_worker_commits_verified_total", "Commits that passed all verification"
)
EVENTS = counter(
    "chive_events_total",
    "Events written to the outbox, by type and source",
    type=EVENT_TYPES,
    source=EVENT_SOURCES,
)
DESYNCHRONIZED = counter(
    "chive_worker_desynchronized_total",
    "Repositories marked as desynchronized, by reason",
    reason=(),
)
ACCOUNT_ANSWERS = counter(
    "chive_worker_account_answers_total",
    "Answers about accounts, by what they did",
    verdict=(),
)
ACCOUNT_QUESTIONS = counter(
    "chive_worker_account_questions_total",
    "Questions about accounts that the worker had, by their cause",
    cause=Cause,
)
PARKED = counter(
    "chive_worker_parked_total", "Frames parked because the account's signing key is not known yet"
)
UNPARKED = counter("chive_worker_unparked_total", "Parked frames processed again")
PARKED_FRAMES = gauge("chive_worker_parked_frames", "Frames that are parked now, by lane", "lane")
STALLS = counter("chive_worker_stalls_total", "Batches that a lane repeated after a crash")

# --- publisher -------------------------------------------------------------------------------

OUTBOX_DEPTH = gauge(
    "chive_outbox_depth", "Outbox rows not yet published to Kafka, by lane", "lane"
)
OUTBOX_AGE = Ages(
    "chive_outbox_age_seconds",
    "Age in seconds of the oldest outbox row not yet published, by lane; 0 when empty",
    "lane",
)
PUBLISHED = counter(
    "chive_published_total",
    "Records published to Kafka, by topic; those of routes count as events, each once",
    topic=("events", "operations", "dead-letter"),
)
PUBLISH_RECORDS = histogram(
    "chive_publish_records", "Records in one Kafka transaction of the publisher", _COUNTS
)
PUBLISH_SECONDS = histogram(
    "chive_publish_seconds",
    "Duration in seconds of one Kafka transaction of the publisher",
    _SECONDS,
)
TRANSACTIONS = counter(
    "chive_transactions_total",
    "Kafka transactions, by role and outcome",
    role=("tailer", "publisher"),
    outcome=TransactionOutcome,
)

# --- discovery -------------------------------------------------------------------------------

LISTING_PAGES = counter(
    "chive_discovery_pages_total",
    "Requests for pages of listings, by what the source answered",
    answer=AnswerKind,
)
LISTED = counter(
    "chive_discovery_listed_total", "Entries of listings: repositories or hosts, known or not"
)
DISCOVERED = counter(
    "chive_discovery_found_total", "Repositories found in listings that were not known before"
)
SEARCHES = closed(
    gauge("chive_discovery_searches", "Searches of listings at sources, by state", "state"),
    SearchState,
)
FOUND_WAITING = gauge(
    "chive_discovery_remembered", "Repositories found and not yet synced, nor known to be gone"
)
FOUND_FAILED = gauge(
    "chive_discovery_failed", "Repositories found whose last sync failed; they are tried again"
)

# --- fetcher ---------------------------------------------------------------------------------

LOOKUPS = counter(
    "chive_fetch_lookups_total",
    "Attempts at identity lookups and account checks, by kind and outcome",
    kind=LookupKind,
    outcome=LookupOutcome,
)
LOOKUP_SECONDS = histogram(
    "chive_fetch_lookup_seconds",
    "Duration in seconds of one lookup, by kind",
    _SECONDS,
    kind=LookupKind,
)
INJECTED, IN_STEP = "injected", "in_step"
_ATTEMPTED = tuple(kind for kind in Type if kind not in {Type.DISCOVERY, *CHILD_TYPES})
ATTEMPTS = counter(
    "chive_fetch_attempts_total",
    "Attempts at syncs and refreshes that ended, by type and outcome",
    type=_ATTEMPTED,
    outcome=(INJECTED, IN_STEP, *Failure),
)
ATTEMPTS_RUNNING = closed(
    gauge(
        "chive_fetch_attempts_running",
        "Attempts at syncs and refreshes that run now, by type",
        "type",
    ),
    _ATTEMPTED,
)
PHASE_SECONDS = histogram(
    "chive_fetch_phase_seconds",
    "Duration in seconds of one phase of an attempt, by type and phase",
    _SECONDS,
    type=_ATTEMPTED,
    phase=(Phase.RESOLVING, Phase.DOWNLOADING, Phase.VERIFYING, Phase.INJECTING),
)
SWEEP_FINDINGS = counter(
    "chive_sweep_checks_total",
    "Checks of tracked repositories by the sweep, by finding",
    finding=Finding,
)
SWEEP_TRACKED = gauge("chive_sweep_tracked", "Repositories that this round of the sweep covers")
SWEEP_TAKEN = gauge("chive_sweep_taken", "Repositories that this round of the sweep has taken")
HOST_REFUSALS = counter(
    "chive_fetch_refusals_total",
    "Errors that hosts answered by name, by meaning; what is not known is other",
    meaning=(),
)
DOWNLOADED_BYTES = counter("chive_fetch_downloaded_bytes_total", "Bytes of repositories downloaded")
INJECTED_BYTES = counter(
    "chive_fetch_injected_bytes_total", "Bytes of chunks and proofs written to the backfill topic"
)
LOOKUPS_RUNNING = gauge("chive_fetch_lookups_running", "Lookups that run now")
