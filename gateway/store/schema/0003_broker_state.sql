-- What of the MQTT broker outlives a restart (store/broker_state.py). Version 1's and 2's code runs on this
-- file: it does not know these tables, and does not need them.
--
-- Bounded by the broker (drivers/broker/limits.py): 4000 sessions of about 60 bytes with their index,
-- 32 MiB waiting for all of them together, 16 MiB retained: 50 MiB, and 0.1 MiB for every 1000 filters.
INSERT INTO schema_versions (version, runs_on) VALUES (3, 1);

-- Persistent sessions. The number stands in the other tables instead of the client id.
CREATE TABLE broker_sessions (
    id INTEGER PRIMARY KEY,
    client_id TEXT NOT NULL UNIQUE,
    seen_ms INTEGER NOT NULL             -- last connect or disconnect, to an hour
);

CREATE TABLE broker_filters (
    id INTEGER PRIMARY KEY,
    session INTEGER NOT NULL,
    topic_filter TEXT NOT NULL,
    qos INTEGER NOT NULL,
    UNIQUE (session, topic_filter)
);

-- In the order they came, so that a commit adds to the last page whoever they wait for; of the index,
-- which leads to a session's queue, an entry is 10 bytes.
CREATE TABLE broker_waiting (
    id INTEGER PRIMARY KEY,
    session INTEGER NOT NULL,
    number INTEGER NOT NULL,             -- the order of the session's queue
    received INTEGER NOT NULL,           -- 1 = the client has said PUBREC
    qos INTEGER NOT NULL,
    retain INTEGER NOT NULL,
    topic TEXT NOT NULL,
    payload BLOB NOT NULL,
    UNIQUE (session, number)
);

-- Packet ids of QoS 2 publishes that their client has not released yet: 8 bytes each, so that those of
-- a whole herd stand on a few pages.
CREATE TABLE broker_received (
    session INTEGER NOT NULL,
    packet_id INTEGER NOT NULL,
    PRIMARY KEY (session, packet_id)
) WITHOUT ROWID;

-- Retained messages; a new one of a known topic writes the page it stands on and no index.
CREATE TABLE broker_retained (
    id INTEGER PRIMARY KEY,
    topic TEXT NOT NULL UNIQUE,
    qos INTEGER NOT NULL,
    payload BLOB NOT NULL
);
