"""Notices of the tailer to the lanes: records of ``chive.firehose`` without a frame.  Pure."""

from __future__ import annotations

# A record with this header holds no frame, but the word that an epoch begins.
NOTICE, EPOCH_NOTICE = "notice", b"epoch"
