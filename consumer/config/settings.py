"""Settings: built-in defaults < TOML file < ``CHIVE_*`` environment variables.

Every section is a frozen model; a module takes the section it needs, never the whole.
In the environment a section and a key are joined by two underscores
(``CHIVE_RELAY__URL``); in TOML they are tables.  Times are seconds, sizes bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, IPvAnyNetwork, SecretStr, model_validator

from consumer.config.retries import RetrySettings
from consumer.config.section import Section
from consumer.config.types import (
    ALL_TOPICS,
    BUILT_IN_TOPICS,
    Bytes,
    Codec,
    Command,
    Count,
    Did,
    Dsn,
    ExistingFile,
    Extension,
    Fragment,
    HostPort,
    HttpOrigin,
    HttpUrl,
    Moment,
    Nsid,
    Patterns,
    PerSecond,
    ProxyUrl,
    RelayUrl,
    Routes,
    Seconds,
    SecretFile,
    Servers,
    ShardName,
    Source,
    Start,
    TopicConfig,
    TopicName,
)
from consumer.scope import History, Repos
from consumer.state.accounts import DEFAULT as _ACCOUNTS
from consumer.state.accounts import AccountRules
from consumer.state.sweep import Choice

# The largest message on any topic is 8 MiB; a frame leaves room for its headers.
_MAX_FRAME = 8 * 1024 * 1024 - 64 * 1024


# Where repositories are found unless the settings say otherwise: not every relay has listings.
DEFAULT_SOURCES = (
    "relay",
    "https://relay1.us-east.bsky.network",
    "https://relay1.us-west.bsky.network",
    "https://lightrail.microcosm.blue",
)


class RelaySettings(Section):
    """Where the firehose comes from, and how much of it is kept.

    ``url`` is the relay that is read as long as it can be, the first of ``urls`` if only they are
    given; the others of ``urls`` follow in their order.
    """

    url: RelayUrl = "wss://bsky.network"
    urls: tuple[RelayUrl, ...] = ()
    failover_after: Seconds = 300.0  # of not being able to read a relay: the next one is read
    return_after: Seconds = 600.0  # of good answers from a relay before the one that is read
    forward: Literal["relevant", "all"] = "relevant"
    linger: Moment = 0.05  # a frame waits for others, to be written to Kafka with them
    silence: Seconds = 30.0  # no frame and no pong in that time: the connection counts as dead
    # Where to begin without a cursor; a seq is that of another consumer of this relay.
    start: Start = "live"
    # The relay must deny our position again after this time before it is given up.
    future_cursor_confirm: Seconds = 60.0

    @property
    def relays(self) -> tuple[str, ...]:
        """The relays in order of preference."""
        return tuple(dict.fromkeys((self.url, *self.urls)))

    @property
    def first_cursor(self) -> int | None:
        """The cursor to connect with as long as there is none: 0 is the oldest frame, None live."""
        match self.start:
            case "live":
                return None
            case "oldest":
                return 0
            case seq:
                return seq

    @model_validator(mode="after")
    def _first_of_several(self) -> RelaySettings:
        if self.urls and "url" not in self.model_fields_set:
            object.__setattr__(self, "url", self.urls[0])
        return self

    @model_validator(mode="after")
    def _quiet_relays_are_read(self) -> RelaySettings:
        """Refuse to leave quiet relays: only after ``silence`` is it known that one is read."""
        if len(self.relays) > 1 and self.failover_after <= self.silence:
            raise ValueError(
                "failover_after is not longer than silence: quiet relays would be left"
            )
        return self

    @model_validator(mode="after")
    def _seq_is_of_one_relay(self) -> RelaySettings:
        if len(self.relays) > 1 and isinstance(self.start, int):
            raise ValueError("start is a sequence number, which belongs to one relay, not to urls")
        return self


class IdentitySettings(Section):
    """How DIDs are resolved."""

    plc_url: HttpOrigin = "https://plc.directory"
    timeout: Seconds = 10.0
    document_limit: Bytes = 512 * 1024
    refresh_interval: Seconds = 60.0  # at most one forced refresh of a DID in that time


class NetworkSettings(Section):
    """The guard on outgoing requests, and the proxy that they go through.

    ``proxy_resolves``: the proxy resolves names, so their addresses are not checked here.
    """

    secrets = ("proxy",)

    proxy: ProxyUrl | None = None
    proxy_file: SecretFile | None = None
    proxy_resolves: bool = False
    allow_loopback: bool = False
    requests_per_host: Count = 4


class TopicSettings(Section):
    """How a topic is created, where that is not as built in; Kafka's own names and values.

    An empty value in ``config`` takes the built-in one out: the broker's is taken.
    """

    replication_factor: Annotated[int, Field(ge=1, le=9)] | None = None
    config: TopicConfig = Field(default_factory=dict)


MSK_IAM = "AWS_MSK_IAM"
"""A mechanism that is OAUTHBEARER with the tokens of MSK's own provider."""


class KafkaSettings(Section):
    """The Kafka cluster; without ``bootstrap_servers`` the embedded one is started.

    ``topics``: by their names without the prefix; ``all`` is for those that do not say otherwise.
    ``compression``: of the topics that others read.  ``cloudevents``: events have the headers of
    CloudEvents, too.  ``routes``: topics of events, without the prefix, by patterns of collections.
    """

    secrets = ("sasl_password", "sasl_token", "ssl_key_password")

    bootstrap_servers: Servers | None = None
    topic_prefix: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")] = "chive."
    partitions: Annotated[int, Field(ge=1, le=1024)] = 8
    replication_factor: Annotated[int, Field(ge=1, le=9)] = 1
    create_topics: bool = True
    routes: Routes = Field(default_factory=dict)
    topics: dict[TopicName, TopicSettings] = Field(default_factory=dict)
    compression: Codec = "gzip"
    cloudevents: bool = False
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal[
        "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "AWS_MSK_IAM"
    ] = "PLAIN"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    sasl_password_file: SecretFile | None = None
    sasl_password_command: Command | None = None
    sasl_token_file: SecretFile | None = None
    sasl_token_command: Command | None = None
    sasl_extensions: tuple[Extension, ...] = ()
    aws_region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,63}$")] | None = None
    ssl_ca_file: ExistingFile | None = None
    ssl_certificate_file: ExistingFile | None = None
    ssl_key_file: ExistingFile | None = None  # None: the key is beside the certificate
    ssl_key_password: SecretStr | None = None
    ssl_key_password_file: SecretFile | None = None
    transaction_timeout: Annotated[Seconds, Field(le=900)] = 60.0  # the broker's own maximum
    request_timeout: Seconds = 30.0
    session_timeout: Annotated[float, Field(ge=3, le=1_800)] = 6.0  # what brokers allow at least

    @model_validator(mode="after")
    def _topics_are_known(self) -> KafkaSettings:
        known = {ALL_TOPICS, *BUILT_IN_TOPICS, *self.routes.values()}
        if unknown := sorted(self.topics.keys() - known):
            raise ValueError(
                f"topics.{unknown[0][:64]}: there is no such topic; there are "
                f"{', '.join(sorted(known))}"
            )
        return self

    @model_validator(mode="after")
    def _credentials_match_the_protocol(self) -> KafkaSettings:
        if self.ssl_certificate_file is None:
            if self.ssl_key_file is not None:
                raise ValueError("ssl_key_file needs ssl_certificate_file")
        elif not self.security_protocol.endswith("SSL"):
            raise ValueError("ssl_certificate_file needs security_protocol SSL or SASL_SSL")
        if self.security_protocol.startswith("SASL"):
            given = {
                "OAUTHBEARER": self.sasl_token_file or self.sasl_token_command,
                MSK_IAM: self.aws_region and self.security_protocol == "SASL_SSL",
            }.get(
                self.sasl_mechanism,
                self.sasl_username and (self.sasl_password or self.sasl_password_command),
            )
            if not given:
                needed = _NEEDED.get(self.sasl_mechanism, "sasl_username and sasl_password")
                raise ValueError(
                    f"security_protocol {self.security_protocol} with {self.sasl_mechanism} needs "
                    f"{needed}"
                )
        return self

    @property
    def extensions(self) -> dict[str, str]:
        """The extensions of OAUTHBEARER (RFC 7628) by name."""
        return dict(extension.split("=", 1) for extension in self.sasl_extensions)


_NEEDED = {
    "OAUTHBEARER": "sasl_token_file or sasl_token_command",
    MSK_IAM: "aws_region, and SASL_SSL",
}


class SchemaRegistrySettings(Section):
    """The schema registry that readers use; without ``url`` there is none."""

    secrets = ("password",)

    url: HttpUrl | None = None
    username: str | None = None
    password: SecretStr | None = None
    password_file: SecretFile | None = None
    password_command: Command | None = None


class PostgresSettings(Section):
    """The PostgreSQL database; without ``dsn`` the embedded one is started.

    ``password`` is that of the connection strings that have none.
    """

    secrets = ("dsn", "direct_dsn", "password")

    dsn: Dsn | None = None
    dsn_file: SecretFile | None = None
    direct_dsn: Dsn | None = None  # past a pooler, for LISTEN; None: dsn
    direct_dsn_file: SecretFile | None = None
    password: SecretStr | None = None
    password_file: SecretFile | None = None
    password_command: Command | None = None
    pool_size: Annotated[int, Field(ge=2, le=100)] = 12
    transaction_timeout: Seconds = 60.0


class ScopeSettings(Section):
    """Which repositories and collections are indexed."""

    repos: Repos = Repos.COLLECTIONS
    collections: Patterns = (
        "pub.chive.*",
        "network.cosmik.*",
        "at.margin.*",
        "site.standard.*",
    )
    dids: tuple[Did, ...] = ()
    history: History = History.FULL
    shard: ShardName = "1/1"  # the accounts of this deployment, of several that share a network


class DiscoverySettings(Section):
    """Finding repositories that already hold wanted records (``history = full`` alone).

    ``sources``: origins in order of preference; the word ``relay`` is the relay's own.  None:
    ``DEFAULT_SOURCES``, or the relay alone where requests may go to loopback.
    ``known_collections``: what a wildcard of the scope may stand for beyond the built-in list
    (``consumer.known_collections``).
    """

    sources: tuple[Source, ...] | None = None
    repeat_every: Seconds = 7 * 86_400.0
    pace: PerSecond = 2.0  # requests to a source
    unconfirmed: Count = 100_000  # DIDs of a source whose documents were not seen yet
    known_collections: tuple[Nsid, ...] = ()
    sweep_every: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 86_400.0  # 0: never
    sweep: Choice = Choice.AUTO
    sweep_pace: PerSecond = 5.0  # requests of a process to one host
    sweep_confirm_after: Seconds = 600.0  # how long a newer revision may be on its way
    queued: Count = 2_000  # automatic syncs that may be due before more are queued
    registered_hosts: Annotated[int, Field(ge=0)] = 1_000  # sources that commands name; 0: none
    registered_repos: Count = 1_000  # of one of them


class AccountSettings(Section):
    """How accounts are asked about when a sign says that their status may be wrong."""

    ask_every: Seconds = _ACCOUNTS.ask_every  # at most one answer about an account in this time
    # A deletion that only the host states counts when it states it again after this time.
    deletion_confirm_after: Seconds = _ACCOUNTS.deletion_confirm_after
    # While more of a host's accounts are gone in a day, their deletions wait; 0: all of them.
    deletion_share: Annotated[float, Field(ge=0, le=1)] = _ACCOUNTS.deletion_share

    def rules(self) -> AccountRules:
        """Return the rules that these settings give."""
        return AccountRules(self.ask_every, self.deletion_confirm_after, self.deletion_share)


class LimitSettings(Section):
    """Upper bounds on what the network may send."""

    frame: Annotated[Bytes, Field(le=_MAX_FRAME)] = 5_000_000
    commit_blocks: Bytes = 2_000_000
    sync_blocks: Bytes = 10_000
    ops: Count = 200
    record: Bytes = 1_048_576
    rev_ahead: Seconds = 300.0
    parked_frames: Count = 2_048
    parked_bytes: Bytes = 64 * 1024**2
    repo: Bytes = 2 * 1024**3
    repo_records: Count = 5_000_000

    @model_validator(mode="after")
    def _parts_fit_the_whole(self) -> LimitSettings:
        if self.commit_blocks > self.frame:
            raise ValueError("commit_blocks is larger than frame")
        return self


class FetchSettings(Section):
    """Syncs and refreshes: how many run at once in a process, and timeouts for hosts."""

    syncs: Count = 32
    refreshes: Count = 8
    first_byte: Seconds = 30.0
    idle: Seconds = 30.0
    total: Seconds = 1_800.0
    injected_bytes: Bytes = 64 * 1024 * 1024  # of one lane, not applied yet
    lease: Annotated[float, Field(ge=5, le=3_600)] = 15.0  # extended once a second


class OperationsSettings(Section):
    """How long operations are kept."""

    history: Seconds = 90 * 86_400.0  # seconds after their end


class WorkerSettings(Section):
    """Batching of the worker."""

    batch_frames: Count = 400
    batch_bytes: Bytes = 8 * 1024 * 1024
    progress_every: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 10.0  # 0: never


class HttpSettings(Section):
    """The health and metrics server of each process; port 0 takes a free one."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    ready_lag: Seconds = 300.0


class GatewaySettings(Section):
    """The XRPC gateway.

    Rates are calls per second in the long run; bursts may be longer (``procedures.gateway``).
    A PDS gives a call that it passes on 10 s.
    """

    bind: HostPort = "127.0.0.1:8480"
    service_did: Did | None = None
    fragments: Annotated[tuple[Fragment, ...], Field(min_length=1)] = ("chive_appview", "chive")
    fragment: Fragment | None = None  # one more
    admins: tuple[Did, ...] = ()
    token_reuse: bool = True
    deadline: Annotated[Seconds, Field(le=9.0)] = 8.0
    address_rate: PerSecond = 20.0
    account_rate: PerSecond = 1.0
    admin_rate: PerSecond = 20.0
    trusted_proxies: tuple[IPvAnyNetwork, ...] = ()


class CommandSettings(Section):
    """The commands beside ``run`` and ``check``.

    ``deadline``: without an answer of Kafka or PostgreSQL for this time, a command says what it
    waits for, and ends.
    """

    deadline: Seconds = 15.0


class LogSettings(Section):
    """Structured logs on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Settings(Section):
    """The effective settings of one process."""

    relay: RelaySettings = RelaySettings()
    identity: IdentitySettings = IdentitySettings()
    network: NetworkSettings = NetworkSettings()
    kafka: KafkaSettings = KafkaSettings()
    schema_registry: SchemaRegistrySettings = SchemaRegistrySettings()
    postgres: PostgresSettings = PostgresSettings()
    scope: ScopeSettings = ScopeSettings()
    discovery: DiscoverySettings = DiscoverySettings()
    accounts: AccountSettings = AccountSettings()
    limits: LimitSettings = LimitSettings()
    fetch: FetchSettings = FetchSettings()
    operations: OperationsSettings = OperationsSettings()
    retries: RetrySettings = RetrySettings()
    worker: WorkerSettings = WorkerSettings()
    http: HttpSettings = HttpSettings()
    gateway: GatewaySettings = GatewaySettings()
    commands: CommandSettings = CommandSettings()
    log: LogSettings = LogSettings()
    data_dir: Path = Path(".chive")
    cache_dir: Path | None = None  # downloads; None: chive in the user's cache directory
