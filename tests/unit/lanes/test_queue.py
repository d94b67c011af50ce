from __future__ import annotations

import asyncio

from consumer.lanes.queue import OutboxQueue, size_of
from consumer.store.rows import OutRow


def row(out_seq: int, size: int = 0) -> OutRow:
    return OutRow(out_seq, "events", 0, None, (), bytes(size))


def rows(first: int, last: int) -> list[OutRow]:
    return [row(out_seq) for out_seq in range(first, last + 1)]


def queue_of(max_bytes: int) -> OutboxQueue:
    return OutboxQueue(max_bytes, asyncio.Event())


def taken(
    queue: OutboxQueue, after: int, *, max_rows: int = 100, max_bytes: int = 10**9
) -> list[int]:
    return [r.out_seq for r in queue.take(after, max_rows=max_rows, max_bytes=max_bytes)]


async def test_rows_come_out_in_order_and_once() -> None:
    queue = queue_of(10**9)
    await queue.put(rows(1, 3))
    await queue.put(rows(4, 5))
    assert queue.newest == 5
    assert taken(queue, 0, max_rows=2) == [1, 2]
    assert taken(queue, 2) == [3, 4, 5]
    assert taken(queue, 5) == []
    assert (len(queue), queue.newest) == (0, 0)


async def test_rows_that_are_published_already_are_dropped() -> None:
    queue = queue_of(10**9)
    await queue.put(rows(1, 5))
    assert taken(queue, 3) == [4, 5]
    await queue.put(rows(6, 7))
    assert taken(queue, 9) == []
    assert len(queue) == 0


async def test_a_gap_gives_nothing_and_keeps_the_rows() -> None:
    queue = queue_of(10**9)
    await queue.put(rows(5, 6))
    assert taken(queue, 3) == []
    assert taken(queue, 4) == [5, 6]


async def test_a_batch_is_bounded_by_bytes_but_never_empty() -> None:
    queue = queue_of(10**9)
    await queue.put([row(1, 1000), row(2, 1000), row(3, 1000)])
    assert taken(queue, 0, max_bytes=10) == [1]
    assert taken(queue, 1, max_bytes=2 * size_of(row(0, 1000))) == [2, 3]


async def test_a_put_beyond_the_bound_waits_for_room() -> None:
    queue = queue_of(2 * size_of(row(0)))
    await queue.put(rows(1, 2))
    third = asyncio.create_task(queue.put(rows(3, 3)))
    await asyncio.sleep(0)
    assert not third.done()
    assert taken(queue, 0, max_rows=1) == [1]
    await asyncio.wait_for(third, 5)


async def test_release_ends_the_wait_of_a_put() -> None:
    queue = queue_of(1)
    waiting = asyncio.create_task(queue.put(rows(1, 1)))
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.release()
    await asyncio.wait_for(waiting, 5)
    assert len(queue) == 0


async def test_rows_say_that_they_have_arrived() -> None:
    arrived = asyncio.Event()
    queue = OutboxQueue(10**9, arrived)
    await queue.put(rows(1, 1))
    assert arrived.is_set()


async def test_a_gap_is_a_missing_row_below_those_in_memory() -> None:
    queue = queue_of(10**9)
    assert not queue.has_gap(0)
    await queue.put(rows(3, 5))
    assert queue.has_gap(1)
    assert not queue.has_gap(2)
    assert not queue.has_gap(4)
    assert not queue.has_gap(7)
    assert len(queue) == 0
