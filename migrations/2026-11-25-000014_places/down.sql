-- Compares everybody's state with their latest session, and the totals of those who worked or claimed since `since`
-- (everybody's when it is NULL); sets what is wrong, and what the dashboard shows. Answers how many were wrong.
CREATE OR REPLACE FUNCTION app.compare_people(organization uuid, since timestamptz, now timestamptz) RETURNS integer
    LANGUAGE plpgsql AS $$
DECLARE
    wrong uuid;
    wrongs integer := 0;
BEGIN
    -- All of them are looked at now; whoever asks how fresh this table is asks for its newest row.
    UPDATE employee_last_state SET updated_at = now WHERE organization_id = organization AND employee_id = (
        SELECT employee_id FROM employee_last_state WHERE organization_id = organization ORDER BY employee_id LIMIT 1);
    FOR wrong IN
        SELECT e.id FROM employees e
            JOIN LATERAL (
                (SELECT s.id, s.checkin_at, s.checkout_at FROM attendance_sessions s
                 WHERE s.organization_id = organization AND s.employee_id = e.id AND s.checkout_at IS NULL LIMIT 1)
                UNION ALL
                (SELECT s.id, s.checkin_at, s.checkout_at FROM attendance_sessions s
                 WHERE s.organization_id = organization AND s.employee_id = e.id
                 ORDER BY s.checkin_at DESC, s.id DESC LIMIT 1)
                LIMIT 1) AS latest ON true
            LEFT JOIN employee_last_state kept ON kept.organization_id = organization AND kept.employee_id = e.id
        WHERE e.organization_id = organization
            AND ((kept.last_session_id, kept.is_checked_in, kept.last_check_in_at)
                    IS DISTINCT FROM (latest.id, latest.checkout_at IS NULL, latest.checkin_at)
                 -- While a session is open, the last check-out is that of another.
                 OR (latest.checkout_at IS NOT NULL AND kept.last_check_out_at IS DISTINCT FROM latest.checkout_at))
        ORDER BY e.id
    LOOP
        PERFORM app.set_last_state(organization, wrong, now);
        wrongs := wrongs + 1;
    END LOOP;
    UPDATE employee_metrics_snapshot SET updated_at = now WHERE organization_id = organization AND employee_id = (
        SELECT employee_id FROM employee_metrics_snapshot WHERE organization_id = organization ORDER BY employee_id LIMIT 1);
    FOR wrong IN
        SELECT e.id FROM employees e
            LEFT JOIN employee_metrics_snapshot kept ON kept.organization_id = organization AND kept.employee_id = e.id
            LEFT JOIN employee_expense_totals claims ON claims.organization_id = organization AND claims.employee_id = e.id
            JOIN LATERAL (
                SELECT count(*) AS sessions, coalesce(round(sum(s.total_duration_seconds) / 3600.0, 2), 0)::float8 AS hours,
                       coalesce(round(sum(s.total_distance_km::numeric), 4), 0)::float8 AS kilometres
                FROM attendance_sessions s
                WHERE s.organization_id = organization AND s.employee_id = e.id
                    AND s.checkout_at IS NOT NULL AND s.total_distance_km IS NOT NULL) AS worked ON true
        WHERE e.organization_id = organization
            AND (since IS NULL OR e.last_activity_at >= since OR kept.employee_id IS NULL
                 OR kept.total_expenses <> coalesce(round(claims.approved_amount, 2), 0))
            -- Whoever did nothing needs no row.
            AND (coalesce(kept.total_sessions, 0), coalesce(kept.total_hours, 0), coalesce(kept.total_distance, 0),
                 coalesce(kept.total_expenses, 0))
                IS DISTINCT FROM (worked.sessions, worked.hours, worked.kilometres, coalesce(round(claims.approved_amount, 2), 0))
        ORDER BY e.id
    LOOP
        PERFORM app.set_totals(organization, wrong, now);
        wrongs := wrongs + 1;
    END LOOP;
    PERFORM app.set_dashboard(organization, now);
    RETURN wrongs;
END
$$;
