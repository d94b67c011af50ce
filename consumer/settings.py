"""Settings: built-in defaults < TOML file < ``CHIVE_*`` environment variables.

Every section is a frozen model; a module takes the section it needs, never the whole.
In the environment a section and a key are joined by two underscores
(``CHIVE_RELAY__URL``); in TOML they are tables.  Times are seconds, sizes bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from consumer.scope import History, Repos

Seconds = Annotated[float, Field(gt=0)]
Bytes = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RelaySettings(Section):
    """Where the firehose comes from, and how much of it is kept."""

    url: str = "wss://bsky.network"
    forward: Literal["relevant", "all"] = "relevant"
    silence: Seconds = 30.0  # no frame and no pong for so long: the socket is half-open
    start: Literal["live", "oldest"] = "live"  # where to begin without a cursor


class IdentitySettings(Section):
    """How DIDs are resolved."""

    plc_url: str = "https://plc.directory"
    timeout: Seconds = 10.0
    document_limit: Bytes = 512 * 1024
    refresh_interval: Seconds = 60.0  # at most one forced refresh of a DID in so long


class NetworkSettings(Section):
    """The guard on outgoing requests."""

    allow_loopback: bool = False
    requests_per_host: Annotated[int, Field(gt=0)] = 4


class KafkaSettings(Section):
    """The Kafka cluster; without ``bootstrap_servers`` the embedded one is started."""

    bootstrap_servers: str | None = None
    topic_prefix: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")] = "chive."
    partitions: Annotated[int, Field(ge=1, le=1024)] = 8
    replication_factor: Annotated[int, Field(ge=1, le=9)] = 1
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_ca_file: Path | None = None
    transaction_timeout: Seconds = 60.0
    request_timeout: Seconds = 30.0


class PostgresSettings(Section):
    """The PostgreSQL database; without ``dsn`` the embedded one is started."""

    dsn: SecretStr | None = None
    pool_size: Annotated[int, Field(ge=2, le=100)] = 12
    transaction_timeout: Seconds = 60.0


class ScopeSettings(Section):
    """Which repositories and collections are wanted."""

    repos: Repos = Repos.COLLECTIONS
    collections: tuple[str, ...] = (
        "pub.chive.*",
        "network.cosmik.*",
        "at.margin.*",
        "site.standard.*",
    )
    dids: tuple[str, ...] = ()
    history: History = History.FULL


class LimitSettings(Section):
    """Upper bounds on what the network may send."""

    frame: Bytes = 5_000_000
    commit_blocks: Bytes = 2_000_000
    sync_blocks: Bytes = 10_000
    ops: Annotated[int, Field(gt=0)] = 200
    record: Bytes = 1_048_576
    rev_ahead: Seconds = 300.0
    parked_frames: Annotated[int, Field(gt=0)] = 2_048


class WorkerSettings(Section):
    """Batching of the worker."""

    batch_frames: Annotated[int, Field(gt=0)] = 400
    batch_bytes: Bytes = 8 * 1024 * 1024


class HttpSettings(Section):
    """The health and metrics server of each process; port 0 takes a free one."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    ready_lag: Seconds = 300.0


class GatewaySettings(Section):
    """The XRPC gateway."""

    bind: str = "127.0.0.1:8480"
    service_did: str | None = None
    admins: tuple[str, ...] = ()


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
    postgres: PostgresSettings = PostgresSettings()
    scope: ScopeSettings = ScopeSettings()
    limits: LimitSettings = LimitSettings()
    worker: WorkerSettings = WorkerSettings()
    http: HttpSettings = HttpSettings()
    gateway: GatewaySettings = GatewaySettings()
    log: LogSettings = LogSettings()
    data_dir: Path = Path(".chive")
