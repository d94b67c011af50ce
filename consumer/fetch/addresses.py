"""Which addresses an outgoing request may reach.  Pure.

Public means: unicast, allocated, and routed on the internet at large (the registries
https://www.iana.org/assignments/iana-ipv4-special-registry and its sibling for IPv6).  An IPv6
address that carries an IPv4 address is judged by the IPv4 address: a gateway may translate it.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_TRANSLATED = IPv6Network("64:ff9b::/96")  # NAT64: how an IPv6-only network sees the rest
# Inside 2000::/3, but not for hosts on the internet: documentation, 6to4, Teredo.
_UNUSED = tuple(
    map(IPv6Network, ("3fff::/20", "2001:db8::/32", "2002::/16", "2001::/23", "5f00::/16"))
)
# Globally reachable by the registry, but no hosts: anycast of the local network (PCP, TURN), and
# relays of 6to4.
_UNUSED_IPV4 = tuple(map(IPv4Network, ("192.0.0.0/24", "192.88.99.0/24")))


def parse(text: str) -> Address | None:
    """Return the address that the resolver wrote as ``text``; None if it is none."""
    try:
        return ip_address(text)
    except ValueError:
        return None


def is_public(address: Address) -> bool:
    """Tell whether ``address`` is that of a host on the internet."""
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return False
        inner = _inner(address)
        return _is_public_ipv6(address) if inner is None else is_public(inner)
    if any(address in network for network in _UNUSED_IPV4):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def is_loopback(address: Address) -> bool:
    """Tell whether ``address`` is this machine: 127.0.0.0/8 or ::1."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def _inner(address: IPv6Address) -> IPv4Address | None:
    if address in _TRANSLATED:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped


def _is_public_ipv6(address: IPv6Address) -> bool:
    if address not in _GLOBAL_UNICAST:
        return False
    return address.is_global and not any(address in network for network in _UNUSED)
