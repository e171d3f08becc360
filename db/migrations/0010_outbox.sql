-- What was announced, written by the transaction that wrote the audit entry that it tells of. Kept as long as a message of it is.
CREATE TABLE announcement (
    id UUID PRIMARY KEY,
    stream UUID NOT NULL,
    sequence BIGINT NOT NULL,
    renewal_id UUID REFERENCES renewal (id),
    organization_id TEXT,
    ticket_system TEXT,
    subject TEXT NOT NULL,
    event TEXT NOT NULL,
    actor TEXT NOT NULL,
    at TIMESTAMPTZ NOT NULL,
    news JSONB NOT NULL,
    renewal JSONB,
    expanded BOOLEAN NOT NULL
);
-- What no worker has looked at yet: whom to tell is for workers to know.
CREATE INDEX announcement_new ON announcement (stream, sequence) WHERE NOT expanded;

-- A message for one target. id is the message's own, the same at each try; stream and sequence are its place in its lane.
CREATE TABLE outbox (
    id UUID PRIMARY KEY,
    announcement_id UUID NOT NULL REFERENCES announcement (id),
    target TEXT NOT NULL,
    lane TEXT NOT NULL,
    stream UUID NOT NULL,
    sequence BIGINT NOT NULL,
    renewal_id UUID REFERENCES renewal (id),
    organization_id TEXT,
    event TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('pending', 'delivered', 'dead', 'dropped')),
    failures INTEGER NOT NULL,
    last_error TEXT,
    created_at TIMESTAMPTZ NOT NULL,
    finished_at TIMESTAMPTZ,
    UNIQUE (announcement_id, target)
);
CREATE INDEX outbox_pending ON outbox (lane, stream, sequence) WHERE status = 'pending';
CREATE INDEX outbox_by_status ON outbox (status, id);
CREATE INDEX outbox_by_target ON outbox (target, id);
CREATE INDEX outbox_by_target_and_status ON outbox (target, status, id);

-- Messages of a lane leave one after the other. due_at is the time of the next try of its first message and, while a worker has it, the end of the
-- worker's lease; nothing is due in a lane without one. attempt is the fence of every write about it.
CREATE TABLE outbox_lane (
    lane TEXT PRIMARY KEY,
    target TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    held BOOLEAN NOT NULL,
    due_at TIMESTAMPTZ,
    -- Why nothing is sent on it any more: the target has said that it is gone.
    closed TEXT
);
CREATE INDEX outbox_lane_due ON outbox_lane (due_at, target) WHERE due_at IS NOT NULL;
