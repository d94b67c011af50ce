"""How connections to Kafka are made: with what the process shows at that moment.

The driver keeps what its objects were made with, and these live as long as the process: a password
that was changed, or a certificate that was renewed, would be refused for ever.  And it takes a
refused token for an accepted one.  It has no setting for how it connects; so importing this module
replaces that one function of aiokafka 0.14.
"""

from __future__ import annotations

from typing import Any

import aiokafka.client
from aiokafka import errors
from aiokafka.conn import AIOKafkaConnection, OAuthAuthenticator

from consumer.errors import Transient
from consumer.kafka.credentials import Credentials


async def connected(host: str, port: int, **options: Any) -> AIOKafkaConnection:
    """Connect as the driver does, with the credentials of the moment.

    ``options`` are the driver's; those with ``Credentials`` as their provider of tokens are ours.
    Raises the driver's errors.
    """
    credentials = options.get("sasl_oauth_token_provider")
    if isinstance(credentials, Credentials):
        try:
            options |= await credentials.options()
        except Transient as error:
            raise errors.KafkaConnectionError(str(error)) from error
    connection = _Connection(host, port, **options)
    await connection.connect()
    return connection


class _Connection(AIOKafkaConnection):  # type: ignore[misc]  # comes without types
    def authenticator_oauth(self) -> OAuthAuthenticator:
        return _Authenticator(sasl_oauth_token_provider=self._sasl_oauth_token_provider)


class _Authenticator(OAuthAuthenticator):  # type: ignore[misc]  # comes without types
    """Takes an answer for what it is: a refusal (RFC 7628, section 3.2.2)."""

    async def step(self, payload: bytes | None) -> tuple[bytes, bool] | None:
        if payload:
            raise errors.SaslAuthenticationFailed(payload.decode(errors="replace"))
        step: tuple[bytes, bool] | None = await super().step(payload)
        return step


aiokafka.client.create_conn = connected
