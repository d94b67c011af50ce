"""``python -m consumer``."""

import os
import signal
import sys
from types import FrameType


def _leave(number: int, _frame: FrameType | None) -> None:
    """End quietly: nothing has begun yet, or a short command was cut.  Stopping is no error."""
    os._exit(0 if sys.argv[1:2] == ["run"] else 128 + number)


# Before the imports below, which take a second: a signal meanwhile shows no traceback.
signal.signal(signal.SIGTERM, _leave)
signal.signal(signal.SIGINT, _leave)

from consumer.cli.main import main  # noqa: E402  # see above

if __name__ == "__main__":
    main()
