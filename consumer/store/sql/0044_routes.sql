-- The routes of events that were last in use.  changed_at: since then the topics do not hold what the
-- routes say; null: they do.
CREATE TABLE routes (
    one_row    boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    routes     jsonb NOT NULL,                           -- topics without the prefix, by patterns
    changed_at timestamptz
);
