-- The outbox holds one row per transaction of a lane instead of one per Kafka record.  ``stamp`` is
-- random: the marker in Kafka carries it, and the batch of the newest marker stays, emptied, to prove
-- that this database is the one that decided what was published.
-- ``outbox`` is written no more; what it still holds is published first.
CREATE TABLE outbox_batches (
    lane    integer NOT NULL,
    through bigint  NOT NULL,  -- out_seq of the last row
    rows    integer NOT NULL,
    stamp   uuid    NOT NULL,
    body    bytea   NOT NULL,
    PRIMARY KEY (lane, through)
);
ALTER TABLE outbox_batches ALTER COLUMN body SET STORAGE EXTERNAL;

-- Why no process may go on with these tables; NULL while all is well.
ALTER TABLE deployment ADD COLUMN halted text, ADD COLUMN halted_at timestamptz;
