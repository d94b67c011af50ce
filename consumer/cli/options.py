"""Options that several commands share, and how their values are checked."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from consumer.config import types
from consumer.config.settings import LogSettings, Settings
from consumer.config.sources import load
from consumer.runtime import logs

ANSWER_SECONDS = 10.0  # how long a short command waits for an answer


def validated(check: Callable[[str], str]) -> Callable[[Any, Any, Any], Any]:
    """Return a click callback that passes a value, or each of several, through ``check``.

    A ``ValueError`` of ``check`` becomes a usage error with its text.
    """

    def callback(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
        try:
            if isinstance(value, tuple):
                return tuple(map(check, value))
            return value if value is None else check(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return callback


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command`` the effective settings first, and the options that name their sources."""

    @click.option("--config", type=click.Path(path_type=Path), help="Settings file (TOML).")
    @click.option(
        "--relay",
        metavar="URL",
        callback=validated(types.relay_url),
        help="The relay or PDS whose firehose is read.",
    )
    @click.option("--data-dir", type=click.Path(path_type=Path), help="Embedded servers' data.")
    @functools.wraps(command)
    def with_settings(
        *, config: Path | None, relay: str | None, data_dir: Path | None, **options: Any
    ) -> None:
        overrides: dict[str, Any] = {"relay": {"url": relay}} if relay else {}
        overrides |= {"data_dir": data_dir} if data_dir else {}
        command(load(config, overrides), **options)

    return with_settings


def briefly(settings: Settings) -> Settings:
    """Return settings for a short command: it logs errors only, and waits for Kafka briefly."""
    logs.configure(LogSettings(level="error"))
    logging.disable()
    kafka = settings.kafka
    seconds = min(kafka.request_timeout, ANSWER_SECONDS)
    kafka = kafka.model_copy(update={"request_timeout": seconds})
    return settings.model_copy(update={"kafka": kafka})
