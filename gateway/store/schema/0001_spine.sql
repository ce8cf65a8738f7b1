-- Readings, alerts, outbox, dead letters. Migrations only expand (decision 42).
-- Times are UTC epoch milliseconds; the views show them as ISO text.

-- Which code may run on a file: a migration that older code can live with says so here.
CREATE TABLE schema_versions (
    version INTEGER PRIMARY KEY,
    runs_on INTEGER NOT NULL          -- the oldest code's schema version that may use this file
);
INSERT INTO schema_versions (version, runs_on) VALUES (1, 1);

-- gateway_id, epoch and counters.
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value NOT NULL
) WITHOUT ROWID;

-- cow_id <-> small integer. first_hour and last_hour (hours since 1970) bound where to look for
-- the animal's readings; they change at most once an hour, so they cost the card nothing.
CREATE TABLE animals (
    id INTEGER PRIMARY KEY,
    cow_id TEXT NOT NULL UNIQUE,
    first_hour INTEGER NOT NULL,
    last_hour INTEGER NOT NULL
);

-- Usual words of a collar's `state`, stored as a number; any other word is stored as text.
CREATE TABLE states (
    id INTEGER PRIMARY KEY,
    word TEXT NOT NULL UNIQUE
);
INSERT INTO states (id, word) VALUES
    (1, 'lying'), (2, 'standing'), (3, 'walking'), (4, 'feeding'), (5, 'ruminating'), (6, 'drinking');

-- Keyed by time first: a commit touches the newest page, not one page per animal.
CREATE TABLE hot (
    ts_ms INTEGER NOT NULL,
    animal INTEGER NOT NULL,
    temperature_centi INTEGER NOT NULL,  -- 1/100 degC
    fxa_milli INTEGER NOT NULL,          -- 1/1000 g
    mya_milli INTEGER NOT NULL,
    rza_milli INTEGER NOT NULL,
    sxg_centi INTEGER,                   -- 1/100 deg/s
    lyg_centi INTEGER,
    dzg_centi INTEGER,
    state,                               -- states.id, or the word itself (no affinity: '1' stays text)
    motion_milli INTEGER,                -- 1/1000 of the collar's own motion_intensity
    received_ms INTEGER NOT NULL,
    flags INTEGER NOT NULL,
    PRIMARY KEY (ts_ms, animal)
) WITHOUT ROWID;

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
FROM hot h JOIN animals a ON a.id = h.animal;

-- What bulk destinations have not got yet. Row (0, 0) holds the last rev given out: it stands here
-- because this page is written by the commit anyway (another table would cost 4 KB a commit).
CREATE TABLE dirty (
    hour INTEGER NOT NULL,               -- hours since 1970; a reading's is > 0 (2000-01-01 on)
    animal INTEGER NOT NULL,
    rev INTEGER NOT NULL,
    PRIMARY KEY (hour, animal)
) WITHOUT ROWID;
INSERT INTO dirty (hour, animal, rev) VALUES (0, 0, 0);

CREATE TABLE alert_episodes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    subject TEXT NOT NULL,
    kind TEXT NOT NULL,
    episode INTEGER NOT NULL,
    severity INTEGER NOT NULL,           -- 1 info, 2 warning, 3 critical
    state TEXT NOT NULL,
    onset_ms INTEGER NOT NULL,
    last_seen_ms INTEGER NOT NULL,
    raised_ms INTEGER NOT NULL,
    changed_ms INTEGER NOT NULL,
    confidence REAL NOT NULL,
    sentence TEXT NOT NULL,
    evidence TEXT NOT NULL,              -- JSON
    detail TEXT NOT NULL,
    clear_n INTEGER NOT NULL,
    late INTEGER NOT NULL,
    ended_ms INTEGER,
    UNIQUE (subject, kind, episode)
);
CREATE INDEX alert_episodes_open ON alert_episodes (id) WHERE state IN ('active', 'acknowledged');

CREATE VIEW alerts AS
SELECT
    id,
    subject AS cow_id,
    strftime('%Y-%m-%dT%H:%M:%S', onset_ms / 1000, 'unixepoch')
        || CASE WHEN onset_ms % 1000 THEN printf('.%03d', onset_ms % 1000) ELSE '' END || 'Z' AS timestamp,
    kind AS alert_type,
    CASE severity WHEN 1 THEN 'info' WHEN 2 THEN 'warning' WHEN 3 THEN 'critical' END AS severity,
    state AS status,
    confidence,
    sentence AS message,
    detail,
    episode,
    evidence AS details,
    late,
    strftime('%Y-%m-%dT%H:%M:%SZ', raised_ms / 1000, 'unixepoch') AS raised_at,
    strftime('%Y-%m-%dT%H:%M:%SZ', last_seen_ms / 1000, 'unixepoch') AS last_seen,
    strftime('%Y-%m-%dT%H:%M:%SZ', ended_ms / 1000, 'unixepoch') AS ended_at,
    onset_ms AS timestamp_ms
FROM alert_episodes;

CREATE TABLE alert_history (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    alert_id INTEGER NOT NULL REFERENCES alert_episodes (id),
    at_ms INTEGER NOT NULL,
    from_state TEXT NOT NULL,
    to_state TEXT NOT NULL,
    severity INTEGER NOT NULL,
    who TEXT NOT NULL,
    origin TEXT NOT NULL,
    reason TEXT NOT NULL
);
CREATE INDEX alert_history_by_alert ON alert_history (alert_id);

-- AUTOINCREMENT: a seq is never given out twice, whatever retention deletes.
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    payload BLOB NOT NULL
);
CREATE TABLE cursors (
    destination TEXT PRIMARY KEY,
    seq INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    received_ms INTEGER NOT NULL,
    topic TEXT NOT NULL,
    payload BLOB NOT NULL,
    client_id TEXT NOT NULL,
    reason TEXT NOT NULL,
    text TEXT NOT NULL,
    cow_id TEXT
);
CREATE INDEX dead_letters_by_arrival ON dead_letters (received_ms);  -- retention; and counting without payloads
