-- Keys that programs call with. Of a key itself only a salted scrypt hash is kept.
CREATE TABLE api_keys (
    organization_id uuid NOT NULL REFERENCES organizations,
    id uuid NOT NULL,
    name text NOT NULL CHECK (name <> ''),
    -- scrypt of the whole key, hex; the salt, hex; the first 16 characters, by which the row is found.
    key_hash text NOT NULL,
    key_salt text NOT NULL,
    key_prefix text NOT NULL,
    scopes text[] NOT NULL CHECK (
        cardinality(scopes) > 0
        AND scopes <@ ARRAY['read:employees', 'read:sessions', 'write:expenses', 'admin:all']
        AND ('admin:all' <> ALL (scopes) OR cardinality(scopes) = 1)),
    active boolean NOT NULL DEFAULT true,
    request_count bigint NOT NULL DEFAULT 0,
    error_count bigint NOT NULL DEFAULT 0,
    created_by uuid,
    last_used_at timestamptz,
    revoked_at timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (organization_id, id),
    CONSTRAINT api_keys_hash_key UNIQUE (organization_id, key_hash)
);
-- A caller shows nothing but the key.
CREATE INDEX api_keys_prefix ON api_keys (key_prefix);
ALTER TABLE api_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE api_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON api_keys
    USING (organization_id = ANY ((SELECT app.current_organizations())::uuid[]))
    WITH CHECK (organization_id = ANY ((SELECT app.current_organizations())::uuid[]));
-- Whose key it is is found before any organization is known.
CREATE POLICY system_identifies ON api_keys FOR SELECT TO fieldtrack_system USING (true);
GRANT SELECT, INSERT, DELETE ON api_keys TO fieldtrack_app;
GRANT UPDATE (name, scopes, active, request_count, error_count, last_used_at, revoked_at, updated_at)
    ON api_keys TO fieldtrack_app;
GRANT SELECT (organization_id, id, key_hash, key_salt, key_prefix, active, revoked_at) ON api_keys TO fieldtrack_system;
