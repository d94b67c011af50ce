-- Where an operation's host had no place for it, so that claims pass over it while it has none.
ALTER TABLE operations ADD COLUMN host text;
