-- What sources have sent, and what became of it.
CREATE TABLE delivery (
    id UUID PRIMARY KEY,
    source TEXT NOT NULL,
    -- What its sender calls it.
    delivery_id TEXT,
    received_at TIMESTAMPTZ NOT NULL,
    -- How its sender has shown who they are; absent when they have not.
    sender TEXT,
    retry INTEGER,
    verdict TEXT NOT NULL CHECK (verdict IN ('accepted', 'duplicate', 'ignored', 'refused')),
    status INTEGER NOT NULL,
    problem TEXT,
    detail TEXT,
    size BIGINT NOT NULL,
    ticket_number TEXT,
    ticket_key TEXT,
    mod_count BIGINT,
    renewal_id UUID REFERENCES renewal (id),
    -- The delivery that it repeats. That one may have been forgotten since.
    repeats UUID,
    -- What it is by itself, whoever sends it how often: only with those that were taken.
    natural_key TEXT,
    -- Headers are not kept: they hold credentials.
    body BYTEA,
    answer TEXT NOT NULL
);
CREATE UNIQUE INDEX delivery_by_natural_key ON delivery (source, natural_key) WHERE natural_key IS NOT NULL;
CREATE INDEX delivery_by_delivery_id ON delivery (source, delivery_id) WHERE natural_key IS NOT NULL;
CREATE INDEX delivery_by_source ON delivery (source, id);
CREATE INDEX delivery_by_verdict ON delivery (verdict, id);
CREATE INDEX delivery_by_source_and_verdict ON delivery (source, verdict, id);
CREATE INDEX delivery_by_ticket ON delivery (ticket_number, id);
-- Those of strangers, of which only the newest are kept.
CREATE INDEX delivery_of_strangers ON delivery (source, id) WHERE sender IS NULL;
-- The newest that is known of each record. Its row is locked while something follows from a delivery about it.
CREATE TABLE ticket_record (
    system TEXT NOT NULL,
    key TEXT NOT NULL,
    mod_count BIGINT,
    updated_at TIMESTAMPTZ,
    approval TEXT,
    renewal_id UUID REFERENCES renewal (id),
    PRIMARY KEY (system, key)
);
