-- What readings say, and how spread the distributions were that tokens were drawn from.
ALTER TABLE attempts ADD COLUMN entropy_sum REAL NOT NULL DEFAULT 0;
ALTER TABLE attempts ADD COLUMN findings_json TEXT;
