-- The record of requests. Rows are only ever added, never changed or removed.
-- Plain SQL that SQLite and PostgreSQL both read; truth values are 0 and 1.

CREATE TABLE requests (
    id TEXT NOT NULL PRIMARY KEY,
    arrived_unix_ms BIGINT NOT NULL,
    tenant TEXT,
    -- The validated request as JSON; without its texts unless the ledger keeps them.
    request_json TEXT NOT NULL,
    -- Of the input's text, lower-case hexadecimal; NULL where the ledger keeps no hashes.
    prompt_sha256 TEXT,
    policy TEXT NOT NULL,
    route TEXT NOT NULL,
    status INTEGER NOT NULL,
    error TEXT,
    client_gone INTEGER NOT NULL,
    -- Which attempt's text the client got; its ordinal in attempts.
    answered INTEGER,
    confidence DOUBLE PRECISION,
    cost_usd DOUBLE PRECISION NOT NULL,
    saved_usd DOUBLE PRECISION NOT NULL,
    overhead_ms DOUBLE PRECISION NOT NULL,
    first_token_ms DOUBLE PRECISION,
    total_ms DOUBLE PRECISION NOT NULL
);

CREATE INDEX requests_by_arrival ON requests (arrived_unix_ms);

CREATE TABLE attempts (
    request_id TEXT NOT NULL REFERENCES requests (id),
    ordinal INTEGER NOT NULL,
    role TEXT NOT NULL,
    model TEXT NOT NULL,
    -- partial, finished, failed or cancelled; status_json has the details.
    status TEXT NOT NULL,
    status_json TEXT NOT NULL,
    text TEXT,
    text_sha256 TEXT,
    signal_tokens BIGINT NOT NULL,
    logprob_sum DOUBLE PRECISION NOT NULL,
    logprob_min DOUBLE PRECISION NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    accepted_prediction_tokens BIGINT NOT NULL,
    rejected_prediction_tokens BIGINT NOT NULL,
    queue_ms DOUBLE PRECISION NOT NULL,
    prompt_ms DOUBLE PRECISION NOT NULL,
    decode_ms DOUBLE PRECISION NOT NULL,
    cost_usd DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (request_id, ordinal)
);

CREATE TABLE decisions (
    request_id TEXT NOT NULL REFERENCES requests (id),
    ordinal INTEGER NOT NULL,
    step_json TEXT NOT NULL,
    reason TEXT NOT NULL,
    confidence DOUBLE PRECISION,
    PRIMARY KEY (request_id, ordinal)
);

-- A second opinion is a second row.
CREATE TABLE feedback (
    request_id TEXT NOT NULL REFERENCES requests (id),
    given_unix_ms BIGINT NOT NULL,
    score DOUBLE PRECISION NOT NULL,
    comment TEXT
);

CREATE INDEX feedback_by_request ON feedback (request_id);
