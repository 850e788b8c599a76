-- A user's keys are listed, and counted before another is made.
CREATE INDEX api_keys_by_user ON api_keys (json_extract(doc, '$.user'), id);
