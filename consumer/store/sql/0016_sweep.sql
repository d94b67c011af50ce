-- The sweep: every tracked repository is compared with its host once in a period.  It walks through
-- repos in the order of the DIDs, so that a check that finds nothing writes nothing of its own.
CREATE TABLE sweep (
    one_row  boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    way      text NOT NULL,                      -- hosts or listing
    began_at timestamptz NOT NULL DEFAULT now(), -- this round
    ended_at timestamptz,
    total    bigint NOT NULL,                    -- tracked repositories
    taken    bigint NOT NULL DEFAULT 0,
    before   jsonb,                              -- what the round before found, by finding
    position text COLLATE "C" NOT NULL DEFAULT ''-- all DIDs up to this one were taken
);
-- Pages that were taken and are being checked; one whose lease has expired is taken again.
CREATE TABLE sweep_pages (
    through     text COLLATE "C" PRIMARY KEY,
    after       text COLLATE "C" NOT NULL,
    lease_until timestamptz NOT NULL
);
-- What the checks of this round found.
CREATE TABLE sweep_counts (
    finding text PRIMARY KEY,
    repos   bigint NOT NULL
);
-- Repositories whose check is not over: their host could not be asked, or its newer revision may
-- still be on its way here.
CREATE TABLE sweep_later (
    did      text COLLATE "C" PRIMARY KEY,
    rev      text COLLATE "C",                   -- that the host has; null: it could not be asked
    asked_at timestamptz NOT NULL DEFAULT now(),
    tries    integer NOT NULL,
    due      timestamptz NOT NULL,
    failure  text                                -- procedures.failures.Failure
);
CREATE INDEX sweep_later_due ON sweep_later (due);
