-- When administrators watched: each has at most one monitoring session open.
CREATE TABLE admin_sessions (
    organization_id uuid NOT NULL,
    id uuid NOT NULL,
    admin_id uuid NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at timestamptz,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (organization_id, id),
    CHECK (ended_at >= started_at),
    FOREIGN KEY (organization_id, admin_id) REFERENCES users (organization_id, id)
);
-- Of two that start at once, one is made and both are shown it.
CREATE UNIQUE INDEX admin_sessions_open ON admin_sessions (organization_id, admin_id) WHERE ended_at IS NULL;
CREATE INDEX admin_sessions_newest ON admin_sessions (organization_id, started_at DESC, id DESC);
CREATE INDEX admin_sessions_of_admin ON admin_sessions (organization_id, admin_id, started_at DESC, id DESC);
ALTER TABLE admin_sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE admin_sessions FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON admin_sessions
    USING (organization_id = ANY ((SELECT app.current_organizations())::uuid[]))
    WITH CHECK (organization_id = ANY ((SELECT app.current_organizations())::uuid[]));
GRANT SELECT, INSERT, UPDATE (ended_at) ON admin_sessions TO fieldtrack_app;

-- Jobs of a check-out that could not be queued. The session's mark would have them done in any case; an intent shows
-- that the queue was away, how often it was tried again, and when that was given up.
CREATE TABLE queue_retry_intents (
    organization_id uuid NOT NULL REFERENCES organizations,
    id uuid NOT NULL,
    queue_name text NOT NULL CHECK (queue_name IN ('distance-engine', 'analytics')),
    job_key text NOT NULL CHECK (job_key <> ''),
    payload jsonb NOT NULL,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'resolved', 'dead')),
    retry_count integer NOT NULL DEFAULT 0,
    next_retry_at timestamptz NOT NULL,
    error_message text,
    -- The trace and the request the job belongs to.
    trace text,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (organization_id, id),
    CONSTRAINT queue_retry_intents_once UNIQUE (organization_id, queue_name, job_key)
);
CREATE INDEX queue_retry_intents_newest ON queue_retry_intents (organization_id, updated_at DESC, id DESC);
CREATE INDEX queue_retry_intents_due ON queue_retry_intents (next_retry_at) WHERE status = 'pending';
CREATE INDEX queue_retry_intents_over ON queue_retry_intents (status, updated_at) WHERE status <> 'pending';
ALTER TABLE queue_retry_intents ENABLE ROW LEVEL SECURITY;
ALTER TABLE queue_retry_intents FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON queue_retry_intents
    USING (organization_id = ANY ((SELECT app.current_organizations())::uuid[]))
    WITH CHECK (organization_id = ANY ((SELECT app.current_organizations())::uuid[]));
-- The schedule tries the jobs of all organizations again, and removes intents that are over; metrics count them.
CREATE POLICY system_replays ON queue_retry_intents TO fieldtrack_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT ON queue_retry_intents TO fieldtrack_app;
GRANT UPDATE (payload, status, retry_count, next_retry_at, error_message, trace, updated_at)
    ON queue_retry_intents TO fieldtrack_app;
GRANT SELECT (organization_id, id, queue_name, payload, status, retry_count, next_retry_at, trace, updated_at)
    ON queue_retry_intents TO fieldtrack_system;
GRANT UPDATE (status, retry_count, next_retry_at, error_message, updated_at) ON queue_retry_intents TO fieldtrack_system;
GRANT DELETE ON queue_retry_intents TO fieldtrack_system;

-- Metrics tell how old the oldest dashboard is; whose it is they do not see.
CREATE POLICY system_measures ON org_dashboard_snapshot FOR SELECT TO fieldtrack_system USING (true);
GRANT SELECT (updated_at) ON org_dashboard_snapshot TO fieldtrack_system;
