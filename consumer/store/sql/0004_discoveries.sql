-- Listings of the relay that were, or are to be, searched for repositories with wanted records:
-- a collection's NSID, '*' for all repositories, or '#sweep' for the comparison of revisions.
CREATE TABLE discoveries (
    listing   text PRIMARY KEY,
    operation text        NOT NULL,
    completed boolean     NOT NULL DEFAULT false,
    due       timestamptz NOT NULL DEFAULT now()  -- of the next attempt, if it is to be repeated
);
