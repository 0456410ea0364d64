-- From here on a journal is not served without its page sums (store/page_sums.py),
-- the rows of the log carry checksums (store/rows.py), and no row is missing:
-- where all entries of some rows were removed, a cleared row takes their place.

-- whole_from: the position from which on that is so.
INSERT INTO marks
SELECT 'whole_from', max(
    coalesce((SELECT max(position) FROM log), 0),
    (SELECT value FROM marks WHERE name = 'next_position')
);

-- Of what of an agent does not change with each entry (store/records.py); NULL in
-- rows from before.
ALTER TABLE agents ADD COLUMN checksum INTEGER;
