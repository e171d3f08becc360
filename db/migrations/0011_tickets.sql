-- When each ticket system is asked next for changes that name rekey, and until when its records were seen, in its time.
CREATE TABLE ticket_poll (
    system TEXT PRIMARY KEY,
    due_at TIMESTAMPTZ NOT NULL,
    seen_until TIMESTAMPTZ
);
