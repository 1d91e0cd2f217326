-- A line is of one queue: a route that was given another queue leaves jobs in the old one.
DROP INDEX jobs_ready;
CREATE INDEX jobs_ready ON jobs (queue, route, class, flow, seq) WHERE state = 'ready';
