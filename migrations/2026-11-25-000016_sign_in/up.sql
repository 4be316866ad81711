-- Users of another identity provider that has to be told whether they may sign in: written in the transaction that
-- decides it, removed when the provider has said yes. What to tell is read when it is told, so one row a user is enough,
-- and the last decision is the one that counts.
CREATE TABLE sign_in_notices (
    organization_id uuid NOT NULL,
    user_id uuid NOT NULL,
    -- Another one with every decision: whoever told an older one leaves the row.
    decision uuid NOT NULL,
    -- From when on it may be told: later after a refusal, unless something else is decided.
    due_at timestamptz NOT NULL,
    -- Until when it is somebody's who tells it: apart from the time above, which every decision sets, so that a decision
    -- does not overtake whoever tells the one before.
    taken_until timestamptz,
    PRIMARY KEY (organization_id, user_id),
    FOREIGN KEY (organization_id, user_id) REFERENCES users (organization_id, id) ON DELETE CASCADE
);
-- Whoever was deactivated before this has to be told, too. Where nobody else signs people in, nobody reads it; and what
-- is told is what holds then. The owner is held by the policies, and no policy lets it see the employees of every
-- organization.
-- locks: requests wait for as long as it takes to read the employees once, which is milliseconds
DO $$
BEGIN
    ALTER TABLE employees NO FORCE ROW LEVEL SECURITY;
    INSERT INTO sign_in_notices (organization_id, user_id, decision, due_at)
        SELECT organization_id, user_id, gen_random_uuid(), now() FROM employees
        WHERE user_id IS NOT NULL AND NOT is_active
        ON CONFLICT DO NOTHING;
    ALTER TABLE employees FORCE ROW LEVEL SECURITY;
END
$$;
ALTER TABLE sign_in_notices ENABLE ROW LEVEL SECURITY;
ALTER TABLE sign_in_notices FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON sign_in_notices
    USING (organization_id = ANY ((SELECT app.current_organizations())::uuid[]))
    WITH CHECK (organization_id = ANY ((SELECT app.current_organizations())::uuid[]));
-- The schedule tells those of all organizations.
CREATE POLICY system_tells ON sign_in_notices TO fieldtrack_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE (decision, due_at) ON sign_in_notices TO fieldtrack_app;
GRANT SELECT, DELETE, UPDATE (due_at, taken_until) ON sign_in_notices TO fieldtrack_system;
