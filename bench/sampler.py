"""Where CPU time goes, by sampling: which part is at work every few milliseconds of CPU.

Samples are taken by ``SIGPROF``, so that sleeping costs nothing and work in C counts for the
Python function that called it.  A sample belongs to the innermost frame whose file a rule
names; what has no rule (the standard library, small syntax checks) belongs to its caller.
"""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path
from types import FrameType

_INTERVAL = 0.002  # seconds of CPU
_SITE_PACKAGES = "site-packages"

OTHER = "event loop and the rest"
_DECODE, _CAR, _SIGNATURE = "frame decode", "CAR and block hashes", "signature"
_STATE, _ENVELOPE, _WORKER = "state and reconcile", "event envelope", "worker's rounds"
_POSTGRES, _KAFKA = "PostgreSQL client", "Kafka client"

# The longest match decides.
_RULES = {
    "consumer/verify/frames.py": _DECODE,
    "consumer/verify/fields.py": _DECODE,
    "consumer/verify/car.py": _CAR,
    "consumer/verify/keys.py": _SIGNATURE,
    "consumer/verify/commit.py": "commit block and ops",
    "consumer/verify/mst.py": "tree shape",
    "consumer/verify/invert.py": "inversion",
    "consumer/worker/": _WORKER,
    "consumer/state/facts.py": _STATE,
    "consumer/state/inputs.py": _STATE,
    "consumer/state/event_building.py": _STATE,
    "consumer/state/accounts.py": _STATE,
    "consumer/state/batch_state.py": _STATE,
    "consumer/state/reconcile.py": _STATE,
    "consumer/state/repo_state.py": _STATE,
    "consumer/publish/": "publisher",
    "consumer/events/envelope.py": _ENVELOPE,
    "consumer/events/atproto_json.py": _ENVELOPE,
    "consumer/store/": _POSTGRES,
    "consumer/kafka/": _KAFKA,
    "consumer/tail/": "tailer's loop",
    "psycopg/": _POSTGRES,
    "psycopg_pool/": _POSTGRES,
    "aiokafka/": _KAFKA,
}
_CHECKOUT = str(Path(__file__).parents[1]) + "/"


class Sampler:
    """Samples the main thread of this process between ``start`` and ``stop``."""

    def __init__(self) -> None:
        self.parts: Counter[str] = Counter()
        self.functions: Counter[str] = Counter()
        self._part_of: dict[str, str | None] = {}

    def start(self) -> None:
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, _INTERVAL, _INTERVAL)

    def stop(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, signal.SIG_IGN)

    def shares(self) -> dict[str, float]:
        """Return the share of each part, the largest first."""
        total = sum(self.parts.values()) or 1
        return {part: count / total for part, count in self.parts.most_common()}

    def _sample(self, _number: int, frame: FrameType | None) -> None:
        if frame is not None:
            self.functions[_name(frame)] += 1
        while frame is not None:
            part = self._part(frame.f_code.co_filename)
            if part is not None:
                self.parts[part] += 1
                return
            frame = frame.f_back
        self.parts[OTHER] += 1

    def _part(self, path: str) -> str | None:
        if path not in self._part_of:
            short = _short(path)
            matching = [rule for rule in _RULES if short.startswith(rule)]
            self._part_of[path] = _RULES[max(matching, key=len)] if matching else None
        return self._part_of[path]


def _name(frame: FrameType) -> str:
    """Return the name of a frame's function; of generated ones, that of the class."""
    code = frame.f_code
    if code.co_filename == "<string>" and "self" in frame.f_locals:
        return f"{type(frame.f_locals['self']).__qualname__}.{code.co_name}"
    return f"{_short(code.co_filename)}:{code.co_qualname}"


def _short(path: str) -> str:
    """Return a path below the checkout or ``site-packages``."""
    _, found, below = path.partition(f"{_SITE_PACKAGES}/")
    return below if found else path.removeprefix(_CHECKOUT)
