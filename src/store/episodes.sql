-- Episodes of degradation modes, each as the JSON of the admin API.
CREATE TABLE episodes (
    began INTEGER NOT NULL,
    mode TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (began, mode)
) WITHOUT ROWID;
