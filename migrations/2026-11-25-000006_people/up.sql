-- Lists of people and their sessions, and what administrators may do to the accounts of their organization.

-- Newest first with the same tie-break that every list uses: sessions that began in the same microsecond have one order.
CREATE INDEX attendance_sessions_latest
    ON attendance_sessions (organization_id, employee_id, checkin_at DESC, id DESC);
DROP INDEX attendance_sessions_employee;
-- The order of the list of employees: a page is read from the index, and only its rows are looked into.
CREATE INDEX employees_order ON employees (organization_id, employee_number, employee_code, id);

-- Every employee with their latest session. Read from the sessions themselves, an index probe or two for each of them, so it is
-- right whatever job has run or not. It runs with the caller's rights: row-level security holds below it.
CREATE VIEW app.employee_states WITH (security_invoker = true) AS
SELECT e.organization_id, e.id, e.user_id, e.name, e.phone, e.is_active, e.employee_code, e.employee_number,
       e.last_activity_at, e.created_at, e.updated_at,
       latest.id AS session_id, latest.checkin_at, latest.checkout_at, latest.distance_recalculation_status,
       latest.total_distance_km, latest.total_duration_seconds, latest.updated_at AS session_updated_at,
       -- While a session is open, the last check-out is that of the one before.
       coalesce(latest.checkout_at, (
           SELECT ended.checkout_at FROM attendance_sessions ended
           WHERE ended.organization_id = e.organization_id AND ended.employee_id = e.id
               AND ended.checkout_at IS NOT NULL
           ORDER BY ended.checkin_at DESC, ended.id DESC LIMIT 1)) AS last_checkout_at
FROM employees e
LEFT JOIN LATERAL (
    -- The open one, whatever the clocks of two replicas say about which began first; else the one that began last.
    (SELECT s.id, s.checkin_at, s.checkout_at, s.distance_recalculation_status, s.total_distance_km,
            s.total_duration_seconds, s.updated_at
     FROM attendance_sessions s
     WHERE s.organization_id = e.organization_id AND s.employee_id = e.id AND s.checkout_at IS NULL
     LIMIT 1)
    UNION ALL
    (SELECT s.id, s.checkin_at, s.checkout_at, s.distance_recalculation_status, s.total_distance_km,
            s.total_duration_seconds, s.updated_at
     FROM attendance_sessions s
     WHERE s.organization_id = e.organization_id AND s.employee_id = e.id
     ORDER BY s.checkin_at DESC, s.id DESC LIMIT 1)
    LIMIT 1) AS latest ON true;
GRANT SELECT ON app.employee_states TO fieldtrack_app;

-- Where every employee who was ever seen was seen last. A session whose points are all measured has its latest point in
-- its checkpoint; of others the points are asked. Sessions without points are passed over.
CREATE VIEW app.employee_places WITH (security_invoker = true) AS
SELECT e.organization_id, e.id AS employee_id, place.latitude, place.longitude, place.recorded_at
FROM employees e
CROSS JOIN LATERAL (
    SELECT latest.latitude, latest.longitude, latest.recorded_at
    FROM attendance_sessions s
    CROSS JOIN LATERAL (
        SELECT s.measured_latitude AS latitude, s.measured_longitude AS longitude, s.measured_to AS recorded_at
        WHERE s.dirty_from IS NULL AND s.measured_to IS NOT NULL
        UNION ALL
        (SELECT g.latitude, g.longitude, g.recorded_at
         FROM gps_locations g
         WHERE g.organization_id = s.organization_id AND g.session_id = s.id AND g.recorded_at >= s.checkin_at
             AND (s.dirty_from IS NOT NULL OR s.measured_to IS NULL)
         ORDER BY g.recorded_at DESC LIMIT 1)) AS latest
    WHERE s.organization_id = e.organization_id AND s.employee_id = e.id
        AND (s.checkout_at IS NULL OR s.dirty_from IS NOT NULL OR s.measured_points > 0)
    ORDER BY s.checkin_at DESC, s.id DESC LIMIT 1) AS place;
GRANT SELECT ON app.employee_places TO fieldtrack_app;

-- An administrator changes roles, keeps people out and sets passwords, and ends sign-ins by it, all in one transaction
-- with whatever caused it. Hashes of passwords and tokens stay unreadable: only keys and times may be read.
GRANT UPDATE (role, updated_at) ON users TO fieldtrack_app;
GRANT SELECT (organization_id, user_id, banned_until, last_sign_in_at), UPDATE (password_hash, banned_until, updated_at)
    ON user_credentials TO fieldtrack_app;
GRANT SELECT (organization_id, user_id, revoked_at), UPDATE (revoked_at) ON refresh_tokens TO fieldtrack_app;
