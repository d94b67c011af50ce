-- What was left out of a repository, counted by reason: consumer.errors.Reason.
ALTER TABLE repos ADD COLUMN warnings jsonb;
ALTER TABLE operations
    ADD COLUMN warnings jsonb,
    ADD COLUMN via      text;  -- a refresh: 'record' or 'repository'

-- As in migration 2, with the new columns.
CREATE OR REPLACE FUNCTION operation_changed() RETURNS trigger LANGUAGE plpgsql AS $$
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
            new_cid = NEW.new_cid, warnings = NEW.warnings, via = NEW.via, started_at = NEW.started_at,
            completed_at = NEW.completed_at, version = version + 1
        WHERE same_as = NEW.id AND status = 'queued';
    ELSE
        UPDATE operations SET version = version + 1
        WHERE same_as = NEW.id AND status = 'queued';
    END IF;
    RETURN NULL;
END
$$;
