-- Roll-ups of calls. The id of a row is the time in units of its resolution * 4096 + the series, so
-- that new rows are appended and a point is found by its id.
CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    route TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    seen INTEGER NOT NULL,
    UNIQUE (route, provider, model)
);
CREATE TABLE rollups_10s (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE rollups_1m (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE rollups_1h (id INTEGER PRIMARY KEY, data BLOB NOT NULL);

-- Bytes of all roll-ups, kept by triggers. A row takes about 10 bytes beside its data.
CREATE TABLE rollup_bytes (only INTEGER PRIMARY KEY CHECK (only = 1), bytes INTEGER NOT NULL);
INSERT INTO rollup_bytes VALUES (1, 0);
CREATE TRIGGER rollup_10s_in AFTER INSERT ON rollups_10s BEGIN
    UPDATE rollup_bytes SET bytes = bytes + 10 + length(new.data);
END;
CREATE TRIGGER rollup_10s_out AFTER DELETE ON rollups_10s BEGIN
    UPDATE rollup_bytes SET bytes = bytes - 10 - length(old.data);
END;
CREATE TRIGGER rollup_1m_in AFTER INSERT ON rollups_1m BEGIN
    UPDATE rollup_bytes SET bytes = bytes + 10 + length(new.data);
END;
CREATE TRIGGER rollup_1m_out AFTER DELETE ON rollups_1m BEGIN
    UPDATE rollup_bytes SET bytes = bytes - 10 - length(old.data);
END;
CREATE TRIGGER rollup_1h_in AFTER INSERT ON rollups_1h BEGIN
    UPDATE rollup_bytes SET bytes = bytes + 10 + length(new.data);
END;
CREATE TRIGGER rollup_1h_out AFTER DELETE ON rollups_1h BEGIN
    UPDATE rollup_bytes SET bytes = bytes - 10 - length(old.data);
END;

-- What the detectors of a series have learned.
CREATE TABLE series_baselines (
    series INTEGER PRIMARY KEY REFERENCES series ON DELETE CASCADE,
    saved INTEGER NOT NULL,
    state BLOB NOT NULL
);

-- Regressions and recoveries, each as the JSON of the admin API.
CREATE TABLE regressions (seq INTEGER PRIMARY KEY AUTOINCREMENT, record TEXT NOT NULL);
