-- Jobs. Bodies are in tables of their own, so that a change of state does not write them again.
CREATE TABLE jobs (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id BLOB NOT NULL UNIQUE,
  queue TEXT NOT NULL,
  route TEXT NOT NULL,
  class TEXT NOT NULL,
  flow BLOB NOT NULL,
  principal BLOB NOT NULL,
  state TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0,
  deliveries INTEGER NOT NULL DEFAULT 0,
  lease INTEGER NOT NULL DEFAULT 0,
  accepted INTEGER NOT NULL,
  due INTEGER,
  expires INTEGER NOT NULL,
  keep INTEGER NOT NULL,
  finished INTEGER,
  forget INTEGER,
  error TEXT
);
CREATE INDEX jobs_ready ON jobs (route, class, flow, seq) WHERE state = 'ready';
CREATE INDEX jobs_due ON jobs (due) WHERE state = 'retry_wait';
CREATE INDEX jobs_expires ON jobs (expires) WHERE state IN ('ready', 'retry_wait');
CREATE INDEX jobs_forget ON jobs (forget) WHERE forget IS NOT NULL;
CREATE INDEX jobs_state ON jobs (queue, state, seq);

CREATE TABLE requests (
  seq INTEGER PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
  method TEXT NOT NULL,
  uri TEXT NOT NULL,
  headers BLOB NOT NULL,
  body BLOB NOT NULL
);

CREATE TABLE results (
  seq INTEGER PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
  status INTEGER NOT NULL,
  headers BLOB NOT NULL,
  body BLOB NOT NULL,
  cut INTEGER NOT NULL
);

CREATE TABLE callbacks (
  seq INTEGER PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
  url TEXT NOT NULL,
  state TEXT NOT NULL DEFAULT 'none',
  attempts INTEGER NOT NULL DEFAULT 0,
  due INTEGER
);
CREATE INDEX callbacks_due ON callbacks (due) WHERE state = 'waiting';

-- Idempotency keys; each belongs to its principal.
CREATE TABLE keys (
  principal BLOB NOT NULL,
  key TEXT NOT NULL,
  fingerprint BLOB NOT NULL,
  id BLOB NOT NULL,
  forget INTEGER NOT NULL,
  PRIMARY KEY (principal, key)
) WITHOUT ROWID;
CREATE INDEX keys_forget ON keys (forget);

-- Values that were created together with the store.
CREATE TABLE notes (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
INSERT INTO notes VALUES ('principal_key', randomblob(32));

-- Numbers of jobs, kept by triggers: each enqueue reads them.
CREATE TABLE totals (
  queue TEXT NOT NULL,
  state TEXT NOT NULL,
  jobs INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  PRIMARY KEY (queue, state)
) WITHOUT ROWID;
CREATE TRIGGER job_in AFTER INSERT ON jobs BEGIN
  INSERT INTO totals VALUES (new.queue, new.state, 1, new.bytes)
  ON CONFLICT DO UPDATE SET jobs = jobs + 1, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER job_moves AFTER UPDATE OF state ON jobs BEGIN
  UPDATE totals SET jobs = jobs - 1, bytes = bytes - old.bytes
  WHERE queue = old.queue AND state = old.state;
  INSERT INTO totals VALUES (new.queue, new.state, 1, new.bytes)
  ON CONFLICT DO UPDATE SET jobs = jobs + 1, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER job_out AFTER DELETE ON jobs BEGIN
  UPDATE totals SET jobs = jobs - 1, bytes = bytes - old.bytes
  WHERE queue = old.queue AND state = old.state;
END;

-- For reading with the sqlite3 command.
CREATE VIEW job_overview AS
SELECT lower(hex(j.id)) AS id, j.queue, j.route, j.class, j.state, r.method, r.uri, j.bytes,
  j.attempts, j.deliveries,
  datetime(j.accepted / 1000, 'unixepoch') AS accepted,
  datetime(j.due / 1000, 'unixepoch') AS due,
  datetime(j.expires / 1000, 'unixepoch') AS expires,
  datetime(j.finished / 1000, 'unixepoch') AS finished, j.error
FROM jobs j JOIN requests r USING (seq);
