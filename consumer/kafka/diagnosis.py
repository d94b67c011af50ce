"""Why Kafka cannot be used, by name: what the driver only logs, or waits for without a word.

The driver says "unable to bootstrap" for a refused password, an unknown certificate and a port
without TLS alike; so one connection is made here whose error is seen.  And it waits for ever for
coordinators that a cluster cannot have.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from contextlib import suppress
from typing import Any

from aiokafka import errors
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.conn import collect_hosts
from aiokafka.protocol.metadata import MetadataRequest

from consumer.errors import ChiveError, Fatal, Transient
from consumer.kafka.connections import connected
from consumer.kafka.credentials import Credentials
from consumer.metrics.labels import Service

_CONNECT_SECONDS = 4.0
_REFUSED_SECONDS = 60.0
_AGAIN = 0.25
_PAGE = "docs/secrets.md"
_CERTIFICATE_ALERT = re.compile("ALERT.*(CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED)")

# The kind of a coordinator in the protocol, what it is for, its topic and the broker's setting.
_COORDINATORS = (
    (0, "consumer groups", "__consumer_offsets", "offsets.topic.replication.factor"),
    (1, "transactions", "__transaction_state", "transaction.state.log.replication.factor"),
)


class Refusals:
    """Since when a cluster has refused our password: it may be about to change."""

    def __init__(self) -> None:
        self._since: float | None = None

    def over(self) -> None:
        """Note that a connection was made."""
        self._since = None

    def judged(self, text: str) -> Transient | Fatal:
        """Return the error for another refusal: ``Fatal`` after a minute of nothing else."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since >= _REFUSED_SECONDS:
            return Fatal(text)
        return Transient(text, Service.KAFKA)


async def cause_of(
    error: Transient, servers: str, credentials: Credentials, refusals: Refusals
) -> Transient | Fatal:
    """Return ``error``, or what a connection of its own to one of ``servers`` says."""
    for host, port, _ in collect_hosts(servers):
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await _connect(host, port, await credentials.options())
        except Transient as unavailable:
            return unavailable
        except (errors.KafkaError, OSError) as raised:
            return _named(raised, f"{host}:{port}", credentials, refusals)
        else:
            return error
    return error


async def _connect(host: str, port: int, options: dict[str, Any]) -> None:
    milliseconds = round(_CONNECT_SECONDS * 1000)
    connection = await connected(host, port, request_timeout_ms=milliseconds, **options)
    try:
        await connection.send(MetadataRequest([]))
    finally:
        connection.close()


def _named(
    raised: Exception, at: str, credentials: Credentials, refusals: Refusals
) -> Transient | Fatal:
    """Return what the failure of a connection to ``at`` means."""
    protocol = credentials.protocol
    reason = raised.__cause__ if isinstance(raised.__cause__, ssl.SSLError) else raised
    said = f"{type(reason).__name__}: {reason}" if str(reason) else type(reason).__name__
    match reason:
        case errors.SaslAuthenticationFailed() | errors.AuthenticationFailedError():
            credentials.refused()
            return refusals.judged(f"Kafka at {at} refuses {credentials.what} ({said})")
        case ssl.SSLError(reason=str(alert)) if _CERTIFICATE_ALERT.search(alert):
            return refusals.judged(
                f"Kafka at {at} wants another client certificate: correct "
                f"kafka.ssl_certificate_file ({said}); {_PAGE}"
            )
        case errors.UnsupportedSaslMechanismError():
            return Fatal(f"Kafka at {at}: correct kafka.sasl_mechanism ({said}); {_PAGE}")
        case errors.IllegalSaslStateError():
            why = f"does not ask for SASL: kafka.security_protocol is {protocol}"
        case ssl.SSLCertVerificationError():
            why = "has a certificate that is not trusted: set kafka.ssl_ca_file to its authority"
        case ConnectionRefusedError() | TimeoutError():
            why = "does not answer"
        case OSError() if not isinstance(raised, ssl.SSLError | ConnectionError):
            why = "cannot be reached"
        case _ if protocol.endswith("SSL"):
            why = f"does not speak TLS: kafka.security_protocol is {protocol}, the port plaintext?"
        case _:
            why = f"hangs up: kafka.security_protocol is {protocol}, the port may want TLS or SASL"
    return Transient(f"Kafka at {at} {why} ({said})", Service.KAFKA)


async def require_coordinators(admin: Any, key: str, patience: float) -> None:
    """Raise ``Transient`` that says why groups or transactions have no coordinator.

    ``key`` is the name of a group and of a transaction; for ``patience`` seconds the topics of a
    new cluster may be on their way.
    """
    give_up = time.monotonic() + patience
    for kind, purpose, topic, setting in _COORDINATORS:
        while True:
            try:
                with suppress(*_NOT_ALLOWED):  # the role that needs it names what is missing
                    await admin.find_coordinator(key, kind)
                break
            except (errors.GroupCoordinatorNotAvailableError, errors.NotCoordinatorForGroupError):
                if time.monotonic() >= give_up:
                    raise await _without(admin, purpose, topic, setting) from None
            await asyncio.sleep(_AGAIN)


_NOT_ALLOWED = (
    errors.GroupAuthorizationFailedError,
    errors.TransactionalIdAuthorizationFailed,
    errors.ClusterAuthorizationFailedError,
)


async def _without(admin: Any, purpose: str, topic: str, setting: str) -> ChiveError:
    """Say why ``purpose`` have no coordinator: most often brokers are missing."""
    brokers = [broker["node_id"] for broker in (await admin.describe_cluster())["brokers"]]
    resource = ConfigResource(ConfigResourceType.BROKER, str(brokers[0]))
    factor = "?"
    for response in await admin.describe_configs([resource]):
        for *_, entries in response.resources:
            factor = {entry[0]: entry[1] for entry in entries}.get(setting, factor)
    why = f"{topic} wants {factor} replicas ({setting}), the cluster has {len(brokers)} brokers"
    if factor.isdecimal() and int(factor) <= len(brokers):
        why = f"no leader of {topic} answers"
    return Transient(f"Kafka has no coordinator for {purpose}: {why}", Service.KAFKA)
