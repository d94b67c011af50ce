-- The tables of one deployment.  Runs with search_path set to the deployment's schema, whose
-- name is derived from the topic prefix, so that two deployments can share one database.

CREATE TABLE deployment (
    one_row    boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    cluster_id text    NOT NULL,
    prefix     text    NOT NULL,
    partitions integer NOT NULL
);

-- A lane is one worker partition (0 … n-1), or the controller (n).
-- Offsets are the next to be read; token is the owner's proof of ownership (compare-and-set).
CREATE TABLE lanes (
    lane            integer PRIMARY KEY,
    token           uuid    NOT NULL,
    firehose_offset bigint  NOT NULL DEFAULT 0,
    backfill_offset bigint  NOT NULL DEFAULT 0,
    control_offset  bigint  NOT NULL DEFAULT 0,
    session         bigint  NOT NULL DEFAULT 0,
    last_seq        bigint  NOT NULL DEFAULT 0,
    last_out_seq    bigint  NOT NULL DEFAULT 0,
    stalls          integer NOT NULL DEFAULT 0,
    scope           bytea
);

CREATE TABLE repos (
    did              text COLLATE "C" PRIMARY KEY,
    lane             integer NOT NULL,
    status           text    NOT NULL DEFAULT 'active',
    status_session   bigint  NOT NULL DEFAULT 0,
    status_seq       bigint  NOT NULL DEFAULT 0,
    sync_state       text    NOT NULL,
    reason           text,
    rev              text COLLATE "C",
    data             bytea,
    gap_rev          text COLLATE "C",
    hint_rev         text COLLATE "C",
    floor_rev        text COLLATE "C",
    proof_rev        text COLLATE "C",
    want             bigint  NOT NULL DEFAULT 0,
    incarnation      integer NOT NULL DEFAULT 0,
    complete         boolean NOT NULL DEFAULT false,
    scope            bytea,
    pds              text,
    -- progress of the snapshot being applied: which attempt, at which rev, through which path
    snapshot_operation text,
    snapshot_attempt integer,
    snapshot_rev     text COLLATE "C",
    snapshot_through text COLLATE "C",
    retry_at         timestamptz,
    first_seen       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX repos_by_lane ON repos (lane);

-- cid null: a tombstone, the path is known to be gone at rev.
CREATE TABLE records (
    did  text COLLATE "C" NOT NULL,
    path text COLLATE "C" NOT NULL,
    cid  bytea,
    rev  text COLLATE "C" NOT NULL,
    PRIMARY KEY (did, path)
);

CREATE TABLE identities (
    did         text COLLATE "C" PRIMARY KEY,
    signing_key text,
    pds         text,
    handle      text,
    error       text,
    fetched_at  timestamptz NOT NULL
);

-- Questions to the fetcher; the answer comes back on chive.backfill.
CREATE TABLE lookups (
    did         text COLLATE "C" NOT NULL,
    kind        text    NOT NULL CHECK (kind IN ('identity', 'account')),
    lane        integer NOT NULL,
    session     bigint  NOT NULL DEFAULT 0,
    seq         bigint  NOT NULL DEFAULT 0,
    version     bigint  NOT NULL DEFAULT 1,
    attempts    integer NOT NULL DEFAULT 0,
    run_after   timestamptz NOT NULL DEFAULT now(),
    lease_until timestamptz,
    error       text,
    PRIMARY KEY (did, kind)
);
CREATE INDEX lookups_due ON lookups (run_after);

-- Frames that wait for their account's key, in order; later frames of that DID wait behind.
CREATE TABLE parked (
    did        text COLLATE "C" NOT NULL,
    lane       integer NOT NULL,
    log_offset bigint  NOT NULL,
    log_time   bigint  NOT NULL,
    seq        bigint  NOT NULL,
    session    bigint  NOT NULL,
    relay      text    NOT NULL,
    frame      bytea   NOT NULL,
    PRIMARY KEY (did, log_offset)
);

-- One row per DID with parked frames; ready: an answer has come, try them again.
CREATE TABLE parking (
    did   text COLLATE "C" PRIMARY KEY,
    lane  integer NOT NULL,
    ready boolean NOT NULL DEFAULT false
);
CREATE INDEX parking_by_lane ON parking (lane);

CREATE TABLE operations (
    id                text PRIMARY KEY,
    type              text NOT NULL,
    did               text COLLATE "C" NOT NULL,
    lane              integer NOT NULL,
    uri               text,
    status            text NOT NULL DEFAULT 'queued',
    phase             text,
    reason            text,
    automatic         boolean NOT NULL,
    emit_all          boolean NOT NULL DEFAULT false,
    want              bigint  NOT NULL DEFAULT 0,
    same_as           text,
    progress          integer NOT NULL DEFAULT 0,
    records_processed bigint  NOT NULL DEFAULT 0,
    total_records     bigint,
    created           bigint  NOT NULL DEFAULT 0,
    updated           bigint  NOT NULL DEFAULT 0,
    deleted           bigint  NOT NULL DEFAULT 0,
    attempts          integer NOT NULL DEFAULT 0,
    run_after         timestamptz NOT NULL DEFAULT now(),
    lease_owner       text,
    lease_until       timestamptz,
    requested_by      text,
    error             text,
    new_cid           text,
    version           bigint  NOT NULL DEFAULT 1,
    published_version bigint  NOT NULL DEFAULT 0,
    requested_at      timestamptz NOT NULL DEFAULT now(),
    started_at        timestamptz,
    completed_at      timestamptz
);
CREATE INDEX operations_due ON operations (run_after) WHERE status = 'queued';
-- At most one automatic sync of a DID is open at a time.
CREATE UNIQUE INDEX operations_one_automatic ON operations (did)
    WHERE automatic AND type = 'didSync' AND status = 'queued';
CREATE INDEX operations_unpublished ON operations (lane) WHERE published_version < version;

-- Decided, not yet in Kafka.  headers alternates names and values.
CREATE TABLE outbox (
    lane      integer NOT NULL,
    out_seq   bigint  NOT NULL,
    topic     text    NOT NULL,
    partition integer NOT NULL,
    key       bytea,
    headers   bytea[] NOT NULL DEFAULT '{}',
    value     bytea,
    PRIMARY KEY (lane, out_seq)
);

-- A mirror of chive.cursor for people and status; the topic is the truth.
CREATE TABLE cursors (
    relay      text PRIMARY KEY,
    seq        bigint NOT NULL,
    time       timestamptz,
    session    bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);
