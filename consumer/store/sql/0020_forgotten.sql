-- Accounts that an operator has forgotten: the incarnation with which they come back.
CREATE TABLE forgotten (
    did          text COLLATE "C" PRIMARY KEY,
    lane         integer NOT NULL,
    incarnation  bigint  NOT NULL,
    forgotten_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX forgotten_by_lane ON forgotten (lane);
