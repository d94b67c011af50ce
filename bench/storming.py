"""``python -m bench.storming``: a host says that it has none of its accounts, and others write on.

Every account of the host is tracked, and a sign against each comes again and again, as refused
syncs and listings bring them.  What counts: how often the host is asked about one account, and
how late the events of other accounts are meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import sys
import tempfile
import time
from base64 import b32encode
from collections import Counter
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path

import click
import httpx

from bench.deployment import Deployment, deployed, last_seqs, until
from bench.processes import RelayProcess, answering, consumer, free_port, relaying, running
from bench.traffic import Spec, Traffic, traffic
from consumer.backfill import Cause
from consumer.config.settings import LogSettings, Settings
from consumer.embedded import EmbeddedStack
from consumer.embedded.ports import LOOPBACK
from consumer.runtime import logs
from consumer.store import lookups
from consumer.store.arrays import Bigints, Texts

_ASKED = re.compile(rb"^GET /xrpc/com\.atproto\.sync\.getRepoStatus\?did=(\S+)")
_DOCUMENT = re.compile(rb"^GET /(did:plc:[a-z2-7]{24}|did%3Aplc%3A[a-z2-7]{24}) ")
_GONE = b'{"error":"RepoNotFound","message":"Repo not found"}'
_SIGNS_EVERY = 5.0  # seconds between two signs against each account
_COMMITS, _EVERY = 20, 0.1  # of the others: commits, and seconds between them
_DEADLINE = 120.0
_REV = "3lf2bqwz7cd2a"
_TRACK = """
INSERT INTO repos (did, lane, sync_state, rev, pds)
SELECT did, lane, 'active', %s, %s FROM unnest(%s, %s) AS new (did, lane)
"""


def did_of(number: int) -> str:
    """Return the DID of an account of the host."""
    digest = sha256(b"storm %d" % number).digest()[:15]
    return f"did:plc:{b32encode(digest).decode().lower()}"


async def _serve(port: int) -> None:
    """Be directory and host: name this host in every document, and have no repository."""
    asked: Counter[bytes] = Counter()
    origin = f"http://{LOOPBACK}:{port}"

    def answer(head: bytes) -> tuple[int, bytes]:
        if found := _ASKED.match(head):
            asked[found[1]] += 1
            return 400, _GONE
        if found := _DOCUMENT.match(head):
            return 200, _document(found[1].decode().replace("%3A", ":"), origin)
        if head.startswith(b"GET /asked"):
            counts = {"accounts": len(asked), "most": max(asked.values(), default=0)}
            return 200, json.dumps(counts | {"questions": asked.total()}).encode()
        return 400, _GONE

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                status, body = answer(head)
                kind = b"content-type: application/json\r\ncontent-length: %d" % len(body)
                writer.write(b"HTTP/1.1 %d -\r\n%b\r\n\r\n%b" % (status, kind, body))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, LOOPBACK, port)
    await server.serve_forever()


def _document(did: str, origin: str) -> bytes:
    method = {
        "id": f"{did}#atproto",
        "type": "Multikey",
        "controller": did,
        "publicKeyMultibase": "zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme",
    }
    pds = {
        "id": "#atproto_pds",
        "type": "AtprotoPersonalDataServer",
        "serviceEndpoint": origin,
    }
    return json.dumps({"id": did, "verificationMethod": [method], "service": [pds]}).encode()


async def _track(place: Deployment, dids: list[str], origin: str) -> None:
    lanes = [place.services.topics.partition_of(did) for did in dids]
    async with place.services.database.transaction() as connection:
        await connection.execute(_TRACK, [_REV, origin, Texts(dids), Bigints(lanes)])
        await connection.execute("ANALYZE repos")


async def _signs(place: Deployment, dids: list[str]) -> None:
    """Raise a question about each account, again and again."""
    rules = Settings().accounts.rules()
    while True:
        async with place.services.database.transaction() as connection:
            await lookups.ask(connection, dids, Cause.REFUSAL, rules)
        await asyncio.sleep(_SIGNS_EVERY)


async def _write(place: Deployment, relay: RelayProcess, made: Traffic, lags: list[float]) -> None:
    """Let the others write, and note how late their events are."""
    at = made.opening
    while at + _COMMITS <= len(made.frames):
        passed, began = made.frames[at : at + _COMMITS], time.monotonic()
        at += _COMMITS
        last = last_seqs(place.services.topics, passed)
        await relay.allow(at)
        await until("events", partial(place.has_published, last), (), _DEADLINE)
        lags.append(time.monotonic() - began)
        await asyncio.sleep(max(0.0, _EVERY - lags[-1]))


async def _run(accounts: int, seconds: float) -> None:
    commits = int(_COMMITS * (seconds + 60) / _EVERY)
    made = await asyncio.to_thread(traffic, Spec(200, 20, min(commits, 20_000)))
    port, dids = free_port(), [did_of(number) for number in range(accounts)]
    origin = f"http://{LOOPBACK}:{port}"
    with tempfile.TemporaryDirectory(prefix="chive-bench-") as name:
        folder = Path(name)
        async with (
            EmbeddedStack(folder) as stack,
            deployed(stack, folder, "storm") as place,
            relaying(made, place.directory) as relay,
            running("host", folder, "-m", "bench.storming", "--serve", str(port)) as host,
        ):
            await host.wait_ready(lambda: answering(origin), 30.0)
            await place.know(made.keys)
            await _track(place, dids, origin)
            environment = place.environment(
                relay.url, CHIVE_IDENTITY__PLC_URL=origin, CHIVE_NETWORK__ALLOW_LOOPBACK="true"
            )
            async with (
                consumer("tailer", place.directory, environment),
                consumer("worker", place.directory, environment),
                consumer("fetcher", place.directory, environment),
            ):
                await relay.allow(made.opening)
                last = last_seqs(place.services.topics, made.frames[: made.opening])
                await until("the opening", partial(place.has_published, last), (), _DEADLINE)
                lags: list[float] = []
                writing = asyncio.create_task(_write(place, relay, made, lags))
                storm = asyncio.create_task(_signs(place, dids))
                await asyncio.wait([storm, writing], timeout=seconds)
                for task in (storm, writing):
                    task.cancel()
                await asyncio.gather(storm, writing, return_exceptions=True)
                await _report(place, origin, lags, seconds)


async def _report(place: Deployment, origin: str, lags: list[float], seconds: float) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        asked = (await client.get(f"{origin}/asked")).json()
    statuses = await place.rows("SELECT status, count(*) FROM repos GROUP BY 1 ORDER BY 1")
    held = await place.rows("SELECT gone, tracked FROM held_hosts")
    percentiles = statistics.quantiles(lags, n=100)
    click.echo(
        f"{seconds:.0f} s: {asked['questions']:,} questions about {asked['accounts']:,} accounts, "
        f"at most {asked['most']} about one; accounts: "
        + ", ".join(f"{count:,} {status}" for status, count in statuses)
        + (f"; deletions held: {held[0][0]} of {held[0][1]}" if held else "")
    )
    click.echo(
        f"events of the others, {len(lags)} times {_COMMITS} commits: "
        f"p50 {percentiles[49]:.3f}, p99 {percentiles[98]:.3f}, at most {max(lags):.3f} s late"
    )


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--accounts", default=5_000, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=90.0, show_default=True)
@click.option("--serve", type=int, hidden=True, help="Be the host, at this port.")
def main(accounts: int, seconds: float, serve: int | None) -> None:
    """Measure a storm of accounts whose host has none of them."""
    if serve is not None:
        asyncio.run(_serve(serve))
    logs.configure(LogSettings(level="error"))
    asyncio.run(_run(accounts, seconds))


if __name__ == "__main__":
    sys.exit(main())
