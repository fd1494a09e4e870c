-- What guards found and did: kinds of entities, counts and scores, never the text that was found.
ALTER TABLE requests ADD COLUMN guards_json TEXT;
