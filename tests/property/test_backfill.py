"""Every message of a fetcher arrives as it was sent; everything else is refused."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from consumer import backfill
from consumer.backfill import AccountAnswer, Chunk, Forget, IdentityAnswer, Message, Proof
from consumer.errors import Fatal, Refused

messages = st.one_of(
    st.builds(IdentityAnswer, fetched_at=st.floats(allow_nan=False)),
    st.builds(AccountAnswer),
    st.builds(Chunk),
    st.builds(Proof),
    st.builds(Forget),
)


@given(messages)
def test_round_trip(message: Message) -> None:
    assert backfill.decode(backfill.encode(message)) == message


@given(messages, st.data())
def test_damage_is_refused_or_reads_as_a_message(message: Message, choice: st.DataObject) -> None:
    data = bytearray(backfill.encode(message))
    data[choice.draw(st.integers(0, len(data) - 1))] ^= choice.draw(st.integers(1, 255))
    try:
        decoded = backfill.decode(bytes(data))
    except (Refused, Fatal):
        return
    assert isinstance(decoded, Message)
