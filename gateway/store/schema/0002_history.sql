-- Months of readings on a card: packed hours, hourly figures, and the journal that drives both.
-- Version 1's code runs on this file: its tables `hot` and `dirty` stay for it, and what it puts there
-- is taken over when this version opens the store (store/takeover.py).
INSERT INTO schema_versions (version, runs_on) VALUES (2, 1);

-- Readings as they came, until they are packed. The key is a whole number, (ts_ms << 15) | animal, for
-- a B-tree of row ids is appended to at its end; the one of `hot` evens full pages out over three.
CREATE TABLE hot_readings (
    key INTEGER PRIMARY KEY,
    ts_ms INTEGER GENERATED ALWAYS AS (key >> 15) VIRTUAL,
    animal INTEGER GENERATED ALWAYS AS (key & 32767) VIRTUAL,
    temperature_centi INTEGER NOT NULL,  -- scaled as in `hot`
    fxa_milli INTEGER NOT NULL,
    mya_milli INTEGER NOT NULL,
    rza_milli INTEGER NOT NULL,
    sxg_centi INTEGER,
    lyg_centi INTEGER,
    dzg_centi INTEGER,
    state,
    motion_milli INTEGER,
    received_ms INTEGER NOT NULL,
    flags INTEGER NOT NULL
);

DROP VIEW sensor_data;                   -- made anew with the same columns, over both
CREATE VIEW sensor_data AS
SELECT
    a.cow_id AS cow_id,
    strftime('%Y-%m-%dT%H:%M:%S', h.ts_ms / 1000, 'unixepoch')
        || CASE WHEN h.ts_ms % 1000 THEN printf('.%03d', h.ts_ms % 1000) ELSE '' END || 'Z' AS timestamp,
    h.temperature_centi / 100.0 AS temperature,
    h.fxa_milli / 1000.0 AS fxa,
    h.mya_milli / 1000.0 AS mya,
    h.rza_milli / 1000.0 AS rza,
    h.sxg_centi / 100.0 AS sxg,
    h.lyg_centi / 100.0 AS lyg,
    h.dzg_centi / 100.0 AS dzg,
    CASE typeof(h.state) WHEN 'integer' THEN (SELECT s.word FROM states s WHERE s.id = h.state)
        ELSE h.state END AS state,
    h.motion_milli / 1000.0 AS motion_intensity,
    strftime('%Y-%m-%dT%H:%M:%S', h.received_ms / 1000, 'unixepoch')
        || CASE WHEN h.received_ms % 1000 THEN printf('.%03d', h.received_ms % 1000) ELSE '' END
        || 'Z' AS received_at,
    h.ts_ms AS timestamp_ms              -- exact order inside one second
FROM (
    SELECT ts_ms, animal, temperature_centi, fxa_milli, mya_milli, rza_milli, sxg_centi, lyg_centi,
        dzg_centi, state, motion_milli, received_ms FROM hot_readings
    UNION ALL
    SELECT ts_ms, animal, temperature_centi, fxa_milli, mya_milli, rza_milli, sxg_centi, lyg_centi,
        dzg_centi, state, motion_milli, received_ms FROM hot
) h JOIN animals a ON a.id = h.animal;

-- What arrived when: one row for each slice (an animal's hour of data) and hour of arrival. Three
-- walkers follow it: roll-up (1 h behind), packing (48 h), retention (90 days). Only the first
-- reading of a slice in an hour writes here, on the newest page.
CREATE TABLE arrived (
    arrival_hour INTEGER NOT NULL,       -- hours since 1970, never behind a closed hour
    hour INTEGER NOT NULL,
    animal INTEGER NOT NULL,
    PRIMARY KEY (arrival_hour, hour, animal)
) WITHOUT ROWID;

-- Slices that were left alone for 48 h: a reading is in `hot_readings` or in the chunk of its slice.
CREATE TABLE chunks (
    slice INTEGER PRIMARY KEY,           -- hour * 65536 + animal: by time first
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

-- Slices that a bulk destination has not got yet, instead of `dirty`: a commit writes here only when
-- its slice was not in it already. claim: 0 = changed since it was last taken for shipping, else the
-- number under which it was taken.
CREATE TABLE undelivered (
    hour INTEGER NOT NULL,
    animal INTEGER NOT NULL,
    claim INTEGER NOT NULL,
    PRIMARY KEY (hour, animal)
) WITHOUT ROWID;
INSERT INTO meta (key, value) SELECT 'claims', rev FROM dirty WHERE hour = 0 AND animal = 0;
