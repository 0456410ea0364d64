-- Who holds an agent and how it is started again (store/attachment.py), as JSON;
-- an agent that nobody ever attached to, or that has ended, has none.
ALTER TABLE agents ADD COLUMN attachment TEXT;

-- What the recovery at start reads: unfinished agents, in order.
CREATE INDEX agents_attached ON agents (first_position) WHERE attachment IS NOT NULL;
