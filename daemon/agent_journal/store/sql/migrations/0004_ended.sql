-- What retention reads: agents that have ended, of each state and kind by when.
CREATE INDEX agents_ended ON agents (state, coalesce(kind, ''), updated_at)
WHERE state IN ('completed', 'failed', 'cancelled');
