"""What lanes say of themselves, against the published schema."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from jsonschema import Draft202012Validator

from consumer.events.progress import Progress, SnapshotComplete, encode_progress, encode_snapshot

SCHEMA = json.loads((Path(__file__).parents[3] / "config/events.schema.json").read_text())
PROGRESS = Progress(
    lane=3,
    relay="wss://relay.test",
    epoch=2,
    seq=4711,
    time="2026-07-04T14:39:14.123Z",
    as_of=1_783_175_954.5,
    now=1_783_175_956.75,
    parked=1,
)


def test_progress_says_how_far_a_lane_is() -> None:
    encoded = encode_progress(PROGRESS)
    assert (encoded.key, encoded.headers) == (b"lane/3", (("type", b"progress"),))
    assert not encoded.tombstone
    value = json.loads(encoded.value)
    Draft202012Validator(SCHEMA).validate(value)
    assert value | {"id": ""} == {
        "v": 1,
        "type": "progress",
        "id": "",
        "seq": 4711,
        "time": "2026-07-04T14:39:14.123Z",
        "lane": 3,
        "relay": "wss://relay.test",
        "epoch": 2,
        "asOf": "2026-07-04T14:39:14.500Z",
        "lag": 2.25,
        "parked": 1,
    }


def test_a_snapshot_says_what_a_lane_has() -> None:
    whole = SnapshotComplete(
        lane=3,
        snapshot="3f2c6f0e-6f0e-4a57-9f5c-0c8f2f3f9a10",
        began_at=1_783_175_900.0,
        searched_at=1_783_175_910.25,
        now=1_783_175_956.75,
        repositories=40,
        desynchronized=1,
        failed=2,
        unread_hosts=5,
    )
    encoded = encode_snapshot(whole)
    assert (encoded.key, encoded.headers) == (
        b"lane/3/snapshot",
        (("type", b"snapshot_complete"),),
    )
    value = json.loads(encoded.value)
    Draft202012Validator(SCHEMA).validate(value)
    assert value | {"id": ""} == {
        "v": 1,
        "type": "snapshot_complete",
        "id": "",
        "snapshot": "3f2c6f0e-6f0e-4a57-9f5c-0c8f2f3f9a10",
        "time": "2026-07-04T14:39:16.750Z",
        "lane": 3,
        "beganAt": "2026-07-04T14:38:20.000Z",
        "searchedAt": "2026-07-04T14:38:30.250Z",
        "repositories": 40,
        "desynchronized": 1,
        "failed": 2,
        "unreadHosts": 5,
    }


def test_a_clock_that_is_behind_makes_no_lag() -> None:
    ahead = replace(PROGRESS, as_of=PROGRESS.now + 5.0)
    assert json.loads(encode_progress(ahead).value)["lag"] == 0.0


def test_what_is_said_later_has_another_id() -> None:
    said = {
        json.loads(encode_progress(one).value)["id"]
        for one in (PROGRESS, replace(PROGRESS, now=PROGRESS.now + 1), replace(PROGRESS, lane=2))
    }
    assert len(said) == 3
    assert encode_progress(PROGRESS) == encode_progress(PROGRESS)
