-- doubted: frames of the account may be missing behind the parked ones; once these are decided, the
-- repo is marked for resync.
ALTER TABLE parking ADD COLUMN doubted boolean NOT NULL DEFAULT false;

-- The scope of a lane is empty while its repos are compared with another one.  Earlier versions did
-- not write that down, so that each lane compares its repos once.
UPDATE lanes SET scope = '' WHERE scope IS NOT NULL;
