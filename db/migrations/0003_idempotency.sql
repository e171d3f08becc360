-- The answer that a request with this key got. Bound to the renewal, not to a time: a run takes days.
CREATE TABLE idempotency (
    caller TEXT NOT NULL,
    key TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    renewal_id UUID NOT NULL REFERENCES renewal (id),
    status INTEGER NOT NULL,
    body TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (caller, key)
);
