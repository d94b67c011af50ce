-- A repo's next attempt is a queued operation that is due later; nothing else keeps a time.
ALTER TABLE repos DROP COLUMN retry_at;
