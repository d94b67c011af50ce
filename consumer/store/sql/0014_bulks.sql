-- Many at once: a parent operation, its children, and how far its selection is expanded.
ALTER TABLE operations
    ADD COLUMN parent   text,                            -- the operation that this one is a part of
    ADD COLUMN behind   boolean NOT NULL DEFAULT false,  -- asked for with many others: takes turns
    ADD COLUMN counted  boolean NOT NULL DEFAULT false,  -- has ended, and is in its parent's counts
    ADD COLUMN children jsonb;                           -- of a parent: what became of them
CREATE TABLE bulks (
    operation text PRIMARY KEY,
    selection jsonb NOT NULL,                            -- as the fields of the command
    expected  bigint,
    after     text COLLATE "C" NOT NULL DEFAULT '',      -- the last DID that was looked at
    selected  boolean NOT NULL DEFAULT false,            -- all children are chosen
    opened_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX operations_open_children ON operations (parent) WHERE parent IS NOT NULL AND NOT counted;
CREATE INDEX operations_by_parent ON operations (parent, requested_at) WHERE parent IS NOT NULL;
CREATE INDEX operations_failed ON operations (did) WHERE type = 'didSync' AND status = 'failed';
DROP INDEX operations_due;
CREATE INDEX operations_due ON operations ((automatic OR behind), run_after)
    WHERE status = 'queued' AND same_as IS NULL;
DROP INDEX repos_by_host;
CREATE INDEX repos_by_host ON repos (substring(pds FROM '//(.*)'), did);
