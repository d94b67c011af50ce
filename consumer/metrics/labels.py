"""The closed sets of label values that belong to no module of their own."""

from __future__ import annotations

from enum import StrEnum


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
