from __future__ import annotations

import pytest

from consumer.errors import Fatal
from consumer.lanes import marker


@pytest.mark.parametrize("out_seq", [0, 1, 2**53])
def test_round_trip(out_seq: int) -> None:
    assert marker.decode(marker.encode(out_seq)) == out_seq


def test_the_form_is_published() -> None:
    assert marker.encode(7) == b'{"out_seq":7}'
    assert marker.key_of(3) == b"3"


@pytest.mark.parametrize("value", [b"", b"7", b"{}", b'{"out_seq":"7"}', b'{"out_seq":-1}'])
def test_a_marker_that_no_publisher_wrote_is_fatal(value: bytes) -> None:
    with pytest.raises(Fatal):
        marker.decode(value)
