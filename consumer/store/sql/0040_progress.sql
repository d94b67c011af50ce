-- What the tailer has received: its cursor, with the newest seq that it has forwarded to each
-- partition (last).  Beside cursors, which earlier versions write without it.
CREATE TABLE received (
    relay   text PRIMARY KEY,
    session bigint NOT NULL,
    seq     bigint NOT NULL,
    time    timestamptz,
    as_of   timestamptz NOT NULL,
    last    bigint[] NOT NULL
);

-- The initial search of a scope; searched_at: when every listing had been read.
CREATE TABLE snapshots (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    scope       bytea NOT NULL UNIQUE,
    began_at    timestamptz NOT NULL DEFAULT now(),
    searched_at timestamptz,
    unread      integer NOT NULL DEFAULT 0               -- hosts whose listing could not be read
);

-- What each lane has said of itself on chive.events; snapshot: the last one that it had whole.
CREATE TABLE progress (
    lane     integer PRIMARY KEY,
    session  bigint NOT NULL DEFAULT 0,
    seq      bigint NOT NULL DEFAULT 0,
    snapshot uuid
);
