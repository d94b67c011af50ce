"""``consumer run`` with no servers given: the embedded ones, and what a restart keeps."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from consumer.tail.cursor import KEPT
from tests.support.accounts import Accounts
from tests.support.consumer import Consumer, Start
from tests.support.eventually import eventually

pytestmark = pytest.mark.services


def settings(accounts: Accounts, data_dir: Path) -> dict[str, str]:
    return {
        "CHIVE_DATA_DIR": str(data_dir),
        "CHIVE_GATEWAY__BIND": "127.0.0.1:0",
        "CHIVE_KAFKA__PARTITIONS": "2",
        "CHIVE_RELAY__URL": accounts.relay.url,
        "CHIVE_RELAY__START": "oldest",
        "CHIVE_IDENTITY__PLC_URL": accounts.directory.origin,
        "CHIVE_NETWORK__ALLOW_LOOPBACK": "true",
    }


async def records(consumer: Start, environment: dict[str, str]) -> int:
    """Return how many records ``consumer status`` counts."""
    process: Consumer = await consumer("status", "--json", env=environment)
    assert await process.ended() == 0, process
    return int(json.loads(process.out)["records"])


async def test_the_embedded_servers_keep_their_state_and_leave_nothing_running(
    consumer: Start, accounts: Accounts, server_directory: Path
) -> None:
    environment = settings(accounts, server_directory / "bare")
    first = await consumer("run", env=environment)
    await first.saying("process_running", deadline=120)
    await accounts.write(2)

    async def all_there() -> bool:
        return await records(consumer, environment) == len(accounts.paths)

    await eventually(all_there, deadline=60)
    family = first.children()
    assert len(family) >= 2
    newest = accounts.seq
    assert await first.stopped() == 0
    assert not any(psutil.pid_exists(each.pid) for each in family)

    status = await consumer("status", env=environment)
    assert await status.ended() == 1
    assert status.lines[0].startswith("error: nothing runs in")

    await accounts.write()
    second = await consumer("run", env=environment)
    await second.saying("relay_connected", deadline=120)
    assert (accounts.relay.cursors[-1] or 0) in range(newest - KEPT, newest + 1)
    await eventually(all_there, deadline=60)
    events = await consumer("events", "--type", "record", env=environment)
    assert await events.ended() == 0
    assert len(events.out.splitlines()) == len(accounts.paths)
    assert await second.stopped() == 0


async def test_a_server_that_ends_takes_the_process_down_with_its_reason(
    consumer: Start, accounts: Accounts, server_directory: Path
) -> None:
    process = await consumer("run", env=settings(accounts, server_directory / "doomed"))
    await process.saying("process_running", deadline=120)
    (postgres,) = [each for each in process.children() if "postgres" in each.exe()][:1]
    postgres.kill()
    assert await process.ended() == 1
    assert process.said("embedded_stack_ended")
    assert any(line.startswith("error: the embedded postgres ended") for line in process.lines)
