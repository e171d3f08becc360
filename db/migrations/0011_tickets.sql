-- When each ticket system is asked next for changes that name rekey, and until when its records were seen, in its time.
CREATE TABLE ticket_poll (
    system TEXT PRIMARY KEY,
    due_at TIMESTAMPTZ NOT NULL,
    seen_until TIMESTAMPTZ
);
-- The live renewals of a ticket system, which read their tickets.
CREATE INDEX renewal_by_ticket_system ON renewal ((request->'ticket'->>'system'))
    WHERE status IN ('requested', 'planning', 'awaiting_approval', 'scheduled', 'running', 'waiting', 'soaking', 'paused');
