-- Syncs that ask for the latest commit first, and end there where the repository is in step.
ALTER TABLE operations ADD COLUMN check_first boolean NOT NULL DEFAULT false;
