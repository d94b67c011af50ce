"""The catalogue: closed labels exist from the start, ages grow by themselves."""

from __future__ import annotations

import time
from typing import Any

import pytest
from prometheus_client import Counter, Gauge, Histogram, generate_latest

import consumer.worker.report  # noqa: F401  # closes a label
from consumer import metrics
from consumer.backfill import Cause, LookupKind
from consumer.errors import Reason
from consumer.fetch.refusals import Meaning
from consumer.gateway import role
from consumer.kafka.topics import Topic
from consumer.metrics.labels import (
    BatchStep,
    Claim,
    EpochCause,
    FrameKind,
    FrameOutcome,
    LookupOutcome,
    ReconnectCause,
    Service,
    Stage,
    Sweep,
    TransactionOutcome,
)
from consumer.state.accounts import Verdict
from consumer.state.discovery import AnswerKind, SearchState
from consumer.state.effects import SyncReason
from consumer.state.sweep import Finding
from procedures.contract import METHODS
from procedures.failures import Failure
from procedures.messages import RefusalReason
from procedures.operations import Phase, Type


def test_closed_series_exist_before_anything_happened() -> None:
    text = generate_latest(metrics.REGISTRY).decode()
    for reason in Reason:
        for stage in Stage:
            assert f'chive_refused_total{{reason="{reason}",stage="{stage}"}}' in text


# Every label and its closed set.  A label that is not here needs a set, or has no place.
CLOSED: dict[str, set[str]] = {
    "reason": {*Reason, *RefusalReason, *SyncReason},
    "stage": {*Stage},
    "kind": {*FrameKind, *LookupKind, *Sweep},
    "answer": set(AnswerKind),
    "state": set(SearchState),
    "outcome": {
        *FrameOutcome,
        *TransactionOutcome,
        *LookupOutcome,
        *Claim,
        *Failure,
        metrics.INJECTED,
        metrics.IN_STEP,
    },
    "finding": {*Finding},
    "cause": {*ReconnectCause, *EpochCause, *Cause},
    "verdict": {*Verdict},
    "meaning": {*Meaning},
    "service": {*Service},
    "step": {*BatchStep},
    "method": {*METHODS, metrics.OTHER_METHOD},
    "status": {"2xx", "3xx", "4xx", "5xx"},
    "type": {*metrics.EVENT_TYPES, *Type},
    "source": {*metrics.EVENT_SOURCES},
    "phase": {*Phase},
    "topic": {*Topic},
    "group": {"worker", "tailer", "controller"},
    "role": {"tailer", "publisher"},
}
# Numbers of lanes, names of roots (tests have roots with other names), version, commit and shard:
# the code's own or a setting, there while they run.
OURS = {"lane", "root", "version", "commit", "core", "shard"}
CATALOGUE = {
    name: metric
    for name, metric in vars(metrics).items()
    if isinstance(metric, Counter | Gauge | Histogram | metrics.Ages)
}


def labels_of(metric: Any) -> set[str]:
    return set(metric._family[3] if isinstance(metric, metrics.Ages) else metric._labelnames)


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_label_is_closed_or_a_lane_or_a_root(name: str) -> None:
    metric = CATALOGUE[name]
    labels = labels_of(metric)
    assert labels <= CLOSED.keys() | OURS
    samples = [sample for family in metric.collect() for sample in family.samples]
    for sample in samples:
        for label, value in sample.labels.items():
            assert label in {"le", *OURS} or value in CLOSED[label]
    assert samples or labels <= OURS, "its series exist from the start"


def test_nothing_is_registered_outside_of_the_catalogue() -> None:
    ours = {f.name for f in metrics.REGISTRY.collect() if f.name.startswith("chive_")}
    assert ours == {f.name for metric in CATALOGUE.values() for f in metric.collect()}


def test_a_method_that_a_stranger_made_up_is_no_label() -> None:
    before = generate_latest(metrics.REGISTRY).count(b"chive_gateway")
    for method in ("com.example.made.up", "\x1b", "", '"} 1\nchive_gateway_calls_total{method="x'):
        role._observe(method, 501, 0.1)
    assert generate_latest(metrics.REGISTRY).count(b"chive_gateway") == before


def test_every_name_is_ours_or_the_runtimes() -> None:
    names = {family.name for family in metrics.REGISTRY.collect()}
    assert all(name.startswith(("chive_", "python_", "process_")) for name in names)


def test_every_metric_is_documented() -> None:
    assert all(f.documentation for f in metrics.REGISTRY.collect() if f.name.startswith("chive_"))


def test_an_age_grows_until_it_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    age = metrics.Ages("chive_test_age_seconds", "for this test", "lane")
    try:
        age.since(100.0, 1)
        age.since(200.0, 2)
        age.settled(2)
        assert age.read(150.0) == {"1": 50.0, "2": 0.0}
        assert age.read(90.0) == {"1": 0.0, "2": 0.0}
        monkeypatch.setattr(time, "time", lambda: 160.0)
        assert b'chive_test_age_seconds{lane="1"} 60.0' in generate_latest(metrics.REGISTRY)
        age.drop(1)
        assert age.read(150.0) == {"2": 0.0}
    finally:
        metrics.REGISTRY.unregister(age)


def test_help_texts_name_their_unit() -> None:
    for family in metrics.REGISTRY.collect():
        for unit in ("seconds", "bytes"):
            if family.name.startswith("chive_") and unit in family.name.split("_"):
                assert unit in family.documentation.lower(), family.name
