-- What was searched for repositories, by source and listing; it takes the place of discoveries.
UPDATE operations SET status = 'cancelled', completed_at = now(), version = version + 1,
    lease_owner = NULL, lease_until = NULL, error = 'listings are searched anew, by their sources'
WHERE type = 'discovery' AND status IN ('queued', 'running');
DROP TABLE discoveries;
-- listing: a collection's NSID, '*' for all repositories, '#hosts' for the hosts of a relay, or
-- '#sweep' for the comparison of revisions.
CREATE TABLE searches (
    source        text NOT NULL,                       -- an origin
    listing       text NOT NULL,
    named_by      text,                                -- a host: the source that named it
    state         text NOT NULL,                       -- open, completed, incomplete, unsupported
    operation     text,                                -- of the search that is open, or was last
    epoch         bigint NOT NULL,                     -- the relay's, when the search was opened
    cursor        text,
    page_limit    integer NOT NULL,
    seen          bytea NOT NULL,                      -- hashes of cursors
    pages         bigint NOT NULL,
    found         bigint NOT NULL,                     -- repositories or hosts named
    failed        bigint NOT NULL,                     -- requests without a page
    failures      integer NOT NULL,                    -- of these, since the last page
    tries         integer NOT NULL,                    -- of these, with this page_limit
    failing_since timestamptz,
    refusal       text,
    refusals      integer NOT NULL,
    refused_since timestamptz,
    detail        text NOT NULL,
    due           timestamptz NOT NULL,                -- open: of the next page; else: opened again
    lease_owner   text,
    lease_until   timestamptz,
    updated_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, listing)
);
CREATE INDEX searches_due ON searches (due) WHERE state = 'open';
CREATE INDEX searches_by_operation ON searches (operation);
-- Repositories that were listed, until they are synced or known to be gone.
CREATE TABLE found (
    did       text COLLATE "C" PRIMARY KEY,
    lane      integer NOT NULL,
    source    text NOT NULL,
    listing   text NOT NULL,
    host      text,                                    -- the host whose own listing it was
    found_at  timestamptz NOT NULL DEFAULT now(),
    tries     integer NOT NULL DEFAULT 0,
    next_try  timestamptz NOT NULL DEFAULT now(),
    failure   text,
    confirmed boolean NOT NULL DEFAULT false,          -- its document names a PDS (that host)
    operation text                                     -- the sync under way
);
CREATE INDEX found_due ON found (next_try) WHERE operation IS NULL;
CREATE INDEX found_under_way ON found (operation) WHERE operation IS NOT NULL;
CREATE INDEX found_unconfirmed ON found (source, tries) WHERE NOT confirmed;
