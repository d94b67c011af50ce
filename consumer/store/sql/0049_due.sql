-- Lookups are leased in two kinds: those that go to the PLC directory and to no account's host, and
-- all others.  Neither is looked for behind any number of the other.
ALTER TABLE lookups ADD COLUMN at_directory boolean NOT NULL
    GENERATED ALWAYS AS (kind = 'identity' AND did LIKE 'did:plc:%') STORED;
DROP INDEX lookups_due;
CREATE INDEX lookups_due ON lookups (at_directory, run_after);
CREATE INDEX lookups_next ON lookups (greatest(run_after, lease_until));

-- Operations are found by their leases several times in each attempt.
CREATE INDEX operations_leased ON operations (lease_owner) WHERE status = 'running';
