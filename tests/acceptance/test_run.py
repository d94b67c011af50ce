"""``consumer run`` as a process on real services: its life, its end, and what it says."""

from __future__ import annotations

import signal
import socket
import time

import httpx
import orjson
import psycopg
import pytest

from tests.support.consumer import Consumer, Start
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.firehose import numbered
from tests.support.proxy import TcpProxy
from tests.support.relay import ScriptedRelay
from tests.support.web import web

NOWHERE = "ws://127.0.0.1:1"


async def asked(process: Consumer, path: str) -> tuple[int, dict[str, object]]:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{await process.url()}{path}")
    return answer.status_code, answer.json()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_stops_with_exit_0(
    consumer: Start, deployment: Deployment, number: signal.Signals
) -> None:
    async with ScriptedRelay() as relay:
        process = await consumer("run", "--relay", relay.url, env=deployment.environment())
        await process.saying("relay_connected")
        began = time.monotonic()
        process.signal(number)
        assert await process.ended() == 0
    assert time.monotonic() - began < 30
    assert process.said("process_stopping", signal=number.name)
    assert process.said("process_stopped")
    assert process.lines == []


async def test_without_a_network_it_says_so_once_and_keeps_trying(
    consumer: Start, deployment: Deployment
) -> None:
    process = await consumer("run", "--relay", NOWHERE, env=deployment.environment())
    await process.saying("relay_unreachable")

    async def tried_again() -> bool:
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"{await process.url()}/metrics")).text
        count = text.split('chive_tail_reconnects_total{cause="unreachable"} ')[1].split()[0]
        return float(count) >= 4

    await eventually(tried_again)
    assert len(process.said("relay_unreachable")) == 1
    status, alive = await asked(process, "/livez")
    assert (status, alive["alive"]) == (200, True)
    status, ready = await asked(process, "/readyz")
    assert status == 503
    assert "relay" in orjson.dumps(ready).decode()
    assert await process.stopped() == 0
    assert not any(log["level"] == "error" for log in process.logs)


async def test_it_becomes_ready(consumer: Start, deployment: Deployment) -> None:
    async with ScriptedRelay() as relay:
        process = await consumer("run", "--relay", relay.url, env=deployment.environment())

        async def ready() -> bool:
            return (await asked(process, "/readyz"))[0] == 200

        await eventually(ready)
        assert await process.stopped() == 0


async def test_services_that_are_not_up_yet_are_waited_for(
    consumer: Start, deployment: Deployment, kafka_proxy: TcpProxy, postgres_proxy: TcpProxy
) -> None:
    await kafka_proxy.stop()
    await postgres_proxy.stop()
    environment = {
        **deployment.environment(),
        "CHIVE_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{kafka_proxy.port}",
        "CHIVE_POSTGRES__DSN": deployment.dsn_through(postgres_proxy),
    }
    process = await consumer("run", "--relay", NOWHERE, env=environment)
    await process.saying("postgres_unreachable")
    assert (await asked(process, "/livez"))[0] == 200
    await postgres_proxy.start()
    await process.saying("postgres_back")
    await process.saying("kafka_unreachable")
    await kafka_proxy.start()
    await process.saying("kafka_back")
    await process.saying("process_running")
    assert await process.stopped() == 0


async def test_it_stops_while_it_waits_for_services(
    consumer: Start, deployment: Deployment, postgres_proxy: TcpProxy
) -> None:
    await postgres_proxy.stop()
    environment = {
        **deployment.environment(),
        "CHIVE_POSTGRES__DSN": deployment.dsn_through(postgres_proxy),
    }
    process = await consumer("run", "--relay", NOWHERE, env=environment)
    await process.saying("postgres_unreachable")
    assert await process.stopped() == 0
    assert process.said("process_stopped")


async def test_a_port_that_is_taken_is_one_line_and_exit_1(
    consumer: Start, deployment: Deployment
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environment = {**deployment.environment(), "CHIVE_HTTP__PORT": str(port)}
        process = await consumer("run", env=environment)
        assert await process.ended() == 1
    assert process.lines == [
        f"error: http: cannot listen on 127.0.0.1:{port}: Address already in use"
    ]


async def test_another_deployment_in_the_tables_is_refused(
    consumer: Start, deployment: Deployment
) -> None:
    first = await consumer("run", "--relay", NOWHERE, env=deployment.environment())
    await first.saying("process_running")
    assert await first.stopped() == 0
    environment = {**deployment.environment(), "CHIVE_KAFKA__PARTITIONS": "5"}
    second = await consumer("run", "--relay", NOWHERE, env=environment)
    assert await second.ended() == 1
    (line,) = second.lines
    assert line.startswith("error: the tables belong to another deployment")


async def test_a_role_that_dies_takes_the_process_down_with_its_reason(
    consumer: Start, deployment: Deployment
) -> None:
    process = await consumer("run", "--relay", NOWHERE, env=deployment.environment())
    await process.saying("partitions_assigned")
    async with await psycopg.AsyncConnection.connect(deployment.dsn, autocommit=True) as tables:
        schema = deployment.prefix.removesuffix(".")
        await tables.execute(f'DROP SCHEMA "{schema}" CASCADE'.encode())
    assert await process.ended() == 1
    (died,) = process.said("root_died")
    assert "does not exist" in died["reason"]
    assert process.lines[-1].startswith(f"error: {died['root']} died: ")


async def test_status_and_check_of_a_running_deployment(
    consumer: Start, deployment: Deployment
) -> None:
    async with ScriptedRelay() as relay, web() as directory:
        environment = {
            **deployment.environment(),
            "CHIVE_RELAY__URL": relay.url,
            "CHIVE_IDENTITY__PLC_URL": directory.origin,
            "CHIVE_NETWORK__ALLOW_LOOPBACK": "true",
        }
        process = await consumer("run", env=environment)
        await process.saying("relay_connected")
        check = await consumer("check", env=environment)
        status = await consumer("status", "--json", env=environment)
        events = await consumer("events", env=environment)
        assert [await each.ended(90) for each in (check, status, events)] == [0, 0, 0]
    for name in ("clock", "directory", "kafka", "postgres", "relay", "rights", "tables", "topics"):
        assert f"# {name:<10}ok" in check.out
    assert 'forward = "relevant"' in check.out
    seen = orjson.loads(status.out)
    assert seen["repos"]["total"] == 0
    assert events.out == ""
    assert await process.stopped() == 0


async def test_status_shows_the_newest_cursor_after_postgres_was_away_and_no_frame_came(
    consumer: Start, deployment: Deployment
) -> None:
    port = int(deployment.dsn.rpartition(":")[2].partition("/")[0])
    async with ScriptedRelay() as relay, TcpProxy(port) as before:
        environment = {**deployment.environment(), "CHIVE_RELAY__URL": relay.url}
        behind = {**environment, "CHIVE_POSTGRES__DSN": deployment.dsn_through(before)}
        process = await consumer("run", "--role", "tailer", env=behind)
        await process.saying("relay_connected")
        await relay.publish(numbered(1, 5))

        async def shown(seq: int) -> bool:
            status = await consumer("status", "--json", env=environment)
            assert await status.ended(90) == 0
            return [each["seq"] for each in orjson.loads(status.out)["cursors"]] == [seq]

        await eventually(lambda: shown(5), what="the first cursor", deadline=90)
        before.stall()
        await relay.publish(numbered(6, 9))
        await eventually(lambda: before.held, what="something is asked of PostgreSQL", deadline=90)
        await before.stop()
        await before.start()
        await eventually(lambda: shown(9), what="the newest cursor", deadline=90)
        assert await process.stopped() == 0
