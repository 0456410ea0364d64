-- How a client wants its agent to be started again, as JSON, and a checksum of that
-- and of whose it is.  It may be large, is written once and read to start an agent; so
-- it is apart from the attachment.  (Where that is from before, it may still hold it.)
ALTER TABLE agents ADD COLUMN command TEXT;
ALTER TABLE agents ADD COLUMN command_checksum INTEGER;

-- What the recovery at start reads: all that it asks of unfinished agents, in order.
-- None of it is changed by settling, so that does not write here.
DROP INDEX agents_attached;
CREATE INDEX agents_attached ON agents (
    first_position, uid, agent_id, state, kind, epoch, attempts, reason, attachment, checksum
) WHERE attachment IS NOT NULL;
