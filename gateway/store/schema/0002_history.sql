-- Months of readings on a card: packed hours, hourly figures, and the journal that drives both.
-- Version 1's code runs on this file: what it adds is marked by the triggers below.
INSERT INTO schema_versions (version, runs_on) VALUES (2, 1);

-- What arrived when: one row for each slice (an animal's hour of data) and hour of arrival. Three
-- walkers follow it: roll-up (1 h behind), packing (48 h), retention (90 days). Only the first
-- reading of a slice in an hour writes here, on the newest page.
CREATE TABLE arrived (
    arrival_hour INTEGER NOT NULL,       -- hours since 1970, never behind a closed hour
    hour INTEGER NOT NULL,
    animal INTEGER NOT NULL,
    PRIMARY KEY (arrival_hour, hour, animal)
) WITHOUT ROWID;
INSERT INTO arrived SELECT DISTINCT received_ms / 3600000, ts_ms / 3600000, animal FROM hot;

-- Slices that were left alone for 48 h: a reading is in `hot` or in the chunk of its slice.
CREATE TABLE chunks (
    slice INTEGER PRIMARY KEY,           -- hour * 65536 + animal: by time first, like `hot`
    rows_n INTEGER NOT NULL,
    arrival_hour INTEGER NOT NULL,       -- of the newest reading in it
    data BLOB NOT NULL                   -- checksum and bit-packed columns (store/chunks.py)
);

-- Chunks whose checksum was found wrong, out of everybody's way.
CREATE TABLE damaged_chunks (
    slice INTEGER PRIMARY KEY,
    rows_n INTEGER NOT NULL,
    found_ms INTEGER NOT NULL,
    data BLOB NOT NULL
);

-- Hourly figures of one animal's UTC day, of which the daily ones are sums (store/rollups.py).
CREATE TABLE rollups (
    day_animal INTEGER PRIMARY KEY,      -- day * 65536 + animal
    arrival_hour INTEGER NOT NULL,       -- of the newest reading in it
    data BLOB NOT NULL
);

-- `dirty.rev` from here on: 0 = changed since it was last taken for shipping, -n = taken under
-- claim n, so that a commit of readings need not rewrite it. Version 1 writes revs above 0.
UPDATE dirty SET rev = 0 WHERE hour > 0;
INSERT INTO meta (key, value) SELECT 'claims', rev FROM dirty WHERE hour = 0 AND animal = 0;

CREATE TRIGGER arrived_by_version_1 AFTER INSERT ON dirty WHEN NEW.rev > 0 AND NEW.hour > 0
BEGIN
    INSERT OR IGNORE INTO arrived (arrival_hour, hour, animal) VALUES (
        max(strftime('%s', 'now') / 3600, ifnull((SELECT value + 1 FROM meta WHERE key = 'closed_hour'), 0)),
        NEW.hour, NEW.animal);
END;
CREATE TRIGGER arrived_again_by_version_1 AFTER UPDATE ON dirty WHEN NEW.rev > 0 AND NEW.hour > 0
BEGIN
    INSERT OR IGNORE INTO arrived (arrival_hour, hour, animal) VALUES (
        max(strftime('%s', 'now') / 3600, ifnull((SELECT value + 1 FROM meta WHERE key = 'closed_hour'), 0)),
        NEW.hour, NEW.animal);
END;
