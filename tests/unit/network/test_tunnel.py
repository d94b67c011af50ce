"""Asking proxies for connections, byte for byte as the RFCs have it."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import pytest

from consumer.network import tunnel
from consumer.network.tunnel import Exchange, Target, TunnelFailed

V4, V6 = ip_address("192.0.2.7"), ip_address("2001:db8::1")
USER = ("user", "pass")


def converse(exchange: Exchange, *answers: bytes, size: int = 1) -> bytes:
    """Give ``answers`` in parts of ``size`` bytes; return all that was sent."""
    sent = next(exchange)
    for answer in answers:
        parts = [answer[at : at + size] for at in range(0, len(answer), size)]
        for part in parts or [b""]:
            try:
                sent += exchange.send(part)
            except StopIteration:
                return sent
    raise AssertionError("it waits for more")


def failure(exchange: Exchange, *answers: bytes) -> TunnelFailed:
    with pytest.raises(TunnelFailed) as caught:
        converse(exchange, *answers, size=1000)
    return caught.value


@pytest.mark.parametrize(
    ("target", "named"),
    [(V4, "192.0.2.7:443"), (V6, "[2001:db8::1]:443"), ("host.example", "host.example:443")],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_connect(target: Target, named: str, size: int) -> None:
    exchange = tunnel.connect(target, 443, USER)
    request = converse(exchange, b"HTTP/1.1 200 OK\r\nvia: x\r\n\r\n", size=size)
    assert request.decode() == (
        f"CONNECT {named} HTTP/1.1\r\nHost: {named}\r\n"
        "Proxy-Authorization: Basic dXNlcjpwYXNz\r\n\r\n"
    )
    assert b"Authorization" not in converse(
        tunnel.connect(target, 443, None), b"HTTP/1.0 200\r\n\r\n", size=size
    )


@pytest.mark.parametrize(
    ("answer", "about_target", "words"),
    [
        (b"HTTP/1.1 407 Who\r\n\r\n", False, "refuses user or password"),
        (
            b"HTTP/1.1 403 Forbidden\r\n\r\n",
            True,
            "refuses a connection to 192.0.2.7:443: HTTP 403",
        ),
        (b"HTTP/1.1 502 Bad\r\n\r\n", True, "cannot reach 192.0.2.7:443: HTTP 502"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", False, "no HTTP proxy"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", False, "no HTTP proxy"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"x" * 20_000, False, "no end"),
        (b"HTTP/1.1 200 OK\r\n\r\nmore", False, "more than it was asked"),
        (b"", False, "closes"),
    ],
)
def test_what_an_http_proxy_may_answer(answer: bytes, about_target: bool, words: str) -> None:
    error = failure(tunnel.connect(V4, 443, USER), answer)
    assert words in str(error)
    assert error.about_target is about_target


def test_credentials_that_are_missing_are_asked_for() -> None:
    wanting = failure(tunnel.connect(V4, 443, None), b"HTTP/1.1 407 Who\r\n\r\n")
    assert "wants a user and a password" in str(wanting)
    wanting = failure(tunnel.socks5(V4, 443, None), b"\x05\xff")
    assert "wants a user and a password" in str(wanting)


@pytest.mark.parametrize(
    ("target", "named"),
    [
        (V4, b"\x01\xc0\x00\x02\x07"),
        (V6, b"\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x01"),
        ("host.example", b"\x03\x0chost.example"),
    ],
)
@pytest.mark.parametrize(
    "bound", [b"\x01" + bytes(6), b"\x04" + bytes(18), b"\x03\x02ab" + bytes(2)]
)
@pytest.mark.parametrize("size", [1, 2, 1000])
def test_socks5(target: Target, named: bytes, bound: bytes, size: int) -> None:
    request = b"\x05\x01\x00" + named + b"\x01\xbb"
    done = b"\x05\x00\x00" + bound
    plain = converse(tunnel.socks5(target, 443, None), b"\x05\x00", done, size=size)
    assert plain == b"\x05\x01\x00" + request
    with_password = converse(
        tunnel.socks5(target, 443, USER), b"\x05\x02", b"\x01\x00", done, size=size
    )
    assert with_password == b"\x05\x02\x00\x02" + b"\x01\x04user\x04pass" + request


@pytest.mark.parametrize(
    ("answers", "about_target", "words"),
    [
        ([b"HT"], False, "no SOCKS5 proxy"),
        ([b"\x05\x01"], False, "not offered"),
        ([b"\x05\xff"], False, "refuses user or password"),
        ([b"\x05\x02", b"\x01\x01"], False, "refuses user or password"),
        ([b"\x05\x00", b"\x05\x02\x00"], True, "port 443: not allowed by its rules (2)"),
        ([b"\x05\x00", b"\x05\x05\x00"], True, "port 443: connection refused (5)"),
        ([b"\x05\x00", b"\x05\x07\x00"], False, "(7)"),
        ([b"\x05\x00", b"\x05\x00\x00\x01" + bytes(6) + b"more"], False, "more than"),
        ([b"\x05\x00", b"\x05\x00\x00\x01", b""], False, "closes"),
        ([b""], False, "closes"),
    ],
)
def test_what_a_socks5_proxy_may_answer(
    answers: list[bytes], about_target: bool, words: str
) -> None:
    error = failure(tunnel.socks5(V4, 443, USER), *answers)
    assert words in str(error)
    assert error.about_target is about_target


@pytest.mark.parametrize("ask", [tunnel.connect, tunnel.socks5])
@pytest.mark.parametrize("name", ["a b", "a\r\nb: c", "ä.example", "a" * 254])
def test_what_is_no_name_is_not_asked_for(ask: Callable[..., Exchange], name: str) -> None:
    answers = [b"\x05\x00"] if ask is tunnel.socks5 else [b""]
    assert "is not asked for" in str(failure(ask(name, 443, None), *answers))
