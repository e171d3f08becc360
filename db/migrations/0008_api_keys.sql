-- Keys that programs call the API with. Only the SHA-256 of a key's secret is kept. A revoked key stays: the record names it.
CREATE TABLE api_key (
    id UUID PRIMARY KEY,
    name TEXT NOT NULL,
    secret_hash BYTEA NOT NULL,
    -- Roles, groups and, if it is limited, organizations.
    grants JSONB NOT NULL,
    created_by TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL,
    last_used_at TIMESTAMPTZ,
    revoked_by TEXT,
    revoked_at TIMESTAMPTZ
);
