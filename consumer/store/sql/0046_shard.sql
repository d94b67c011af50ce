-- The shard whose accounts the tables have: 1/1 is all of them.

ALTER TABLE deployment ADD COLUMN shard text NOT NULL DEFAULT '1/1';
