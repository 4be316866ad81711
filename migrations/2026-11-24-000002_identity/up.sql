-- What the built-in identity provider keeps. Only the system role reads it: a request, whatever it does, cannot see a
-- password hash, a refresh token or a signing key.

CREATE TABLE user_credentials (
    organization_id uuid NOT NULL,
    user_id uuid NOT NULL,
    -- argon2id in PHC string format.
    password_hash text NOT NULL,
    banned_until timestamptz,
    last_sign_in_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organization_id, user_id),
    FOREIGN KEY (organization_id, user_id) REFERENCES users (organization_id, id) ON DELETE CASCADE
);
ALTER TABLE user_credentials ENABLE ROW LEVEL SECURITY;
ALTER TABLE user_credentials FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON user_credentials
    USING (organization_id = ANY ((SELECT app.current_organizations())::uuid[]))
    WITH CHECK (organization_id = ANY ((SELECT app.current_organizations())::uuid[]));
CREATE POLICY system_signs_in ON user_credentials TO fieldtrack_system USING (true) WITH CHECK (true);
-- An administrator sets an employee's first password in the transaction that makes the employee; nobody reads it back.
GRANT INSERT ON user_credentials TO fieldtrack_app;
GRANT SELECT, INSERT ON user_credentials TO fieldtrack_system;
GRANT UPDATE (password_hash, last_sign_in_at, updated_at) ON user_credentials TO fieldtrack_system;

CREATE TABLE refresh_tokens (
    organization_id uuid NOT NULL,
    -- SHA-256 of the token: a stolen table signs nobody in.
    token_hash bytea NOT NULL CHECK (octet_length(token_hash) = 32),
    user_id uuid NOT NULL,
    -- One sign-in and all its successors; a reuse revokes the family.
    family_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- When it was exchanged for its successor.
    used_at timestamptz,
    revoked_at timestamptz,
    PRIMARY KEY (organization_id, token_hash),
    FOREIGN KEY (organization_id, user_id) REFERENCES users (organization_id, id) ON DELETE CASCADE
);
-- A refresh knows nothing but the token.
CREATE INDEX refresh_tokens_hash ON refresh_tokens (token_hash);
CREATE INDEX refresh_tokens_family ON refresh_tokens (family_id);
CREATE INDEX refresh_tokens_user ON refresh_tokens (organization_id, user_id);
ALTER TABLE refresh_tokens ENABLE ROW LEVEL SECURITY;
ALTER TABLE refresh_tokens FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON refresh_tokens
    USING (organization_id = ANY ((SELECT app.current_organizations())::uuid[]))
    WITH CHECK (organization_id = ANY ((SELECT app.current_organizations())::uuid[]));
CREATE POLICY system_refreshes ON refresh_tokens TO fieldtrack_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, DELETE, UPDATE (used_at, revoked_at) ON refresh_tokens TO fieldtrack_system;

-- Keys that sign access tokens; the private part is sealed with SECRETS_KEY. Every replica signs with the newest.
CREATE TABLE signing_keys (
    kid text PRIMARY KEY,
    sealed_private_key bytea NOT NULL,
    -- The public point, uncompressed SEC 1 (65 bytes): what the JWKS shows.
    public_key bytea NOT NULL CHECK (octet_length(public_key) = 65),
    created_at timestamptz NOT NULL DEFAULT now(),
    -- Retired keys no longer sign; they stay published until the tokens they signed have expired.
    retired_at timestamptz
);
ALTER TABLE signing_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE signing_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY system_signs ON signing_keys TO fieldtrack_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, DELETE, UPDATE (retired_at) ON signing_keys TO fieldtrack_system;
