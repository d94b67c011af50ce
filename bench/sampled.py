"""``python -m bench.sampled FILE …``: ``python -m consumer …`` that samples itself.

Sampling begins at SIGUSR1, after the start of the process.  At the end of the process the samples
are written to FILE as JSON.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from bench.sampler import Sampler
from consumer.cli.main import main as run_consumer


def main() -> None:
    path = Path(sys.argv[1])
    del sys.argv[1]
    sampler = Sampler()
    signal.signal(signal.SIGUSR1, lambda *_: sampler.start())
    try:
        run_consumer()
    finally:
        sampler.stop()
        found = {"shares": sampler.shares(), "functions": sampler.functions.most_common(60)}
        path.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
