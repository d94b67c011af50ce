-- Operations are carried out: who may do what at once, who is told, and who follows whom.

ALTER TABLE operations
    ALTER COLUMN did DROP NOT NULL,            -- discovery has no DID
    ADD COLUMN failure         text,           -- procedures.failures.Failure
    ADD COLUMN cursor          text,           -- discovery: the next page of the listing
    ADD COLUMN injected_offset bigint,         -- of chive.backfill, behind the last chunk
    ADD COLUMN setbacks        integer NOT NULL DEFAULT 0;  -- automatic syncs in vain before it

DROP INDEX operations_due;
CREATE INDEX operations_due ON operations (automatic, run_after)
    WHERE status = 'queued' AND same_as IS NULL;
DROP INDEX operations_unpublished;
CREATE INDEX operations_unpublished ON operations (id) WHERE published_version < version;
CREATE INDEX operations_running ON operations (lease_until) WHERE status = 'running';
CREATE INDEX operations_followers ON operations (same_as) WHERE same_as IS NOT NULL;
CREATE INDEX operations_by_did ON operations (did, requested_at);
CREATE INDEX operations_newest ON operations (requested_at, id);
CREATE INDEX operations_ended ON operations (completed_at) WHERE completed_at IS NOT NULL;
-- One sync of a DID at a time, and one refresh of a record.
CREATE UNIQUE INDEX operations_one_sync ON operations (did)
    WHERE type = 'didSync' AND status = 'running';
CREATE UNIQUE INDEX operations_one_refresh ON operations (uri)
    WHERE type = 'recordRefresh' AND status = 'running';

CREATE INDEX repos_by_first_seen ON repos (first_seen);
CREATE INDEX repos_desynchronized ON repos (did)
    WHERE sync_state <> 'active' AND status = 'active';

-- Whoever changes an operation raises its version.  Its followers (same_as) are seen at its
-- stage, so theirs rises too, and they end when it ends.  Channel "work": something is queued;
-- channel "operations": the operation named in the payload has changed.
CREATE FUNCTION operation_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status = 'queued' AND NEW.same_as IS NULL THEN
        PERFORM pg_notify(current_schema() || '_work', '');
    END IF;
    IF NOT NEW.automatic OR NEW.status IN ('completed', 'failed', 'cancelled') THEN
        PERFORM pg_notify(current_schema() || '_operations', NEW.id);
    END IF;
    IF TG_OP = 'INSERT' THEN
        RETURN NULL;
    END IF;
    IF NEW.status IN ('completed', 'failed', 'cancelled') THEN
        UPDATE operations SET
            status = NEW.status, phase = NEW.phase, progress = NEW.progress,
            records_processed = NEW.records_processed, total_records = NEW.total_records,
            created = NEW.created, updated = NEW.updated, deleted = NEW.deleted,
            attempts = NEW.attempts, error = NEW.error, failure = NEW.failure,
            new_cid = NEW.new_cid, started_at = NEW.started_at,
            completed_at = NEW.completed_at, version = version + 1
        WHERE same_as = NEW.id AND status = 'queued';
    ELSE
        UPDATE operations SET version = version + 1
        WHERE same_as = NEW.id AND status = 'queued';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER operation_inserted AFTER INSERT ON operations
    FOR EACH ROW EXECUTE FUNCTION operation_changed();
CREATE TRIGGER operation_updated AFTER UPDATE ON operations
    FOR EACH ROW WHEN (OLD.version <> NEW.version) EXECUTE FUNCTION operation_changed();
