-- Runs of benchmarks. `report` is the JSON of the admin API without the parts in `benchmark_details`.
CREATE TABLE benchmark_runs (
    id TEXT PRIMARY KEY,
    benchmark TEXT NOT NULL,
    target TEXT NOT NULL,
    state TEXT NOT NULL,
    scheduled INTEGER NOT NULL,
    began INTEGER NOT NULL,
    ended INTEGER,
    bytes INTEGER NOT NULL,
    report TEXT NOT NULL
);
CREATE INDEX benchmark_runs_newest ON benchmark_runs (benchmark, id, bytes);
CREATE TABLE benchmark_details (
    id TEXT PRIMARY KEY REFERENCES benchmark_runs ON DELETE CASCADE,
    details TEXT NOT NULL,
    blocks BLOB NOT NULL
);
CREATE TABLE benchmark_baselines (
    benchmark TEXT PRIMARY KEY,
    run TEXT NOT NULL REFERENCES benchmark_runs
) WITHOUT ROWID;
