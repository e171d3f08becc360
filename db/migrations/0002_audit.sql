-- Append-only: nothing in the code updates or deletes rows of audit.
-- audit_stream hands out the numbers; its row is locked until commit, so that a stream has no gaps and is readable in order.
CREATE TABLE audit_stream (
    stream UUID PRIMARY KEY,
    last_sequence BIGINT NOT NULL
);
CREATE TABLE audit (
    id UUID PRIMARY KEY,
    stream UUID NOT NULL,
    sequence BIGINT NOT NULL,
    renewal_id UUID REFERENCES renewal (id),
    organization_id TEXT,
    at TIMESTAMPTZ NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    detail JSONB NOT NULL,
    UNIQUE (stream, sequence)
);
