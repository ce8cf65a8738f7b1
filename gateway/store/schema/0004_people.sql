-- What reaches people: who was told of what, what is silenced. Versions 1 to 3 run on this file: they
-- leave the new columns at their defaults and do not know the tables.
INSERT INTO schema_versions (version, runs_on) VALUES (4, 1);

ALTER TABLE alert_episodes ADD COLUMN told_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE alert_episodes ADD COLUMN reminders INTEGER NOT NULL DEFAULT 0;
ALTER TABLE alert_episodes ADD COLUMN folded_into TEXT NOT NULL DEFAULT '';

-- Sound and messages rest; at most a few hundred, ended ones are kept as long as alerts.
CREATE TABLE silences (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    subject TEXT,                        -- NULL: all
    kind TEXT,                           -- NULL: all
    from_ms INTEGER NOT NULL,
    until_ms INTEGER NOT NULL,
    who TEXT NOT NULL,
    origin TEXT NOT NULL,
    reason TEXT NOT NULL,
    ended_ms INTEGER,                    -- NULL: holds
    ended_by TEXT NOT NULL DEFAULT ''    -- who ended it before its time
);
CREATE INDEX silences_holding ON silences (id) WHERE ended_ms IS NULL;

-- What became of an outbox event for one person on one channel. A row is written when the service has
-- taken the message (sent), or when the event was told together with others (digest) or was not to be
-- told (dropped: refused for good). The channel's cursor passes an event
-- once nothing of it is left to do.
CREATE TABLE notices (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    channel TEXT NOT NULL,
    seq INTEGER NOT NULL,                -- events.seq
    contact TEXT NOT NULL,
    outcome TEXT NOT NULL,               -- sent, digest, dropped
    at_ms INTEGER NOT NULL,
    alert_id INTEGER,                    -- NULL: not about one alert (daily summary)
    address TEXT NOT NULL,
    UNIQUE (channel, seq, contact, address)
);
CREATE INDEX notices_by_alert ON notices (alert_id);
CREATE INDEX notices_by_time ON notices (at_ms);
