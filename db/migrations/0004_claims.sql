-- What a worker looks at when it takes steps of a renewal, however many steps the plan has and however many renewals are over.
CREATE INDEX step_live ON step (renewal_id, due_at) WHERE status IN ('ready', 'running');
-- Lists of one status stay as fast as lists of all.
CREATE INDEX renewal_by_status ON renewal (status, id);
