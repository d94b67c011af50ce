from __future__ import annotations

from ipaddress import ip_address

import pytest

from consumer.fetch import addresses

PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "192.0.1.1",
    "2606:4700::1111",
    "2a00:1450::1",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
]
NOT_PUBLIC = [
    "0.0.0.0",  # noqa: S104 - to be refused
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",  # carrier-grade NAT
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",  # where clouds keep credentials
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.8",
    "192.0.0.9",  # whatever maps ports near us
    "192.0.0.10",
    "192.0.0.170",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0.0.0.0",
    "::ffff:100.64.0.1",
    "::ffff:8.8.8.8%eth0",
    "::ffff:0:127.0.0.1",  # translated without state
    "::ffff:0:8.8.8.8",
    "64:ff9b::10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::8.8.8.8%eth0",
    "64:ff9b:1::1",  # NAT64 of some operator
    "64:ff9b:1::8.8.8.8",
    "100::1",
    "2001::1",  # Teredo
    "2001:0:7f00:1::",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "2001:1::1",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",  # 6to4
    "2002:a00:1::",
    "2002:a9fe:a9fe::",
    "2002:808:808::",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "2606:4700::1111%eth0",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("text", PUBLIC)
def test_hosts_on_the_internet_are_public(text: str) -> None:
    assert addresses.is_public(ip_address(text))


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_everything_else_is_not(text: str) -> None:
    assert not addresses.is_public(ip_address(text))


@pytest.mark.parametrize("text", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
def test_this_machine_is_loopback(text: str) -> None:
    assert addresses.is_loopback(ip_address(text))


@pytest.mark.parametrize("text", ["0.0.0.0", "10.0.0.1", "::", "8.8.8.8", "fe80::1"])  # noqa: S104
def test_other_machines_are_not_loopback(text: str) -> None:
    assert not addresses.is_loopback(ip_address(text))


@pytest.mark.parametrize(
    "text", ["", "localhost", "127.1", "2130706433", "0x7f.0.0.1", "1.2.3.4.5"]
)
def test_only_what_a_resolver_writes_is_an_address(text: str) -> None:
    assert addresses.parse(text) is None
