"""Invented records, in the shapes that Chive and its neighbours write.  Pure.

The same seed gives the same records.  They carry links (``$link``), bytes (``$bytes``) and
blobs, so that every kind of value makes the journey.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Any

Record = dict[str, Any]

SUBMISSION = "pub.chive.eprint.submission"
COMMENT = "pub.chive.review.comment"
VOTE = "pub.chive.graph.vote"
DOCUMENT = "site.standard.document"
POST = "app.bsky.feed.post"
LIKE = "app.bsky.feed.like"
LOOKALIKE = "pub.chivery.note"  # outside ``pub.chive.*``, though it begins alike

# How often each is written; the last three are unrelated to Chive.
WEIGHTS = {SUBMISSION: 4, COMMENT: 4, VOTE: 5, DOCUMENT: 2, POST: 3, LIKE: 2, LOOKALIKE: 1}

_TOPICS = (
    "islands and scope",
    "sparse attention in parsing",
    "ergativity in contact",
    "tone sandhi",
    "quantifier raising",
    "Merkle trees for linguists",
    "reproducible corpora",
    "vowel harmony as search",
)
_VERDICTS = (
    "The argument in section 3 is convincing.",
    "I could not reproduce table 2.",
    "¿Y los datos? Falta el apéndice.",
    "査読者より、素晴らしい論文です。",
    "Minor remarks only. 👏",
)


def _moment(random: Random) -> str:
    seconds = 1_790_000_000 + random.randrange(10_000_000)
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def submission(random: Random, blob: Record) -> Record:
    """Return a preprint; ``blob`` is the uploaded document."""
    topic = random.choice(_TOPICS)
    return {
        "$type": SUBMISSION,
        "title": f"On {topic}",
        "abstract": f"We reconsider {topic}. " * random.randint(1, 12),
        "authors": [{"name": f"A. {random.choice('KLMNO')}.", "order": 1}],
        "keywords": random.sample(topic.split(), k=min(2, len(topic.split()))),
        "document": blob,
        "checksum": {"$bytes": base64.b64encode(random.randbytes(32)).decode().rstrip("=")},
        "manifest": blob["ref"],
        "license": "CC-BY-4.0",
        "version": random.randint(1, 9),
        "createdAt": _moment(random),
    }


def comment(random: Random, subject: Record) -> Record:
    """Return a review of the record that the strong reference ``subject`` names."""
    return {
        "$type": COMMENT,
        "subject": subject,
        "content": random.choice(_VERDICTS),
        "lines": [random.randint(1, 400), random.randint(401, 900)],
        "createdAt": _moment(random),
    }


def vote(random: Random, subject: Record) -> Record:
    """Return a vote on ``subject``."""
    return {
        "$type": VOTE,
        "subject": subject,
        "vote": random.choice(("approve", "reject", "abstain")),
        "createdAt": _moment(random),
    }


def document(random: Random, _subject: Record) -> Record:
    """Return a page of a publication."""
    topic = random.choice(_TOPICS)
    return {
        "$type": DOCUMENT,
        "site": "https://example.com",
        "path": f"/{topic.replace(' ', '-')}",
        "title": topic.title(),
        "tags": None,
        "publishedAt": _moment(random),
    }


def post(random: Random, _subject: Record) -> Record:
    """Return a record that no AppView of Chive wants."""
    return {"$type": POST, "text": random.choice(_VERDICTS), "createdAt": _moment(random)}


def like(random: Random, subject: Record) -> Record:
    """Return another unrelated record."""
    return {"$type": LIKE, "subject": subject, "createdAt": _moment(random)}


def lookalike(random: Random, _subject: Record) -> Record:
    """Return a record of a collection whose name only begins like a wanted one."""
    return {"$type": LOOKALIKE, "text": "not ours", "createdAt": _moment(random)}


# All but submissions, which need a blob instead of a subject.
ABOUT: dict[str, Callable[[Random, Record], Record]] = {
    COMMENT: comment,
    VOTE: vote,
    DOCUMENT: document,
    POST: post,
    LIKE: like,
    LOOKALIKE: lookalike,
}
