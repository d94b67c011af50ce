"""The splitter against websockets' own framing, and against streams that break the rules."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from consumer.errors import Reason
from consumer.tail.splitter import Message, Splitter, Unskippable, Unusable, Violation

LIMIT = 1_000


def framed(
    payload: bytes, opcode: int = Opcode.BINARY, *, fin: bool = True, masked: bool = False
) -> bytes:
    """Return a frame as websockets serializes it."""
    return Frame(Opcode(opcode), payload, fin).serialize(mask=masked)


def fed(chunks: Iterable[bytes], limit: int = LIMIT) -> Splitter:
    splitter = Splitter(limit)
    for chunk in chunks:
        splitter.feed(chunk)
    return splitter


def cut(stream: bytes, places: Iterable[int]) -> list[bytes]:
    bounds = [0, *sorted({min(place, len(stream)) for place in places}), len(stream)]
    return [stream[a:b] for a, b in pairwise(bounds)]


messages = st.lists(st.binary(max_size=2 * LIMIT // 3), min_size=1, max_size=4)
streams = st.lists(
    st.one_of(
        messages.map(lambda parts: ("message", parts)),
        messages.map(lambda parts: ("text", parts)),
        st.binary(max_size=125).map(lambda payload: ("ping", [payload])),
    ),
    max_size=12,
)
cuts = st.lists(st.integers(min_value=0, max_value=20_000), max_size=30)


@given(streams, cuts)
def test_any_stream_in_any_chunks(stream: list[tuple[str, list[bytes]]], places: list[int]) -> None:
    data = b""
    expected: list[Message] = []
    control = []
    for kind, parts in stream:
        whole = b"".join(parts)
        if kind == "ping":
            control.append(framed(whole, Opcode.PING))
            data += control[-1]
            continue
        first = Opcode.TEXT if kind == "text" else Opcode.BINARY
        for i, part in enumerate(parts):
            data += framed(part, Opcode.CONT if i else first, fin=i == len(parts) - 1)
        if len(whole) > LIMIT:
            expected.append(Unusable(Reason.FRAME_TOO_BIG, f"{len(whole)} bytes", whole[:LIMIT]))
        elif kind == "text":
            expected.append(Unusable(Reason.FRAME_TEXT, "", whole))
        else:
            expected.append(whole)
    splitter = fed(cut(data, places))
    assert splitter.control == control
    assert splitter.size == sum(
        len(m) if isinstance(m, bytes) else len(m.data) for m in splitter.messages
    )
    for message, wanted in zip(splitter.take(), expected, strict=True):
        if isinstance(wanted, Unusable):
            assert isinstance(message, Unusable)
            assert (message.reason, message.data) == (wanted.reason, wanted.data)
            assert message.detail.startswith(wanted.detail)
        else:
            assert message == wanted
    assert splitter.take() == []


def test_control_frames_between_fragments() -> None:
    ping = framed(b"?", Opcode.PING)
    splitter = fed([framed(b"a", fin=False), ping, framed(b"b", Opcode.CONT)])
    assert (splitter.messages, splitter.control) == ([b"ab"], [ping])


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 70_000])
def test_every_form_of_length(size: int) -> None:
    stream = framed(b"x" * size)
    splitter = fed((bytes([byte]) for byte in stream), limit=70_000)
    assert splitter.messages == [b"x" * size]


def test_a_message_at_the_limit_is_whole_and_one_above_is_skipped() -> None:
    splitter = fed([framed(b"x" * LIMIT) + framed(b"y" * (LIMIT + 1)) + framed(b"z")])
    first, second, third = splitter.take()
    assert (first, third) == (b"x" * LIMIT, b"z")
    assert isinstance(second, Unusable)
    assert second.reason is Reason.FRAME_TOO_BIG


def test_fragments_below_the_limit_that_exceed_it_together_are_skipped() -> None:
    parts = [framed(b"x" * 600, fin=False), framed(b"y" * 600, Opcode.CONT, fin=False)]
    splitter = fed([*parts, framed(b"", Opcode.CONT), framed(b"good")])
    assert [type(message) for message in splitter.take()] == [Unusable, bytes]


def test_memory_is_bounded_while_an_oversized_message_is_skipped() -> None:
    splitter = Splitter(LIMIT)
    stream = framed(b"x" * (10 * LIMIT))
    for start in range(0, len(stream), 100):
        splitter.feed(stream[start : start + 100])
        assert len(splitter._rest) <= 14
        assert len(splitter._partial) <= LIMIT


def test_a_length_beyond_sense_ends_the_connection() -> None:
    with pytest.raises(Unskippable):
        fed([b"\x82\x7f" + (2**63 - 1).to_bytes(8, "big")])


def test_endless_fragments_end_the_connection() -> None:
    more = framed(b"x" * LIMIT, Opcode.CONT, fin=False)
    with pytest.raises(Unskippable):
        fed([framed(b"x" * LIMIT, fin=False), *[more] * 100])


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(framed(b"x", masked=True), id="masked"),
        pytest.param(b"\xc2\x01x", id="reserved bit"),
        pytest.param(b"\x83\x01x", id="unknown opcode"),
        pytest.param(framed(b"x", Opcode.CONT), id="continuation of nothing"),
        pytest.param(framed(b"x", fin=False) + framed(b"y"), id="message within a message"),
        pytest.param(b"\x89\x7e\x00\x80" + b"x" * 128, id="long ping"),
    ],
)
def test_broken_framing(stream: bytes) -> None:
    splitter = Splitter(LIMIT)
    with pytest.raises(Violation):
        splitter.feed(framed(b"good") + stream)
    assert splitter.take() == [b"good"]
