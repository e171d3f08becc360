-- Makes :count renewals of organizations of their own from the one that is there, with everything that belongs to it, and removes that one.
CREATE TEMPORARY TABLE copies AS
    SELECT number, gen_random_uuid() AS id, 'o' || lpad(number::text, 9, '0') AS organization_id FROM generate_series(1, :count) AS number;
INSERT INTO renewal (id, organization_id, requested_by, request, state, plan_digest, version, due_at, created_at, updated_at)
    SELECT copies.id, copies.organization_id, requested_by, jsonb_set(request, '{organization}', to_jsonb(copies.organization_id)), state,
        plan_digest, version, due_at, created_at, updated_at
    FROM renewal, copies WHERE renewal.id = ':template';
INSERT INTO plan (renewal_id, digest, body, created_at)
    SELECT copies.id, digest, body, created_at FROM plan, copies WHERE renewal_id = ':template';
INSERT INTO decision (id, renewal_id, gate, plan_digest, verb, decided_by, reason, decided_at)
    SELECT gen_random_uuid(), copies.id, gate, plan_digest, verb, decided_by, reason, decided_at
    FROM decision, copies WHERE renewal_id = ':template';
INSERT INTO step (id, renewal_id, ordinal, phase, kind, target, site, status, attempt, failures, due_at, trouble, outcome, started_at, finished_at)
    SELECT gen_random_uuid(), copies.id, ordinal, phase, kind, target, site, status, attempt, failures, due_at, trouble, outcome, started_at,
        finished_at
    FROM step, copies WHERE renewal_id = ':template';
INSERT INTO audit_stream (stream, last_sequence)
    SELECT copies.id, last_sequence FROM audit_stream, copies WHERE stream = ':template';
INSERT INTO audit (id, stream, sequence, renewal_id, organization_id, at, actor, action, detail)
    SELECT gen_random_uuid(), copies.id, sequence, copies.id, copies.organization_id, at, actor, action, detail
    FROM audit, copies WHERE stream = ':template';
-- What it announced was told long ago.
DELETE FROM announcement WHERE renewal_id = ':template';
DELETE FROM audit WHERE stream = ':template';
DELETE FROM audit_stream WHERE stream = ':template';
DELETE FROM step WHERE renewal_id = ':template';
DELETE FROM decision WHERE renewal_id = ':template';
DELETE FROM plan WHERE renewal_id = ':template';
DELETE FROM renewal WHERE id = ':template';
ANALYZE;
