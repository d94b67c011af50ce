-- A sync that is complete deletes the tombstones of its repository; most repositories have none.
CREATE INDEX records_tombstones ON records (did) WHERE cid IS NULL;
