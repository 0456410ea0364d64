-- How a client wants its agent to be started again, as JSON, and a checksum of that
-- and of whose it is.  It may be large, is written once and read to start an agent; so
-- it is apart from the attachment, where it was before (store/commands_apart.py).
ALTER TABLE agents ADD COLUMN command TEXT;
ALTER TABLE agents ADD COLUMN command_checksum INTEGER;
