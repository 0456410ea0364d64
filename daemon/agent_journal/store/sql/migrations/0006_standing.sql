-- What the recovery at start reads: all that it asks of unfinished agents, in order.
-- None of it is changed by settling, so that does not write here.
DROP INDEX agents_attached;
CREATE INDEX agents_attached ON agents (
    first_position, uid, agent_id, state, kind, epoch, attempts, reason, attachment, checksum
) WHERE attachment IS NOT NULL;
