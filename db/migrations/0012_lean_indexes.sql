-- Only renewals with a ticket are looked for by it. Those without one cost nothing here, and nobody who looks for live renewals reads these.
DROP INDEX renewal_by_ticket;
CREATE INDEX renewal_by_ticket ON renewal ((request->'ticket'->>'sys_id'))
    WHERE status IN ('requested', 'planning', 'awaiting_approval', 'scheduled', 'running', 'waiting', 'soaking', 'paused')
        AND request->'ticket'->>'sys_id' IS NOT NULL;
DROP INDEX renewal_by_ticket_system;
CREATE INDEX renewal_by_ticket_system ON renewal ((request->'ticket'->>'system'))
    WHERE status IN ('requested', 'planning', 'awaiting_approval', 'scheduled', 'running', 'waiting', 'soaking', 'paused')
        AND request->'ticket'->>'system' IS NOT NULL;
