-- How live everybody is who ever checked in, what today's sessions and the claims that wait for a review add up to; read
-- from the sessions and claims themselves, whatever jobs have run.
CREATE OR REPLACE FUNCTION app.count_dashboard(organization uuid, now timestamptz) RETURNS TABLE (
        active bigint, recent bigint, inactive bigint, sessions bigint, distance_km float8, duration_seconds bigint,
        pending_count bigint, pending_amount numeric)
    LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    zone text := app.time_zone_of(organization);
    today date := app.day_of(now, zone);
    span tstzrange := app.around(today, today, zone);
BEGIN
    RETURN QUERY
    WITH live AS MATERIALIZED (
        SELECT employee_id, bool_or(checkout_at IS NULL) AS active FROM attendance_sessions
        WHERE organization_id = organization AND (checkout_at IS NULL OR checkout_at > now - interval '24 hours')
        GROUP BY employee_id
    )
    SELECT people.active, people.recent, rest.inactive, worked.sessions, worked.distance_km, worked.duration_seconds,
           claims.pending_count, claims.pending_amount
    FROM (SELECT count(*) FILTER (WHERE live.active) AS active, count(*) FILTER (WHERE NOT live.active) AS recent
          FROM live) AS people,
         -- Not from the last states, which jobs keep: this has to hold when none ran.
         (SELECT count(*) AS inactive FROM employees e
          WHERE e.organization_id = organization
              AND EXISTS (SELECT FROM attendance_sessions s WHERE s.organization_id = organization AND s.employee_id = e.id)
              AND NOT EXISTS (SELECT FROM live WHERE live.employee_id = e.id)) AS rest,
         (SELECT count(*) AS sessions, coalesce(round(sum(total_distance_km::numeric), 3), 0)::float8 AS distance_km,
                 coalesce(sum(total_duration_seconds), 0) AS duration_seconds
          FROM attendance_sessions
          WHERE organization_id = organization AND checkin_at >= lower(span) AND checkin_at < upper(span)
              AND app.day_of(checkin_at, zone) = today
              AND checkout_at IS NOT NULL AND total_distance_km IS NOT NULL) AS worked,
         (SELECT coalesce(sum(t.pending_count), 0)::bigint AS pending_count,
                 coalesce(sum(t.pending_amount), 0) AS pending_amount
          FROM employee_expense_totals t WHERE t.organization_id = organization) AS claims;
END
$$;
