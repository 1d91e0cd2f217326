-- A partition belongs to one queue. A route that got another queue leaves jobs in the old one.
DROP INDEX jobs_ready;
CREATE INDEX jobs_ready ON jobs (queue, route, class, flow, seq) WHERE state = 'ready';
