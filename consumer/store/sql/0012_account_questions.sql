-- Account status is a question: why it is asked, when it was last answered, what is known beside
-- the status itself.

ALTER TABLE lookups ADD COLUMN cause text NOT NULL DEFAULT 'frame';

-- The newest answer about each account: questions keep their distance from it.
CREATE TABLE account_answers (
    did      text COLLATE "C" PRIMARY KEY,
    asked_at timestamptz NOT NULL,
    status   text NOT NULL,
    source   text NOT NULL,                -- host or directory
    host     text,
    name     text                          -- of the host's error
);

ALTER TABLE repos
    ADD COLUMN frame_status text,              -- the status that the newest #account frame states
    ADD COLUMN status_relay text,              -- the relay of that frame; null: a host has answered since
    ADD COLUMN inactive_rev text COLLATE "C",  -- the newest signed rev seen while not active
    ADD COLUMN gone_at double precision,       -- since then its host says that the account is deleted
    ADD COLUMN gone_host text;                 -- the host that says so

CREATE INDEX repos_by_host ON repos (substring(pds FROM '//(.*)'));
CREATE INDEX repos_gone ON repos (gone_host) WHERE gone_at IS NOT NULL;

-- Hosts that say of more accounts than a share that they are deleted: these deletions wait.
CREATE TABLE held_hosts (
    host    text PRIMARY KEY,
    gone    bigint NOT NULL,
    tracked bigint NOT NULL,
    since   timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz NOT NULL DEFAULT now()
);
