-- Plans by hand have a gate at which a person says that they have done the cloud half.
-- The old table is renamed first: on PostgreSQL nobody adds a decision to it after that.
ALTER TABLE decision RENAME TO decision_before;
CREATE TABLE decision (
    id UUID PRIMARY KEY,
    renewal_id UUID NOT NULL REFERENCES renewal (id),
    gate TEXT NOT NULL CHECK (gate IN ('execute', 'trust_cloud', 'publish', 'clear_previous')),
    plan_digest TEXT NOT NULL,
    verb TEXT NOT NULL CHECK (verb IN ('approve', 'reject', 'withdraw')),
    decided_by TEXT NOT NULL,
    reason TEXT NOT NULL,
    decided_at TIMESTAMPTZ NOT NULL
);
INSERT INTO decision (id, renewal_id, gate, plan_digest, verb, decided_by, reason, decided_at)
    SELECT id, renewal_id, gate, plan_digest, verb, decided_by, reason, decided_at FROM decision_before;
DROP TABLE decision_before;
CREATE INDEX decision_by_renewal ON decision (renewal_id, id);
