"""What the demo shows: a live table where people watch, a line now and then elsewhere."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from demo.compare import Comparison
from demo.feed import Feed, Json, kind_of
from demo.traffic import Traffic

_REFRESH = 0.25  # seconds
_LINE_EVERY = 5.0
_COLOURS = {"create": "green", "update": "yellow", "delete": "red"}
_SHOWN_DIFFERENCES = 30


class View:
    """Shows the traffic and what comes out of it until told to stop."""

    def __init__(self, console: Console, traffic: Traffic, feed: Feed) -> None:
        self._console = console
        self._traffic = traffic
        self._feed = feed
        self._began = time.monotonic()

    async def run(self, stop: asyncio.Event) -> None:
        """Show until ``stop``."""
        if not self._console.is_terminal:
            while not await _stopped(stop, _LINE_EVERY):
                self._console.print(self._line(), highlight=False, soft_wrap=True)
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while not await _stopped(stop, _REFRESH):
                live.update(self._screen(), refresh=True)

    def _line(self) -> str:
        kinds = "  ".join(f"{kind} {count}" for kind, count in sorted(self._feed.counts.items()))
        return f"{self._elapsed:4.0f} s  {self._speed}  {kinds}"

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    @property
    def _speed(self) -> str:
        lag = "-" if self._feed.lag is None else f"{self._feed.lag:.2f} s"
        return f"{self._feed.rate:5.1f} events/s  lag {lag}"

    def _screen(self) -> Group:
        done = self._traffic.done
        written = f"{done['commits']} commits, {done['ops']} records by {done['accounts']} accounts"
        head = Text(f"{self._elapsed:.0f} s   {self._speed}   written: {written}")
        return Group(Panel(head, title="chive.events"), self._counts(), self._newest())

    def _counts(self) -> Table:
        table = Table(expand=True, show_edge=False)
        for kind in sorted(self._feed.counts):
            table.add_column(kind, justify="right")
        table.add_row(*(str(self._feed.counts[kind]) for kind in sorted(self._feed.counts)))
        if self._traffic.news:
            table.caption = Text("also: " + ", ".join(self._traffic.news))
        return table

    def _newest(self) -> Table:
        table = Table(expand=True, show_edge=False, show_header=False)
        for event in reversed(self._feed.newest):
            table.add_row(*_described(event))
        return table


def _described(event: Json) -> tuple[Text, Text, Text]:
    kind = kind_of(event)
    if event["type"] == "record":
        what = f"{event['collection']}/{event['rkey']}"
    else:
        what = str(event.get("status") or event.get("handle") or event.get("state") or "")
    return Text(kind, style=_COLOURS.get(kind, "cyan")), Text(event["did"]), Text(what)


async def _stopped(stop: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
    return stop.is_set()


def show_verdict(console: Console, comparison: Comparison) -> None:
    """Print the comparison: one row per collection, then what differs."""
    table = Table(title="records, three ways")
    table.add_column("collection", no_wrap=True)
    for side in ("PDS", "PostgreSQL", "chive.events"):
        table.add_column(side, justify="right")
    for name, counts in comparison.collections.items():
        table.add_row(Text(name), *map(str, counts))
    totals = [sum(side) for side in zip(*comparison.collections.values(), strict=True)]
    table.add_section()
    table.add_row("all", *map(str, totals or [0, 0, 0]))
    console.print(table)
    console.print("events:  ", _listed(comparison.events), highlight=False)
    console.print("values:  ", _listed(comparison.values), highlight=False)
    console.print("accounts:", _listed(comparison.accounts), highlight=False)
    for difference in comparison.differences[:_SHOWN_DIFFERENCES]:
        console.print(Text(f"  different: {difference}", style="red"), soft_wrap=True)
    if (more := len(comparison.differences) - _SHOWN_DIFFERENCES) > 0:
        console.print(f"  … and {more} more", highlight=False)


def _listed(counts: dict[str, int]) -> Text:
    return Text(", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none")
