"""tap's order for one who needs it: of each repository the history first, then what is live.

``chive.events`` brings live events at once, and history between them.  ``HistoryFirst`` takes the
events of a partition in their order and gives them back in tap's: while a repository is not
``active``, its live records are held; when its ``sync`` event says ``active``, they follow,
without those that history has overtaken.  What is held must be stored where the offsets are:
Kafka does not give it again.
"""

from __future__ import annotations

from typing import Any

Event = dict[str, Any]


class HistoryFirst:
    """``held`` are live events by DID, in their order; ``active`` are repositories without any."""

    def __init__(self) -> None:
        self.held: dict[str, list[Event]] = {}
        self.active: set[str] = set()
        self._revs: dict[str, dict[str, str]] = {}  # of history, by DID and AT-URI

    def take(self, event: Event) -> list[Event]:
        """Return what is to be applied now."""
        did = event.get("did", "")  # progress and snapshot_complete are of no account
        match event:
            case {"type": "sync", "state": "active"}:
                self.active.add(did)
                revs = self._revs.pop(did, {})
                held = self.held.pop(did, [])
                return [one for one in held if one["rev"] > revs.get(one["uri"], "")] + [event]
            case {"type": "sync"}:
                self.active.discard(did)
            case {"type": "record", "live": True} if did not in self.active:
                self.held.setdefault(did, []).append(event)
                return []
            case {"type": "record"} if did not in self.active:
                self._revs.setdefault(did, {})[event["uri"]] = event["rev"]
        return [event]
