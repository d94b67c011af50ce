"""Ports are kept while they are free, and given up when they are not."""

from __future__ import annotations

import socket
from pathlib import Path

from consumer.embedded import ports


def test_the_same_ports_again(tmp_path: Path) -> None:
    first = ports.choose(tmp_path / "ports.json", 3)
    assert len(set(first)) == 3
    assert ports.choose(tmp_path / "ports.json", 3) == first


def test_a_taken_port_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    first = ports.choose(tmp_path / "ports.json", 2)
    with socket.socket() as taken:
        taken.bind((ports.LOOPBACK, first[0]))
        taken.listen()
        second = ports.choose(tmp_path / "ports.json", 2)
    assert second[0] != first[0]
    assert second[1] == first[1]


def test_an_unreadable_memory_is_no_memory(tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text("{half")
    assert len(ports.choose(tmp_path / "ports.json", 2)) == 2
