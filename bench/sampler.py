"""Where CPU time goes: a sample of the stack every few milliseconds of CPU time.

Samples are taken by ``SIGPROF``: a sleeping process has none, and work in C counts for the Python
function that called it.  A sample belongs to the innermost frame whose file a rule names.  Files
without a rule (the standard library, small syntax checks) belong to their callers.
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
_TREE = "tree shape"
_STATE, _ENVELOPE, _WORKER = "state and reconcile", "event envelope", "worker's batches"
_POSTGRES, _KAFKA = "PostgreSQL client", "Kafka client"

# The longest prefix of a path below the checkout or site-packages decides.
_RULES = {
    "consumer/verify/frames.py": _DECODE,
    "consumer/verify/fields.py": _DECODE,
    "consumer/verify/car.py": _CAR,
    "consumer/verify/keys.py": _SIGNATURE,
    "consumer/verify/commit.py": "commit block and ops",
    "consumer/verify/mst.py": _TREE,
    "consumer/verify/node.py": _TREE,
    "consumer/verify/invert.py": "inversion",
    "consumer/worker/": _WORKER,
    "consumer/state/": _STATE,
    "consumer/lanes/": "lane and publisher",
    "consumer/events/": _ENVELOPE,
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
        """Begin to sample; takes over ``SIGPROF``."""
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, _INTERVAL, _INTERVAL)

    def stop(self) -> None:
        """Stop sampling; what was found stays."""
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
