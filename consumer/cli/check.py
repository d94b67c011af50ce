"""``consumer check``: the effective settings, and whether what will be needed later is there.

The questions are those of ``questions.py``; all are asked at once.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import click
import tomli_w
import uvloop

from consumer.cli import questions
from consumer.cli.options import briefly, with_settings
from consumer.cli.output import FAILED, print_json
from consumer.cli.questions import CheckResult, Clocks, ask
from consumer.config.settings import Settings
from consumer.config.sources import dump
from consumer.embedded import running
from consumer.network.proxy import Proxy
from consumer.scope import History, Repos
from consumer.services import at, is_embedded


@click.command("check")
@with_settings
@click.option("--json", "as_json", is_flag=True, help="JSON instead of TOML.")
def check_command(settings: Settings, *, as_json: bool) -> None:
    """Show the effective settings; ask whether all is there that will be needed.

    Secrets are masked.
    """
    answers = uvloop.run(check(briefly(settings)))
    if as_json:
        print_json(to_json(settings, answers))
    else:
        click.echo(to_toml(settings, answers))
    if any(answer.ok is False for answer in answers.values()):
        sys.exit(FAILED)


async def check(settings: Settings) -> dict[str, CheckResult]:
    """Ask all at once."""
    clocks = Clocks()
    asked = {
        f"relay {url}" if number else "relay": ask(partial(questions.relay, settings, clocks, url))
        for number, url in enumerate(settings.relay.relays)
    }
    asked["directory"] = ask(partial(questions.directory, settings))
    asked["spool"] = ask(partial(questions.spool, settings))
    if (proxy := Proxy.of(settings.network)) is not None:
        asked["proxy"] = ask(partial(questions.proxy, proxy))
    if settings.schema_registry.url is not None:
        asked["registry"] = ask(partial(questions.schema_registry, settings))
    if settings.scope.history is History.FULL and settings.scope.repos is not Repos.LISTED:
        asked["discovery"] = ask(partial(questions.sources, settings))
    known: dict[str, CheckResult] = {}
    if is_embedded(settings) and (found := running(settings.data_dir)) is None:
        idle = CheckResult(None, f"embedded, not running; 'run' starts it in {settings.data_dir}")
        known = {"kafka": idle, "postgres": idle}
    else:
        if is_embedded(settings) and found is not None:
            settings = at(settings, found.bootstrap_servers, found.dsn)
        asked |= {
            "kafka": ask(partial(questions.kafka, settings)),
            "topics": ask(partial(questions.topics, settings)),
            "rights": ask(partial(questions.kafka_rights, settings)),
            "postgres": ask(partial(questions.postgres, settings, clocks)),
            "routes": ask(partial(questions.routes, settings)),
            "shard": ask(partial(questions.shard, settings)),
            "tables": ask(partial(questions.postgres_rights, settings)),
        }
    answers = await asyncio.gather(*asked.values())
    for name, result in {
        "scope": questions.wildcards(settings),
        "clock": clocks.result(settings.limits.rev_ahead),
    }.items():
        if result is not None:
            known[name] = result
    return known | dict(zip(asked, answers, strict=True))


def to_toml(settings: Settings, answers: Mapping[str, CheckResult]) -> str:
    """Return the effective settings as TOML, and the answers as comments in front."""
    words = {True: "ok", False: "FAILED", None: "-"}
    lines = [f"# {name:<10}{words[a.ok]:<7}{a.detail}" for name, a in sorted(answers.items())]
    return "\n".join([*lines, "", tomli_w.dumps(_without_none(dump(settings)))])


def to_json(settings: Settings, answers: Mapping[str, CheckResult]) -> dict[str, Any]:
    """Return the same as plain values."""
    return {
        "ok": all(answer.ok is not False for answer in answers.values()),
        "checks": {name: asdict(answer) for name, answer in answers.items()},
        "settings": dump(settings),
    }


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if value is not None
    }
