-- One row, one truth: the state is JSON, the columns that lists filter by are generated from it.
CREATE TABLE renewal (
    id UUID PRIMARY KEY,
    organization_id TEXT NOT NULL,
    requested_by TEXT NOT NULL,
    request JSONB NOT NULL,
    state JSONB NOT NULL,
    status TEXT GENERATED ALWAYS AS (state->>'status') STORED
        CHECK (status IN ('requested', 'planning', 'awaiting_approval', 'scheduled', 'running', 'waiting', 'soaking', 'paused',
                          'succeeded', 'rejected', 'expired', 'cancelled', 'failed', 'rolled_back')),
    plan_digest TEXT,
    version BIGINT NOT NULL,
    due_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL
);
CREATE UNIQUE INDEX renewal_one_live_per_organization ON renewal (organization_id)
    WHERE status IN ('requested', 'planning', 'awaiting_approval', 'scheduled', 'running', 'waiting', 'soaking', 'paused');
CREATE INDEX renewal_due ON renewal (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX renewal_by_organization ON renewal (organization_id, id);

CREATE TABLE plan (
    renewal_id UUID NOT NULL REFERENCES renewal (id),
    digest TEXT NOT NULL,
    body TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (renewal_id, digest)
);

CREATE TABLE decision (
    id UUID PRIMARY KEY,
    renewal_id UUID NOT NULL REFERENCES renewal (id),
    gate TEXT NOT NULL CHECK (gate IN ('execute', 'publish', 'clear_previous')),
    plan_digest TEXT NOT NULL,
    verb TEXT NOT NULL CHECK (verb IN ('approve', 'reject', 'withdraw')),
    decided_by TEXT NOT NULL,
    reason TEXT NOT NULL,
    decided_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX decision_by_renewal ON decision (renewal_id, id);

-- due_at is the turn, the retry time, the timer and, while a worker has the step, the end of its lease.
CREATE TABLE step (
    id UUID PRIMARY KEY,
    renewal_id UUID NOT NULL REFERENCES renewal (id),
    ordinal INTEGER NOT NULL,
    phase TEXT NOT NULL,
    kind TEXT NOT NULL,
    target TEXT NOT NULL,
    site TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('pending', 'ready', 'running', 'attention', 'succeeded', 'skipped')),
    attempt BIGINT NOT NULL,
    failures INTEGER NOT NULL,
    due_at TIMESTAMPTZ,
    trouble JSONB,
    outcome JSONB,
    started_at TIMESTAMPTZ,
    finished_at TIMESTAMPTZ,
    UNIQUE (renewal_id, ordinal)
);
CREATE INDEX step_due ON step (due_at, id) WHERE status IN ('ready', 'running');

-- What discovery saw, for people who read the organization's state.
CREATE TABLE snapshot (
    id UUID PRIMARY KEY,
    organization_id TEXT NOT NULL,
    renewal_id UUID REFERENCES renewal (id),
    purpose TEXT NOT NULL CHECK (purpose IN ('before', 'check', 'after')),
    body JSONB NOT NULL,
    taken_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX snapshot_by_organization ON snapshot (organization_id, id);
CREATE INDEX snapshot_by_renewal ON snapshot (renewal_id, id);

-- The only table that ever holds key material, sealed; rows go when every server has the key.
CREATE TABLE sealed_key (
    renewal_id UUID PRIMARY KEY REFERENCES renewal (id),
    thumbprint TEXT NOT NULL,
    sealed BYTEA NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);
