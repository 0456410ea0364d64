-- The journal.  Read store/rows.py for what a row of the log holds, and
-- store/unsettled.py for why the index trails behind the log.

-- Every entry, in commit order; a row begins at its position.
CREATE TABLE log (
    position INTEGER PRIMARY KEY,
    data     BLOB NOT NULL
) STRICT;

-- Every agent; number is the identity of its present history.
CREATE TABLE agents (
    number         INTEGER PRIMARY KEY,
    uid            INTEGER NOT NULL,
    agent_id       TEXT    NOT NULL,
    state          TEXT    NOT NULL,
    kind           TEXT,
    epoch          INTEGER NOT NULL,
    attempts       INTEGER NOT NULL,
    reason         TEXT,
    first_position INTEGER NOT NULL,
    created_at     INTEGER NOT NULL,
    updated_at     INTEGER NOT NULL,
    next_sequence  INTEGER NOT NULL,  -- as far as it is settled, like the two below
    last_iteration INTEGER NOT NULL,
    key_high       TEXT    NOT NULL,
    UNIQUE (uid, agent_id)
) STRICT;

CREATE INDEX agents_by_uid ON agents (uid, first_position);
CREATE INDEX agents_by_state ON agents (state, uid, first_position);
CREATE UNIQUE INDEX agents_by_position ON agents (first_position);

-- Where the entries of a history lie: runs of sequences and their positions.
CREATE TABLE runs (
    number         INTEGER NOT NULL,
    first_sequence INTEGER NOT NULL,
    count          INTEGER NOT NULL,
    first_position INTEGER NOT NULL,
    offsets        BLOB    NOT NULL,  -- of each position to the first; empty: neighbours
    places         BLOB    NOT NULL,  -- of each entry in its row of the log
    PRIMARY KEY (number, first_sequence)
) STRICT, WITHOUT ROWID;

-- The idempotency keys that were used.
CREATE TABLE keys (
    number   INTEGER NOT NULL,
    key      TEXT    NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (number, key)
) STRICT, WITHOUT ROWID;

-- Histories that were compacted and whose entries are still to be removed;
-- everything before next_position has to be settled first.
CREATE TABLE doomed (
    number        INTEGER PRIMARY KEY,
    next_position INTEGER NOT NULL
) STRICT;

-- settled_position: the index covers everything before it.
-- next_position: a floor, so that a position is never given twice even after
-- the newest rows of the log were removed.
CREATE TABLE marks (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO marks VALUES ('settled_position', 0), ('next_position', 0);
