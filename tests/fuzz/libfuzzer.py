"""The process of one target under atheris: ``python -m tests.fuzz.libfuzzer NAME SECONDS SEED``.

libFuzzer ends it: with 0 when the time is over, with another code at a finding.
"""

from __future__ import annotations

import sys
from hashlib import sha1

from tests.fuzz.guided import FINDINGS, folder_of

_MAX_LENGTH = 20_000  # bytes; libFuzzer would dwell on longer input, which ``worst.py`` is for
_HANG = 20  # seconds; instrumented code is slow
_MAX_MEMORY = 1_024  # MiB, libFuzzer's own included


def main(name: str, seconds: str, seed: str) -> None:
    """Fuzz until the time is over or something is found."""
    import atheris  # noqa: PLC0415 - there is none for every machine

    with atheris.instrument_imports(include=["consumer", "procedures"]):
        from tests.fuzz.grammar import GRAMMARS, Grammar  # noqa: PLC0415 - to be instrumented
        from tests.fuzz.recorded import kept  # noqa: PLC0415
        from tests.fuzz.targets import Target, of_frames, targets  # noqa: PLC0415

    everything: list[Target | Grammar] = [*targets(), *GRAMMARS, *of_frames("real ", kept())]
    (tried,) = (one for one in everything if one.name == name)
    folder = folder_of(name)
    folder.mkdir(parents=True, exist_ok=True)
    for good in tried.seeds:
        (folder / sha1(good, usedforsecurity=False).hexdigest()).write_bytes(good)
    options = {
        "max_total_time": seconds,
        "seed": seed,
        "max_len": _MAX_LENGTH,
        "timeout": _HANG,
        "rss_limit_mb": _MAX_MEMORY,
        "artifact_prefix": f"{FINDINGS / folder.name}-",
        "print_final_stats": 1,
    }
    argv = [sys.argv[0], *(f"-{option}={value}" for option, value in options.items())]
    atheris.Setup([*argv, str(folder)], tried.fuzzed())
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
