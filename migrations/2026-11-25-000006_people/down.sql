REVOKE SELECT (organization_id, user_id, revoked_at), UPDATE (revoked_at) ON refresh_tokens FROM fieldtrack_app;
REVOKE SELECT (organization_id, user_id, banned_until, last_sign_in_at), UPDATE (password_hash, banned_until, updated_at)
    ON user_credentials FROM fieldtrack_app;
REVOKE UPDATE (role, updated_at) ON users FROM fieldtrack_app;
DROP VIEW app.employee_places;
DROP VIEW app.employee_states;
DROP INDEX employees_order;
CREATE INDEX attendance_sessions_employee ON attendance_sessions (organization_id, employee_id, checkin_at DESC);
DROP INDEX attendance_sessions_latest;
