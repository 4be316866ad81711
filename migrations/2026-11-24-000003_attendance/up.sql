CREATE TABLE attendance_sessions (
    organization_id uuid NOT NULL,
    id uuid NOT NULL,
    employee_id uuid NOT NULL,
    checkin_at timestamptz NOT NULL,
    checkout_at timestamptz,
    distance_recalculation_status text NOT NULL DEFAULT 'pending'
        CHECK (distance_recalculation_status IN ('pending', 'processing', 'done', 'failed')),
    total_distance_km float8,
    total_duration_seconds integer,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    -- The mark: the least time of a point that is stored and not yet measured. It commits with the points and so is
    -- the outbox of the distance job; whoever measures clears it in the same transaction.
    dirty_from timestamptz,
    -- When the mark was set; the sweep looks for old ones.
    dirty_since timestamptz,
    -- The checkpoint: metres, points and place up to the latest measured point. A later measurement goes on from it.
    measured_m float8 NOT NULL DEFAULT 0,
    measured_points bigint NOT NULL DEFAULT 0,
    measured_to timestamptz,
    measured_latitude float8,
    measured_longitude float8,
    PRIMARY KEY (organization_id, id),
    CHECK (checkout_at >= checkin_at),
    CHECK ((dirty_from IS NULL) = (dirty_since IS NULL)),
    CHECK (num_nulls(measured_to, measured_latitude, measured_longitude) IN (0, 3)),
    FOREIGN KEY (organization_id, employee_id) REFERENCES employees (organization_id, id)
) WITH (fillfactor = 80);
-- At most one open session an employee: simultaneous check-ins are decided here.
CREATE UNIQUE INDEX attendance_sessions_open ON attendance_sessions (organization_id, employee_id)
    WHERE checkout_at IS NULL;
CREATE INDEX attendance_sessions_employee ON attendance_sessions (organization_id, employee_id, checkin_at DESC);
-- Jobs of foreign producers name a session without its organization.
CREATE INDEX attendance_sessions_id ON attendance_sessions (id);
CREATE INDEX attendance_sessions_dirty ON attendance_sessions (dirty_since) WHERE dirty_from IS NOT NULL;
ALTER TABLE attendance_sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE attendance_sessions FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON attendance_sessions
    USING (organization_id = ANY ((SELECT app.current_organizations())::uuid[]))
    WITH CHECK (organization_id = ANY ((SELECT app.current_organizations())::uuid[]));
-- The sweep asks for the measurement of sessions of all organizations; it sees that they are dirty and no more.
CREATE POLICY system_sweeps ON attendance_sessions FOR SELECT TO fieldtrack_system USING (true);
GRANT SELECT, INSERT, UPDATE ON attendance_sessions TO fieldtrack_app;
GRANT SELECT (organization_id, id, checkout_at, distance_recalculation_status, dirty_from, dirty_since)
    ON attendance_sessions TO fieldtrack_system;

CREATE TABLE session_summaries (
    organization_id uuid NOT NULL,
    session_id uuid NOT NULL,
    id uuid NOT NULL,
    total_distance_km float8 NOT NULL,
    total_duration_seconds integer NOT NULL,
    avg_speed_kmh float8 NOT NULL,
    computed_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organization_id, session_id),
    FOREIGN KEY (organization_id, session_id) REFERENCES attendance_sessions (organization_id, id)
);
ALTER TABLE session_summaries ENABLE ROW LEVEL SECURITY;
ALTER TABLE session_summaries FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON session_summaries
    USING (organization_id = ANY ((SELECT app.current_organizations())::uuid[]))
    WITH CHECK (organization_id = ANY ((SELECT app.current_organizations())::uuid[]));
GRANT SELECT, INSERT, UPDATE ON session_summaries TO fieldtrack_app;
