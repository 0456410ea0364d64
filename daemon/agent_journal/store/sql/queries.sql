-- A statement each, named by the line before it; `--:` begins a name.  Those
-- whose name is a plural take any number of rows: their VALUES is repeated.

--: insert_rows
INSERT INTO log (position, data) VALUES (?, ?)

--: find_row
-- The row that holds a position.
SELECT position, data FROM log WHERE position <= ? ORDER BY position DESC LIMIT 1

--: rows_at
-- The rows that begin at the positions of a JSON array, in its order.
SELECT log.position, log.data FROM json_each(?) AS wanted
CROSS JOIN log ON log.position = wanted.value

--: rows_from
SELECT position, data FROM log WHERE position >= ? ORDER BY position

--: rows_before
SELECT position, data FROM log WHERE position < ? ORDER BY position DESC

--: replace_row
UPDATE log SET data = ? WHERE position = ?

--: delete_row
DELETE FROM log WHERE position = ?

--: put_agent
INSERT INTO agents (number, uid, agent_id, state, kind, epoch, attempts, reason,
                    first_position, created_at, updated_at, attachment, checksum,
                    command, command_checksum, next_sequence, last_iteration, key_high)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, '')
ON CONFLICT (number) DO UPDATE SET
    state = excluded.state, kind = excluded.kind, epoch = excluded.epoch,
    attempts = excluded.attempts, reason = excluded.reason,
    created_at = excluded.created_at, updated_at = excluded.updated_at,
    attachment = excluded.attachment, checksum = excluded.checksum,
    command = excluded.command, command_checksum = excluded.command_checksum

--: update_agent
-- A change that no entry tells of: the agent was last updated by its newest entry.
UPDATE agents SET
    state = ?, kind = ?, epoch = ?, attempts = ?, reason = ?, attachment = ?, checksum = ?,
    command = ?, command_checksum = ?
WHERE number = ?

--: renumber_agent
-- A compacted agent begins a new history.
UPDATE agents SET number = ?, state = ?, updated_at = ?, next_sequence = 0, last_iteration = 0, key_high = '',
    checksum = NULL
WHERE number = ?

--: checked_columns
SELECT number, uid, agent_id, state, kind, epoch, attempts, reason, attachment
FROM agents WHERE number = ?

--: put_checksum
UPDATE agents SET checksum = ? WHERE number = ?

--: settle_agents
WITH settled (number, next_sequence, last_iteration, updated_at, key_high)
    AS (VALUES (?, ?, ?, ?, ?))
UPDATE agents SET
    next_sequence = settled.next_sequence,
    last_iteration = max(agents.last_iteration, settled.last_iteration),
    updated_at = settled.updated_at,
    key_high = max(agents.key_high, settled.key_high)
FROM settled WHERE agents.number = settled.number

--: load_agent
SELECT uid, agent_id, number, state, kind, epoch, attempts, reason,
       first_position, created_at, updated_at, next_sequence, last_iteration, key_high, attachment,
       checksum, command, command_checksum
FROM agents WHERE uid = ? AND agent_id = ?

--: load_agent_by_number
-- Whose entry it is: asked for each of many, so without what may be large.
SELECT uid, agent_id, number, state, kind, epoch, attempts, reason,
       first_position, created_at, updated_at, next_sequence, last_iteration, key_high, NULL, checksum,
       NULL, NULL
FROM agents WHERE number = ?

--: agents_of_uid
SELECT uid, agent_id, number, state, kind, epoch, attempts, reason,
       first_position, created_at, updated_at, next_sequence, last_iteration, key_high, attachment,
       checksum, command, command_checksum
FROM agents WHERE uid = ? AND first_position > ? ORDER BY first_position LIMIT ?

--: agents_of_uid_in_state
SELECT uid, agent_id, number, state, kind, epoch, attempts, reason,
       first_position, created_at, updated_at, next_sequence, last_iteration, key_high, attachment,
       checksum, command, command_checksum
FROM agents INDEXED BY agents_by_state
WHERE uid = ? AND first_position > ? AND state = ? ORDER BY first_position LIMIT ?

--: agents_of_all
SELECT uid, agent_id, number, state, kind, epoch, attempts, reason,
       first_position, created_at, updated_at, next_sequence, last_iteration, key_high, attachment,
       checksum, command, command_checksum
FROM agents WHERE first_position > ? ORDER BY first_position LIMIT ?

--: newest_agents_of_uid
SELECT uid, agent_id, number, state, kind, epoch, attempts, reason,
       first_position, created_at, updated_at, next_sequence, last_iteration, key_high, attachment,
       checksum, command, command_checksum
FROM agents WHERE uid = ? AND first_position < ? ORDER BY first_position DESC LIMIT ?

--: newest_agents_of_uid_in_state
SELECT uid, agent_id, number, state, kind, epoch, attempts, reason,
       first_position, created_at, updated_at, next_sequence, last_iteration, key_high, attachment,
       checksum, command, command_checksum
FROM agents INDEXED BY agents_by_state
WHERE uid = ? AND first_position < ? AND state = ? ORDER BY first_position DESC LIMIT ?

--: newest_agents_of_all
SELECT uid, agent_id, number, state, kind, epoch, attempts, reason,
       first_position, created_at, updated_at, next_sequence, last_iteration, key_high, attachment,
       checksum, command, command_checksum
FROM agents WHERE first_position < ? ORDER BY first_position DESC LIMIT ?

--: agents_named
-- From an id on, before another: those that begin alike lie side by side.
SELECT uid, agent_id, number, state, kind, epoch, attempts, reason,
       first_position, created_at, updated_at, next_sequence, last_iteration, key_high, attachment,
       checksum, command, command_checksum
FROM agents WHERE uid = ? AND agent_id >= ? AND agent_id < ? ORDER BY agent_id LIMIT ?

--: agents_attached
-- What the index holds, and nothing else: it leads to as many pages as there are agents.
SELECT first_position, checksum, number, uid, agent_id, state, kind, epoch, attempts, reason,
       attachment
FROM agents INDEXED BY agents_attached
WHERE attachment IS NOT NULL AND first_position > ? ORDER BY first_position LIMIT ?

--: agents_with_commands
-- Or without: of those that are attached, in the order in which they are stored.
SELECT number, uid, agent_id, state, kind, epoch, attempts, reason, attachment, checksum
FROM agents NOT INDEXED WHERE attachment IS NOT NULL AND number > ? ORDER BY number LIMIT ?

--: move_command
UPDATE agents SET attachment = ?, checksum = ?, command = ?, command_checksum = ? WHERE number = ?

--: next_to_count
-- The first agent behind a place in the index, of those that began before a position.
SELECT state, uid, first_position FROM agents INDEXED BY agents_by_state
WHERE (state, uid, first_position) > (?, ?, ?) AND first_position < ?
ORDER BY state, uid, first_position LIMIT 1

--: count_agents
SELECT count(*), max(first_position) FROM (
    SELECT first_position FROM agents INDEXED BY agents_by_state
    WHERE state = ? AND uid = ? AND first_position >= ? AND first_position < ?
    ORDER BY first_position LIMIT ?)
--: ended_group
-- The first of an ended state whose kind is not before one ('' is that of none).
SELECT coalesce(kind, ''), updated_at FROM agents INDEXED BY agents_ended
WHERE state = ? AND state IN ('completed', 'failed', 'cancelled') AND coalesce(kind, '') >= ?
ORDER BY coalesce(kind, ''), updated_at LIMIT 1

--: agents_ended
SELECT uid, agent_id, number, state, kind, epoch, attempts, reason,
       first_position, created_at, updated_at, next_sequence, last_iteration, key_high, attachment,
       checksum, command, command_checksum
FROM agents INDEXED BY agents_ended
WHERE state = ? AND state IN ('completed', 'failed', 'cancelled') AND coalesce(kind, '') = ?
      AND updated_at < ?
ORDER BY updated_at LIMIT ?

--: ended_times
SELECT updated_at FROM agents INDEXED BY agents_ended
WHERE state = ? AND state IN ('completed', 'failed', 'cancelled') AND coalesce(kind, '') = ?
      AND updated_at >= ? AND updated_at < ?
ORDER BY updated_at LIMIT ?

--: ended_at
SELECT count(*) FROM agents INDEXED BY agents_ended
WHERE state = ? AND state IN ('completed', 'failed', 'cancelled') AND coalesce(kind, '') = ?
      AND updated_at = ?

--: remove_agent
DELETE FROM agents WHERE number = ?

--: raise_epoch_floor
INSERT INTO marks (name, value) VALUES (?, ?)
ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)

--: epoch_floors
SELECT name, value FROM marks WHERE name > 'epoch_floor:' AND name < 'epoch_floor;'

--: settled_sequence
SELECT next_sequence FROM agents WHERE number = ?

--: put_runs
INSERT OR REPLACE INTO runs (number, first_sequence, count, first_position, offsets, places)
VALUES (?, ?, ?, ?, ?, ?)

--: runs_from
-- The run that holds a sequence, and those behind it.
SELECT first_sequence, count, first_position, offsets, places FROM runs
WHERE number = ?1 AND first_sequence >= coalesce(
    (SELECT max(first_sequence) FROM runs WHERE number = ?1 AND first_sequence <= ?2), 0)
ORDER BY first_sequence LIMIT ?3

--: delete_run
DELETE FROM runs WHERE number = ? AND first_sequence = ?

--: put_keys
INSERT OR IGNORE INTO keys (number, key, sequence) VALUES (?, ?, ?)

--: find_key
SELECT sequence FROM keys WHERE number = ? AND key = ?

--: delete_keys
DELETE FROM keys WHERE number = ?1 AND key IN (SELECT key FROM keys WHERE number = ?1 LIMIT ?2)

--: doom
INSERT INTO doomed (number, next_position) VALUES (?, ?)

--: next_doomed
SELECT number FROM doomed WHERE next_position <= ? ORDER BY number LIMIT 1

--: is_doomed
SELECT 1 FROM doomed WHERE number = ?

--: any_doomed
-- But for what is being copied.
SELECT 1 FROM doomed WHERE next_position < 9223372036854775807 LIMIT 1

--: begin_copy
-- Nobody's history: doomed, but not before it is given up, unless an agent gets it.
INSERT INTO doomed (number, next_position) VALUES (?, 9223372036854775807)

--: give_up_copy
UPDATE doomed SET next_position = ? WHERE number = ?

--: give_up_copies
-- What was being copied when the daemon stopped.
UPDATE doomed SET next_position = ? WHERE next_position = 9223372036854775807

--: spare
DELETE FROM doomed WHERE number = ?

--: mark
SELECT value FROM marks WHERE name = ?

--: set_mark
UPDATE marks SET value = ? WHERE name = ?

--: last_row
SELECT position, data FROM log ORDER BY position DESC LIMIT 1

--: highest_number
SELECT max(coalesce((SELECT max(number) FROM agents), 0),
           coalesce((SELECT max(number) FROM doomed), 0),
           coalesce((SELECT max(number) FROM runs), 0))
