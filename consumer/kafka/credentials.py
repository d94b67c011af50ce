"""What this process shows to Kafka: passwords, tokens, certificates, as they are at the moment."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiokafka.abc import AbstractTokenProvider

from consumer.config.settings import MSK_IAM, KafkaSettings
from consumer.errors import Fatal, Transient
from consumer.metrics.labels import Service
from consumer.runtime.secrets import Secret

_MSK_KEPT_SECONDS = 60.0  # such a token is good for 15 minutes
_MSK_SECONDS = 10.0

Source = Callable[[], Awaitable[str]]


class Credentials(AbstractTokenProvider):  # type: ignore[misc]  # comes without types
    """The credentials of ``settings``, which the driver also takes tokens from.

    Raises ``Fatal`` if certificates do not fit their keys, or MSK's token provider is missing.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._password = Secret(settings, "sasl_password", Service.KAFKA)
        self._key_password = Secret(settings, "ssl_key_password", Service.KAFKA)
        self._token = Secret(settings, "sasl_token", Service.KAFKA)
        self._context: ssl.SSLContext | None = None
        self._made_of: tuple[int, ...] = ()
        self._tokens = self._token_source()
        self._newest_token = ""
        try:
            self.tls()
        except Transient as error:
            raise Fatal(str(error)) from None

    @property
    def protocol(self) -> str:
        """The ``security_protocol``."""
        return self._settings.security_protocol

    @property
    def what(self) -> str:
        """What Kafka refuses when it refuses who we are, and the settings to correct."""
        match self._settings.sasl_mechanism:
            case "OAUTHBEARER":
                what = f"the token: correct {self._token.setting}"
            case mechanism if mechanism == MSK_IAM:
                what = "the token: correct kafka.aws_region or the credentials of AWS"
            case _:
                what = (
                    f"user or password of {self._settings.sasl_username!r}: correct "
                    f"kafka.sasl_username or {self._password.setting}"
                )
        return f"{what}; docs/secrets.md"

    async def token(self) -> str:
        """Return the token that ``options`` was asked for last."""
        return self._newest_token

    def extensions(self) -> dict[str, str]:
        """Return the extensions of OAUTHBEARER."""
        return self._settings.extensions

    def tls(self) -> ssl.SSLContext | None:
        """Return the context for connections, made again if one of its files has changed.

        Raises ``Transient`` that names the settings: a certificate and its key are replaced one
        after the other.
        """
        settings = self._settings
        if not settings.security_protocol.endswith("SSL"):
            return None
        files = [settings.ssl_ca_file, settings.ssl_certificate_file, settings.ssl_key_file]
        with _reading("kafka.ssl_ca_file, kafka.ssl_certificate_file or kafka.ssl_key_file"):
            made_of = tuple(_version(file) for file in files if file is not None)
        if self._context is None or made_of != self._made_of:
            self._context = self._new_context()
            self._made_of = made_of
        return self._context

    async def options(self) -> dict[str, Any]:
        """Return the driver's options for a connection now.

        Raises ``Transient`` that names what gives no secret.
        """
        if self._tokens is not None:
            self._newest_token = await self._tokens()
        return self.at_start() | {
            "ssl_context": self.tls(),
            "sasl_plain_password": await self._password.read(),
        }

    def at_start(self) -> dict[str, Any]:
        """Return the driver's options as its objects want them: with what was known last."""
        settings = self._settings
        password = settings.sasl_password
        mechanism = "OAUTHBEARER" if self._tokens else settings.sasl_mechanism
        return {
            "security_protocol": settings.security_protocol,
            "ssl_context": self._context,
            "sasl_mechanism": mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": password.get_secret_value() if password else "",
            "sasl_oauth_token_provider": self,
        }

    def refused(self) -> None:
        """Note that Kafka has refused them: the token is asked for anew."""
        self._token.refused()
        self._password.refused()

    def _new_context(self) -> ssl.SSLContext:
        settings = self._settings
        with _reading("kafka.ssl_ca_file"):
            context = ssl.create_default_context(cafile=settings.ssl_ca_file)
        if settings.ssl_certificate_file is not None:
            password = self._key_password.at_once() or ""  # without one OpenSSL asks a terminal
            key = f"kafka.ssl_key_file or {self._key_password.setting}"
            with _reading(f"kafka.ssl_certificate_file, {key}"):
                context.load_cert_chain(
                    settings.ssl_certificate_file, settings.ssl_key_file, password=lambda: password
                )
        return context

    def _token_source(self) -> Source | None:
        settings = self._settings
        if not settings.security_protocol.startswith("SASL"):
            return None
        if settings.sasl_mechanism == MSK_IAM:
            return _MskTokens(settings.aws_region or "").read
        return self._given_token if settings.sasl_mechanism == "OAUTHBEARER" else None

    async def _given_token(self) -> str:
        return (await self._token.read() or "").strip()


class _MskTokens:
    """Tokens for MSK, signed with the credentials of AWS that its own provider finds."""

    def __init__(self, region: str) -> None:
        try:
            from aws_msk_iam_sasl_signer import MSKAuthTokenProvider  # noqa: PLC0415 - an extra
        except ImportError:
            raise Fatal(
                f"kafka.sasl_mechanism {MSK_IAM} needs the package aws-msk-iam-sasl-signer-python: "
                "install chive-firehose[msk]"
            ) from None
        self._generate = MSKAuthTokenProvider.generate_auth_token
        self._region = region
        self._kept: tuple[str, float] | None = None

    async def read(self) -> str:
        """Return a token.  Raises ``Transient`` if AWS gives no credentials to sign one with."""
        if self._kept is None or time.monotonic() - self._kept[1] >= _MSK_KEPT_SECONDS:
            try:
                async with asyncio.timeout(_MSK_SECONDS):  # it may ask the network
                    token, _ = await asyncio.to_thread(self._generate, self._region)
            except Exception as error:
                said = str(error) or type(error).__name__
                raise Transient(
                    f"no token for {MSK_IAM} in {self._region}, does AWS know us? ({said})",
                    Service.KAFKA,
                ) from error
            self._kept = (str(token), time.monotonic())
        return self._kept[0]


@contextmanager
def _reading(settings: str) -> Iterator[None]:
    """Raise ``Transient`` that names ``settings`` for what files and OpenSSL have against them."""
    try:
        yield
    except (OSError, ValueError) as error:  # a ValueError: the password is too long for OpenSSL
        raise Transient(f"{settings}: {error}", Service.KAFKA) from None


def _version(file: Path) -> int:
    return file.stat().st_mtime_ns
