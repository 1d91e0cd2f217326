-- Times that a mode of degradation was in force, each as the JSON that the admin side shows.
CREATE TABLE episodes (
    began INTEGER NOT NULL,
    mode TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (began, mode)
) WITHOUT ROWID;
