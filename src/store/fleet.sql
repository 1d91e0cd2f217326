-- By what others know this store.
INSERT INTO notes VALUES ('name', randomblob(16));
