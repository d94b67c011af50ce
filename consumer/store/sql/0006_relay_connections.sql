-- What the tailer last said of its connection to a relay, for people and status.
CREATE TABLE relay_connections (
    relay      text PRIMARY KEY,
    connected  boolean NOT NULL,
    since      timestamptz NOT NULL,               -- of this state
    reason     text NOT NULL DEFAULT '',           -- why it is not connected
    updated_at timestamptz NOT NULL DEFAULT now()  -- old: no tailer runs any more
);
