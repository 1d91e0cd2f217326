-- The name of this store in a fleet.
INSERT INTO notes VALUES ('name', randomblob(16));
