from __future__ import annotations

from consumer.bounded import BoundedMap


def test_the_entry_that_was_put_longest_ago_goes_first() -> None:
    bounded: BoundedMap[str, int] = BoundedMap(2)
    bounded.put("a", 1)
    bounded.put("b", 2)
    bounded.put("c", 3)
    assert [bounded.get(key) for key in "abc"] == [None, 2, 3]
    assert len(bounded) == 2


def test_putting_renews_an_entry_and_reading_does_not() -> None:
    bounded: BoundedMap[str, int] = BoundedMap(2)
    bounded.put("a", 1)
    bounded.put("b", 2)
    bounded.put("a", 3)
    assert bounded.get("b") == 2
    bounded.put("c", 4)
    assert ("a" in bounded, "b" in bounded, "c" in bounded) == (True, False, True)
    assert bounded.get("a") == 3
