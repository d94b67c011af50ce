-- What runs by the clock, or while a decision waits, reads no more than it needs of large tables.

-- Pages of a lane's repositories, in the order of their DIDs.
DROP INDEX repos_by_lane;
CREATE INDEX repos_by_lane ON repos (lane, did);

-- Accounts of a host that are gone: those that wait for an answer, and those of one day.
DROP INDEX repos_gone;
CREATE INDEX repos_gone ON repos (gone_host, gone_at) WHERE gone_at IS NOT NULL AND status = 'deleted';
CREATE INDEX repos_going ON repos (gone_host) WHERE gone_at IS NOT NULL AND status <> 'deleted';

-- What is due of one type, behind any number of another.
DROP INDEX operations_due;
CREATE INDEX operations_due ON operations (type, (automatic OR behind), run_after)
    WHERE status = 'queued' AND same_as IS NULL;

-- Discoveries that have not ended, among all operations that are kept.
CREATE INDEX operations_discoveries ON operations (requested_at)
    WHERE type = 'discovery' AND status IN ('queued', 'running');
