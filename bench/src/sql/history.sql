-- :renewals finished renewals of :organizations organizations by turns, every :cancelled-th of them cancelled, with nine steps and :entries audit
-- entries each. Ids grow with time, as those of the product. The tables are filled first and indexed then, without the triggers of foreign keys: only
-- because that takes a minute in place of ten.
SET session_replication_role = replica;
ALTER TABLE audit DROP CONSTRAINT audit_pkey, DROP CONSTRAINT audit_stream_sequence_key;
CREATE TEMPORARY TABLE history AS
    SELECT number, ('01900000-0000-7000-8000-' || lpad(to_hex(number), 12, '0'))::uuid AS id,
        'o' || lpad((number % :organizations + 1)::text, 9, '0') AS organization_id,
        timestamptz '2021-01-01 10:00:00Z' + number * interval '20 minutes' AS at
    FROM generate_series(1, :renewals) AS number;
INSERT INTO renewal (id, organization_id, requested_by, request, state, plan_digest, version, due_at, created_at, updated_at)
    SELECT id, organization_id, 'alice@contoso.example',
        jsonb_build_object('organization', organization_id, 'reason', 'expiring', 'note', 'Auth certificate expires on 2027-01-07'),
        jsonb_build_object('status', CASE WHEN number % :cancelled = 0 THEN 'cancelled' ELSE 'succeeded' END, 'at', at + interval '4 days'),
        'sha256:' || repeat(md5(number::text), 2), 61, NULL, at, at + interval '4 days'
    FROM history;
INSERT INTO plan (renewal_id, digest, body, created_at)
    SELECT id, 'sha256:' || repeat(md5(number::text), 2), '{"format": "rekey.plan/1", "steps": "' || repeat('x', 400) || '"}', at FROM history;
INSERT INTO step (id, renewal_id, ordinal, phase, kind, target, site, status, attempt, failures, due_at, trouble, outcome, started_at, finished_at)
    SELECT ('01900000-0000-7000-9000-' || lpad(to_hex(number * 16 + ordinal), 12, '0'))::uuid, id, ordinal, kind, kind,
        CASE WHEN kind IN ('distribute', 'restart', 'prune') THEN 'ex01.contoso.example' ELSE '' END,
        CASE WHEN kind IN ('distribute', 'restart', 'prune') THEN 'Hamburg' ELSE '' END,
        'succeeded', 1, 0, NULL, NULL, '{"outcome": "published", "by": "rekey", "domain_controllers": ["dc01.contoso.example"]}', at, at
    FROM history, unnest(ARRAY['preflight', 'generate', 'distribute', 'stage', 'publish', 'restart', 'soak', 'prune', 'close'])
        WITH ORDINALITY AS kinds (kind, ordinal);
INSERT INTO audit_stream (stream, last_sequence) SELECT id, :entries FROM history;
INSERT INTO audit (id, stream, sequence, renewal_id, organization_id, at, actor, action, detail)
    SELECT ('01900001-0000-7000-8000-' || lpad(to_hex(number * 64 + sequence), 12, '0'))::uuid, id, sequence, id, organization_id,
        at + sequence * interval '1 minute', 'worker:3f9a1c07', 'step.succeeded',
        '{"step": "distribute", "attempt": 1, "target": "ex01.contoso.example", "outcome": "distributed"}'
    FROM history, generate_series(1, :entries) AS sequence;
ALTER TABLE audit ADD PRIMARY KEY (id), ADD UNIQUE (stream, sequence);
VACUUM ANALYZE;
