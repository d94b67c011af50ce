"""How to reach Kafka: connection settings, factories, and the translation of its errors.

aiokafka's exceptions do not leave ``consumer.kafka``: ``translated()`` turns them into
``Transient`` (the cluster is away or busy: wait) or ``Fatal`` (not allowed, misconfigured:
stop).  Every wait on Kafka has a deadline.

A record has at most ``MAX_RECORD_BYTES`` on topics, in producers and in consumers.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.assignors.range import RangePartitionAssignor

from consumer.config.settings import KafkaSettings
from consumer.errors import Fatal, Transient
from consumer.kafka.credentials import Credentials
from consumer.kafka.diagnosis import Refusals, cause_of, require_coordinators
from consumer.metrics.labels import Service
from consumer.runtime.tasks import is_cancelled

MAX_RECORD_BYTES = 8 * 1024 * 1024
_BATCH_BYTES = 4 * 1024 * 1024  # of one partition in one produce request, before compression
# Of one partition in one fetch, compressed; a record that is larger comes all the same.
_SHARED_BYTES = 1024 * 1024
_FETCH_SECONDS = 0.5
_CLOSE_SECONDS = 5.0
_RETRY_BACKOFF_MS = 50
_LEAST_PATIENCE = 5.0  # seconds
_HEARTBEAT_MS = 1_000  # five may fail before the shortest session that brokers allow ends
_NEVER_MS = 2**31 - 1
# How often aiokafka looks for something to fetch although nothing has happened; a member never
# fetches.  Its default is five times a second.
_LOOK_MS, _MEMBER_LOOK_MS = 1_000, 5_000

_UNAUTHORIZED = (
    errors.ClusterAuthorizationFailedError,
    errors.GroupAuthorizationFailedError,
    errors.TopicAuthorizationFailedError,
    errors.TransactionalIdAuthorizationFailed,
)
_FATAL = (
    errors.AuthenticationFailedError,
    errors.AuthenticationMethodNotSupported,
    errors.IncompatibleBrokerVersion,
    errors.InvalidConfigurationError,
    errors.InvalidReplicationFactorError,
    errors.InvalidSessionTimeoutError,
    errors.InvalidTopicError,
    errors.InvalidTransactionTimeout,
    errors.MessageSizeTooLargeError,
    errors.PolicyViolationError,
    errors.RecordListTooLargeError,
    errors.SaslAuthenticationFailed,
    errors.UnsupportedCodecError,
    errors.UnsupportedSaslMechanismError,
    errors.UnsupportedVersionError,
)


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raise ``Transient`` or ``Fatal`` for what the driver raises; ``doing`` is for the message.

    aiokafka passes on the cancellation of its own tasks, which does not cancel the caller.  A
    broker that comes back says for a moment that there are no brokers, which aiokafka asserts
    against.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        raise Transient(f"Kafka's client gave up while {doing}", Service.KAFKA) from error
    except _UNAUTHORIZED as error:
        raise Fatal(
            f"Kafka refuses while {doing}: {_described(error)}: grant the right; 'consumer topics "
            "--as acls' prints all that are needed (docs/topics.md)"
        ) from error
    except _FATAL as error:
        raise Fatal(f"Kafka refuses while {doing}: {_described(error)}") from error
    except (errors.KafkaError, errors.IllegalOperation, OSError) as error:
        raise Transient(
            f"Kafka is away while {doing}: {_described(error)}", Service.KAFKA
        ) from error
    except AssertionError as error:
        if not _raised_by_driver(error):
            raise
        raise Transient(
            f"Kafka's client is in disorder while {doing}: {error}", Service.KAFKA
        ) from error


def _raised_by_driver(error: BaseException) -> bool:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("aiokafka.")


@asynccontextmanager
async def deadline(seconds: float, doing: str) -> AsyncIterator[None]:
    """Like ``translated``; raises ``Transient`` too if the block takes more than ``seconds``."""
    try:
        async with asyncio.timeout(seconds):
            with translated(doing):
                yield
    except TimeoutError as error:
        raise Transient(
            f"Kafka did not answer in {seconds:g} s while {doing}", Service.KAFKA
        ) from error


class Client:
    """One Kafka cluster and one deployment on it; makes the driver's objects and keeps none.

    ``settings.bootstrap_servers`` must be set (the embedded stack fills it in).  Raises ``Fatal``
    if it is not, or as ``Credentials`` does.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        if not settings.bootstrap_servers:
            raise Fatal("kafka.bootstrap_servers is not set")
        self.settings = settings
        self._credentials = Credentials(settings)
        self._refusals = Refusals()

    @property
    def timeout(self) -> float:
        """Seconds that one exchange with Kafka may take."""
        return self.settings.request_timeout

    def scoped(self, name: str) -> str:
        """Return a group or transactional id that belongs to this deployment alone."""
        return f"{self.settings.topic_prefix}{name}"

    def producer(self, transactional_id: str) -> Any:
        """Return a transactional producer that has not been started.

        It compresses nothing itself: its batches are those of ``consumer.kafka.batches``.
        """
        return AIOKafkaProducer(
            **self._connection(),
            transactional_id=transactional_id,
            transaction_timeout_ms=round(self.settings.transaction_timeout * 1000),
            max_request_size=MAX_RECORD_BYTES,
        )

    def idempotent_producer(self) -> Any:
        """Return a producer without transactions that has not been started."""
        return AIOKafkaProducer(
            **self._connection(),
            enable_idempotence=True,
            compression_type="zstd",
            max_batch_size=_BATCH_BYTES,
            max_request_size=MAX_RECORD_BYTES,
        )

    def consumer(
        self, *, committed: bool = True, shared: bool = False, patience: float = _FETCH_SECONDS
    ) -> Any:
        """Return a group-less consumer of records that has not been started.

        It reads committed records alone, or all if ``committed`` is false.  A ``shared`` one reads
        many partitions: less of each at once.  A fetch in vain takes ``patience`` seconds; what
        is asked meanwhile on the same connection, as for other partitions, waits for its end.
        """
        return AIOKafkaConsumer(
            **self._connection(),
            group_id=None,
            isolation_level="read_committed" if committed else "read_uncommitted",
            auto_offset_reset="none",
            enable_auto_commit=False,
            max_partition_fetch_bytes=_SHARED_BYTES if shared else MAX_RECORD_BYTES,
            fetch_max_bytes=2 * MAX_RECORD_BYTES,
            fetch_max_wait_ms=round(patience * 1000),
            consumer_timeout_ms=_LOOK_MS,
        )

    def member(self, group: str, client_id: str) -> Any:
        """Return a group member that has not been started; it may be idle for any time."""
        return AIOKafkaConsumer(
            **self._connection(),
            group_id=group,
            client_id=client_id,
            enable_auto_commit=False,
            partition_assignment_strategy=(RangePartitionAssignor,),
            session_timeout_ms=round(self.settings.session_timeout * 1000),
            heartbeat_interval_ms=_HEARTBEAT_MS,
            consumer_timeout_ms=_MEMBER_LOOK_MS,
            max_poll_interval_ms=_NEVER_MS,
        )

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[Any]:
        """Open an admin client for the block.  Raises ``Transient`` or ``Fatal``."""
        admin = AIOKafkaAdminClient(**self._connection())
        try:
            async with deadline(self.timeout, "connecting"):
                await admin.start()
        except BaseException as error:
            await closed(admin.close)
            if isinstance(error, Transient):
                raise await self.explained(error) from error
            raise
        self._refusals.over()
        try:
            with translated("administering"):
                yield admin
        finally:
            await closed(admin.close)

    async def cluster_id(self) -> str:
        """Return the id of the cluster, which never changes.  Raises ``Transient`` or ``Fatal``."""
        async with self.admin() as admin, deadline(self.timeout, "asking for the cluster"):
            return str((await admin.describe_cluster())["cluster_id"])

    async def require_coordinators(self, patience: float = 0.0) -> None:
        """Raise ``Transient`` that says why groups and transactions cannot work, if they cannot.

        ``patience``: seconds for the first ones of a new cluster to appear.
        """
        async with self.admin() as admin, deadline(self.timeout, "asking for coordinators"):
            await require_coordinators(admin, self.scoped("worker"), patience)

    async def explained(self, error: Transient) -> Transient | Fatal:
        """Return ``error``, or the cause by name if no connection can be made."""
        return await cause_of(error, self._servers(), self._credentials, self._refusals)

    def _connection(self) -> dict[str, Any]:
        return {
            "bootstrap_servers": self._servers(),
            "request_timeout_ms": round(1000 * _patience(self.settings.request_timeout)),
            "retry_backoff_ms": _RETRY_BACKOFF_MS,
            **self._credentials.at_start(),
        }

    def _servers(self) -> str:
        return self.settings.bootstrap_servers or ""


def _patience(exchange: float) -> float:
    """Return how long one server may take to answer, in seconds.

    A frozen server accepts connections and says nothing: an exchange of ``exchange`` seconds must
    have time left to try another one, which is the leader or coordinator by then.
    """
    return min(exchange, max(exchange / 3, _LEAST_PATIENCE))


async def closed(close: Callable[[], Any], seconds: float = _CLOSE_SECONDS) -> bool:
    """Await a driver's ``close()``; return False if it failed or took more than ``seconds``.

    A group-less consumer's ``stop()`` may raise CancelledError although the task is not cancelled.
    """
    try:
        async with asyncio.timeout(seconds):
            await close()
    except asyncio.CancelledError:
        if is_cancelled():
            raise
        return False
    except (errors.KafkaError, TimeoutError, OSError) as error:
        logging.getLogger(__name__).debug("close failed: %r", error)
        return False
    return True


async def release(consumer: Any) -> None:
    """Stop a consumer, and close its connections even if stopping failed."""
    if not await closed(consumer.stop):
        await closed(consumer._client.close)  # noqa: SLF001 - stop() gave up before it
