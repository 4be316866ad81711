-- Users of another identity provider that has to be told whether they may sign in: written in the transaction that
-- decides it, removed when the provider has said yes. What to tell is read when it is told, so one row a user is enough,
-- and the last decision is the one that counts.
CREATE TABLE sign_in_notices (
    organization_id uuid NOT NULL,
    user_id uuid NOT NULL,
    -- Another one with every decision: whoever told an older one leaves the row.
    decision uuid NOT NULL,
    -- From when on somebody may tell it: later while somebody does, and after a refusal.
    due_at timestamptz NOT NULL,
    PRIMARY KEY (organization_id, user_id),
    FOREIGN KEY (organization_id, user_id) REFERENCES users (organization_id, id) ON DELETE CASCADE
);
ALTER TABLE sign_in_notices ENABLE ROW LEVEL SECURITY;
ALTER TABLE sign_in_notices FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON sign_in_notices
    USING (organization_id = ANY ((SELECT app.current_organizations())::uuid[]))
    WITH CHECK (organization_id = ANY ((SELECT app.current_organizations())::uuid[]));
-- The schedule tells those of all organizations.
CREATE POLICY system_tells ON sign_in_notices TO fieldtrack_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE (decision) ON sign_in_notices TO fieldtrack_app;
GRANT SELECT, DELETE, UPDATE (due_at) ON sign_in_notices TO fieldtrack_system;
