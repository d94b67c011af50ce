"""What verification costs in memory: no socket, no service.

``floor``: SHA-256 of every block and one signature check, straight from the libraries, with the
blocks cut out and the signature in the library's form.  ``verify``: what the worker does, from
the frame's bytes to a ``VerifiedCommit``.  Both run over the same commits in turns, so that other
load on the machine affects both.
"""

from __future__ import annotations

import gc
import hashlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import coincurve
import libipld
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from multiformats import multibase, multicodec

from bench.sampler import Sampler
from bench.traffic import Traffic
from consumer.verify.car import parse_car
from consumer.verify.commit import CommitLimits, verify_commit
from consumer.verify.frames import CommitFrame, decode_frame
from consumer.verify.keys import SigningKey

_TURN = 500  # commits at a stretch
_SAMPLED_LAPS = 4
_LIMITS = CommitLimits()


@dataclass(frozen=True, slots=True)
class Pure:
    """The best of all rounds, in CPU µs per commit: other load only adds to it."""

    floor: float
    verify: float
    shares: dict[str, float]
    bytes_per_frame: float
    blocks_per_commit: float

    @property
    def ratio(self) -> float:
        """Verification as a multiple of the floor."""
        return self.verify / self.floor


def measure(traffic: Traffic, commits: int, rounds: int) -> Pure:
    """Measure floor and verification over the first ``commits`` commits."""
    frames = traffic.commits[:commits]
    keys = {did: SigningKey.from_did_key(key) for did, key in traffic.keys.items()}
    floors = [floor_of(frame, traffic.keys) for frame in frames]
    now = time.time()

    def verify(frame: bytes) -> None:
        decoded = decode_frame(frame)
        assert isinstance(decoded, CommitFrame)
        verify_commit(decoded, keys[decoded.did], _LIMITS, now)

    gc.collect()
    gc.freeze()
    found = [_round(floors, frames, verify) for _ in range(rounds)]
    shares = _sampled(frames, verify)
    gc.unfreeze()
    return Pure(
        floor=min(floor for floor, _ in found),
        verify=min(verified for _, verified in found),
        shares=shares,
        bytes_per_frame=statistics.fmean(map(len, frames)),
        blocks_per_commit=statistics.fmean(len(floor.blocks) for floor in floors),
    )


def _round(
    floors: Sequence[Floor], frames: Sequence[bytes], verify: Callable[[bytes], None]
) -> tuple[float, float]:
    """Return floor and verification of one round, in µs per commit, measured in turns."""
    spent = [0.0, 0.0]
    for start in range(0, len(frames), _TURN):
        began = time.process_time()
        for floor in floors[start : start + _TURN]:
            floor.pay()
        between = time.process_time()
        for frame in frames[start : start + _TURN]:
            verify(frame)
        spent[0] += between - began
        spent[1] += time.process_time() - between
    return spent[0] / len(frames) * 1e6, spent[1] / len(frames) * 1e6


def _sampled(frames: Sequence[bytes], verify: Callable[[bytes], None]) -> dict[str, float]:
    sampler = Sampler()
    sampler.start()
    for _ in range(_SAMPLED_LAPS):
        for frame in frames:
            verify(frame)
    sampler.stop()
    return sampler.shares()


@dataclass(frozen=True, slots=True)
class Floor:
    """The least work of verification, for one commit."""

    blocks: tuple[bytes, ...]
    check_signature: Callable[[], object]

    def pay(self) -> None:
        for block in self.blocks:
            hashlib.sha256(block).digest()
        self.check_signature()


def floor_of(data: bytes, keys: dict[str, str]) -> Floor:
    frame = decode_frame(data)
    assert isinstance(frame, CommitFrame)
    car = parse_car(frame.blocks, len(frame.blocks))
    signed = libipld.decode_dag_cbor(car.blocks[frame.commit])
    signature = signed.pop("sig")
    check = _check(keys[frame.did], libipld.encode_dag_cbor(signed), signature)
    return Floor(tuple(car.blocks.values()), check)


def _check(did_key: str, message: bytes, signature: bytes) -> Callable[[], object]:
    """Return the library's own check of a signature."""
    codec, point = multicodec.unwrap(multibase.decode(did_key.removeprefix("did:key:")))
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    der = encode_dss_signature(r, s)
    if codec.name == "secp256k1-pub":
        k256 = coincurve.PublicKey(point)
        return lambda: k256.verify(der, message)
    p256 = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    scheme = ec.ECDSA(SHA256())
    return lambda: p256.verify(der, message, scheme)
