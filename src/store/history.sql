-- Samples of metrics: a row has all series of one metric at one time, by their numbers in
-- `sample_series`. The id of a row is its time in units of its resolution, and 8 bits: one more than
-- the number of the metric, or 0 for the row that says how much of the time was sampled.
CREATE TABLE sample_series (
    id INTEGER PRIMARY KEY,
    metric INTEGER NOT NULL,
    labels TEXT NOT NULL,
    seen INTEGER NOT NULL,
    UNIQUE (metric, labels)
);
CREATE TABLE samples_10s (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE samples_1m (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE samples_1h (id INTEGER PRIMARY KEY, data BLOB NOT NULL);

-- Bytes of all samples, kept by triggers. A row takes about 10 bytes beside its data.
CREATE TABLE sample_bytes (only INTEGER PRIMARY KEY CHECK (only = 1), bytes INTEGER NOT NULL);
INSERT INTO sample_bytes VALUES (1, 0);
CREATE TRIGGER samples_10s_in AFTER INSERT ON samples_10s BEGIN
    UPDATE sample_bytes SET bytes = bytes + 10 + length(new.data);
END;
CREATE TRIGGER samples_10s_out AFTER DELETE ON samples_10s BEGIN
    UPDATE sample_bytes SET bytes = bytes - 10 - length(old.data);
END;
CREATE TRIGGER samples_1m_in AFTER INSERT ON samples_1m BEGIN
    UPDATE sample_bytes SET bytes = bytes + 10 + length(new.data);
END;
CREATE TRIGGER samples_1m_out AFTER DELETE ON samples_1m BEGIN
    UPDATE sample_bytes SET bytes = bytes - 10 - length(old.data);
END;
CREATE TRIGGER samples_1h_in AFTER INSERT ON samples_1h BEGIN
    UPDATE sample_bytes SET bytes = bytes + 10 + length(new.data);
END;
CREATE TRIGGER samples_1h_out AFTER DELETE ON samples_1h BEGIN
    UPDATE sample_bytes SET bytes = bytes - 10 - length(old.data);
END;

-- Events, each as the JSON of the admin API. The id is that of the event.
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    record TEXT NOT NULL
);
CREATE TABLE event_sizes (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    events INTEGER NOT NULL,
    bytes INTEGER NOT NULL
);
INSERT INTO event_sizes VALUES (1, 0, 0);
CREATE TRIGGER event_in AFTER INSERT ON events BEGIN
    UPDATE event_sizes SET events = events + 1,
        bytes = bytes + 20 + length(new.kind) + length(new.key) + length(new.record);
END;
CREATE TRIGGER event_out AFTER DELETE ON events BEGIN
    UPDATE event_sizes SET events = events - 1,
        bytes = bytes - 20 - length(old.kind) - length(old.key) - length(old.record);
END;
