-- What the ticket system last said of the renewal's ticket.
ALTER TABLE renewal ADD COLUMN ticket_standing JSONB;
-- Who planned and who operated it: a policy may say that they do not approve it.
ALTER TABLE renewal ADD COLUMN involved JSONB NOT NULL DEFAULT '{}';
-- Why it may end after the old certificate has expired.
ALTER TABLE renewal ADD COLUMN at_risk JSONB;
-- How many broken gates of it nobody has reviewed.
ALTER TABLE renewal ADD COLUMN open_reviews INTEGER NOT NULL DEFAULT 0;
-- Deliveries and pollers name a ticket, not a renewal.
CREATE INDEX renewal_by_ticket ON renewal ((request->'ticket'->>'sys_id'))
    WHERE status IN ('requested', 'planning', 'awaiting_approval', 'scheduled', 'running', 'waiting', 'soaking', 'paused');

-- The groups that the person belonged to when they decided.
ALTER TABLE decision ADD COLUMN decided_groups JSONB NOT NULL DEFAULT '[]';
-- The person passes the gate alone, in an emergency.
ALTER TABLE decision ADD COLUMN break_glass BOOLEAN NOT NULL DEFAULT FALSE;
-- Who took the decision back in the person's stead: a ticket system whose approvals were voided.
ALTER TABLE decision ADD COLUMN voided_by TEXT;

-- What an auditor has to look at after a gate was broken.
CREATE TABLE review (
    id UUID PRIMARY KEY,
    renewal_id UUID NOT NULL REFERENCES renewal (id),
    decision_id UUID NOT NULL REFERENCES decision (id),
    gate TEXT NOT NULL,
    broken_by TEXT NOT NULL,
    reason TEXT NOT NULL,
    broken_at TIMESTAMPTZ NOT NULL,
    verdict TEXT CHECK (verdict IN ('justified', 'not_justified')),
    finding TEXT,
    reviewed_by TEXT,
    reviewed_at TIMESTAMPTZ
);
CREATE INDEX review_by_renewal ON review (renewal_id, id);
