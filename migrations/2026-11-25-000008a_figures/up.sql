-- Figures: what sessions and claims add up to. Every figure is set from the rows it is made of and never added to, so a
-- job may run twice, late or out of order. Each function below locks the row it is about to set and only then reads, in
-- a statement of its own: of two that run at once the second sees what the first did. Rows are locked in one order
-- everywhere (state, day, organization's day, totals, dashboard; by employee and day within each), so none wait in a
-- circle.

-- An IANA name; it decides the organization's days and weeks.
ALTER TABLE organizations ADD COLUMN time_zone text NOT NULL DEFAULT 'UTC'
    CHECK (time_zone ~ '^[A-Za-z0-9_+/-]{1,64}$');
-- When it was last changed: days are counted anew then.
ALTER TABLE organizations ADD COLUMN time_zone_set_at timestamptz;
GRANT UPDATE (time_zone, time_zone_set_at, updated_at) ON organizations TO fieldtrack_app;
-- The schedule asks for every organization's figures to be looked after; it sees that they are there and no more.
CREATE POLICY system_schedules ON organizations FOR SELECT TO fieldtrack_system USING (true);
GRANT SELECT (id) ON organizations TO fieldtrack_system;

CREATE FUNCTION app.is_time_zone(name text) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN EXISTS (SELECT FROM pg_timezone_names AS zones WHERE zones.name = is_time_zone.name);

CREATE FUNCTION app.time_zone_of(organization uuid) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (SELECT time_zone FROM organizations WHERE id = organization);

-- The day a moment belongs to. This alone decides; bounds for an index are drawn wider (app.around) and asked again.
CREATE FUNCTION app.day_of(moment timestamptz, zone text) RETURNS date
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (moment AT TIME ZONE zone)::date;

CREATE FUNCTION app.day_start(day date, zone text) RETURNS timestamptz
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN day::timestamp AT TIME ZONE zone;

-- A span of time that holds every moment of the days from `first` to `last`, and a little more: where clocks are put
-- back over midnight, a day begins twice.
CREATE FUNCTION app.around(first date, last date, zone text) RETURNS tstzrange
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN tstzrange(app.day_start(first, zone) - interval '3 hours', app.day_start(last + 1, zone) + interval '3 hours');

-- Sessions by the time they began, whoever's they are; and by the time they ended (those that go on last).
CREATE INDEX attendance_sessions_checkin ON attendance_sessions (organization_id, checkin_at);
CREATE INDEX attendance_sessions_checkout ON attendance_sessions (organization_id, checkout_at);

-- What an employee did on a day: closed sessions with a distance, by the day of their check-in, and claims, by the day
-- they were submitted.
CREATE TABLE employee_daily_metrics (
    organization_id uuid NOT NULL,
    date date NOT NULL,
    employee_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    sessions integer NOT NULL DEFAULT 0,
    -- To 3 decimals.
    distance_km float8 NOT NULL DEFAULT 0,
    duration_seconds bigint NOT NULL DEFAULT 0,
    expenses_count integer NOT NULL DEFAULT 0,
    expenses_amount numeric NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (organization_id, date, employee_id),
    FOREIGN KEY (organization_id, employee_id) REFERENCES employees (organization_id, id)
) WITH (fillfactor = 80);
CREATE INDEX employee_daily_metrics_employee ON employee_daily_metrics (organization_id, employee_id, date);

-- The sum of the days of its employees.
CREATE TABLE org_daily_metrics (
    organization_id uuid NOT NULL REFERENCES organizations,
    date date NOT NULL,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    total_sessions bigint NOT NULL DEFAULT 0,
    total_distance_km float8 NOT NULL DEFAULT 0,
    total_duration_seconds bigint NOT NULL DEFAULT 0,
    active_employees integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (organization_id, date)
) WITH (fillfactor = 80);

-- Everybody who ever checked in: their latest session and the last place that was measured.
CREATE TABLE employee_last_state (
    organization_id uuid NOT NULL,
    employee_id uuid NOT NULL,
    last_session_id uuid,
    is_checked_in boolean NOT NULL DEFAULT false,
    last_latitude float8,
    last_longitude float8,
    last_location_at timestamptz,
    last_check_in_at timestamptz,
    last_check_out_at timestamptz,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (organization_id, employee_id),
    FOREIGN KEY (organization_id, employee_id) REFERENCES employees (organization_id, id)
) WITH (fillfactor = 70);

-- What an employee did in all: closed sessions with a distance, hours to 2 decimals, kilometres to 4, approved claims
-- to 2.
CREATE TABLE employee_metrics_snapshot (
    organization_id uuid NOT NULL,
    employee_id uuid NOT NULL,
    total_sessions bigint NOT NULL DEFAULT 0,
    total_hours float8 NOT NULL DEFAULT 0,
    total_distance float8 NOT NULL DEFAULT 0,
    total_expenses numeric NOT NULL DEFAULT 0,
    last_active_at timestamptz,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (organization_id, employee_id),
    FOREIGN KEY (organization_id, employee_id) REFERENCES employees (organization_id, id)
) WITH (fillfactor = 70);

CREATE TABLE org_dashboard_snapshot (
    organization_id uuid PRIMARY KEY REFERENCES organizations,
    active_employee_count bigint NOT NULL DEFAULT 0,
    recent_employee_count bigint NOT NULL DEFAULT 0,
    inactive_employee_count bigint NOT NULL DEFAULT 0,
    active_employees_today bigint NOT NULL DEFAULT 0,
    today_session_count bigint NOT NULL DEFAULT 0,
    today_distance_km float8 NOT NULL DEFAULT 0,
    pending_expense_count bigint NOT NULL DEFAULT 0,
    pending_expense_amount numeric NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL,
    -- When every day of the organization was last compared with its sessions and claims.
    compared_at timestamptz
) WITH (fillfactor = 70);

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['employee_daily_metrics', 'org_daily_metrics', 'employee_last_state',
                                'employee_metrics_snapshot', 'org_dashboard_snapshot']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY tenant ON %I
                USING (organization_id = ANY ((SELECT app.current_organizations())::uuid[]))
                WITH CHECK (organization_id = ANY ((SELECT app.current_organizations())::uuid[]))', name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON %I TO fieldtrack_app', name);
    END LOOP;
END
$$;

-- Sets an employee's state from their latest session (the open one, else the one that began last).
CREATE FUNCTION app.set_last_state(organization uuid, employee uuid, now timestamptz) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO employee_last_state (organization_id, employee_id, updated_at) VALUES (organization, employee, now)
        ON CONFLICT (organization_id, employee_id) DO UPDATE SET updated_at = excluded.updated_at;
    UPDATE employee_last_state SET
        last_session_id = latest.id, is_checked_in = latest.id IS NOT NULL AND latest.checkout_at IS NULL,
        last_latitude = place.measured_latitude, last_longitude = place.measured_longitude,
        last_location_at = place.measured_to, last_check_in_at = latest.checkin_at, last_check_out_at = ended.checkout_at
    FROM (SELECT) AS one
        LEFT JOIN LATERAL (
            (SELECT id, checkin_at, checkout_at FROM attendance_sessions
             WHERE organization_id = organization AND employee_id = employee AND checkout_at IS NULL LIMIT 1)
            UNION ALL
            (SELECT id, checkin_at, checkout_at FROM attendance_sessions
             WHERE organization_id = organization AND employee_id = employee
             ORDER BY checkin_at DESC, id DESC LIMIT 1)
            LIMIT 1) AS latest ON true
        LEFT JOIN LATERAL (
            SELECT checkout_at FROM attendance_sessions
            WHERE organization_id = organization AND employee_id = employee AND checkout_at IS NOT NULL
            ORDER BY checkin_at DESC, id DESC LIMIT 1) AS ended ON true
        LEFT JOIN LATERAL (
            SELECT measured_latitude, measured_longitude, measured_to FROM attendance_sessions
            WHERE organization_id = organization AND employee_id = employee AND measured_to IS NOT NULL
            ORDER BY checkin_at DESC, id DESC LIMIT 1) AS place ON true
    WHERE organization_id = organization AND employee_id = employee;
END
$$;

-- What an employee did on each of the days from `first` to `last`, read from the rows it is made of; days without
-- anything are missing. All employees when `employee` is NULL.
CREATE FUNCTION app.count_days(organization uuid, employee uuid, first date, last date) RETURNS TABLE (
        employee_id uuid, date date, sessions integer, distance_km float8, duration_seconds bigint,
        expenses_count integer, expenses_amount numeric)
    LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    zone text := app.time_zone_of(organization);
    span tstzrange := app.around(first, last, zone);
BEGIN
    RETURN QUERY
    WITH worked AS (
        SELECT s.employee_id, app.day_of(s.checkin_at, zone) AS date, count(*)::integer AS sessions,
               round(sum(s.total_distance_km::numeric), 3)::float8 AS distance_km,
               sum(coalesce(s.total_duration_seconds, 0))::bigint AS duration_seconds
        FROM attendance_sessions s
        WHERE s.organization_id = organization AND (employee IS NULL OR s.employee_id = employee)
            AND s.checkin_at >= lower(span) AND s.checkin_at < upper(span)
            AND app.day_of(s.checkin_at, zone) BETWEEN first AND last
            AND s.checkout_at IS NOT NULL AND s.total_distance_km IS NOT NULL
        GROUP BY 1, 2
    ), claimed AS (
        SELECT e.employee_id, app.day_of(e.submitted_at, zone) AS date, count(*)::integer AS expenses_count,
               sum(e.amount) AS expenses_amount
        FROM expenses e
        WHERE e.organization_id = organization AND (employee IS NULL OR e.employee_id = employee)
            AND e.submitted_at >= lower(span) AND e.submitted_at < upper(span)
            AND app.day_of(e.submitted_at, zone) BETWEEN first AND last
        GROUP BY 1, 2
    )
    SELECT employee_id, date, coalesce(worked.sessions, 0), coalesce(worked.distance_km, 0),
           coalesce(worked.duration_seconds, 0), coalesce(claimed.expenses_count, 0),
           coalesce(claimed.expenses_amount, 0)
    FROM worked FULL JOIN claimed USING (employee_id, date);
END
$$;

-- Sets what an employee did on a day.
CREATE FUNCTION app.set_day(organization uuid, employee uuid, day date, now timestamptz) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO employee_daily_metrics (organization_id, date, employee_id, created_at, updated_at)
        VALUES (organization, day, employee, now, now)
        ON CONFLICT (organization_id, date, employee_id) DO UPDATE SET updated_at = excluded.updated_at;
    UPDATE employee_daily_metrics metrics SET
        sessions = coalesce(counted.sessions, 0), distance_km = coalesce(counted.distance_km, 0),
        duration_seconds = coalesce(counted.duration_seconds, 0),
        expenses_count = coalesce(counted.expenses_count, 0), expenses_amount = coalesce(counted.expenses_amount, 0)
    FROM (SELECT) AS one LEFT JOIN app.count_days(organization, employee, day, day) AS counted ON true
    WHERE metrics.organization_id = organization AND metrics.date = day AND metrics.employee_id = employee;
END
$$;

-- Sets an organization's day from those of its employees.
CREATE FUNCTION app.set_org_day(organization uuid, day date, now timestamptz) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO org_daily_metrics (organization_id, date, created_at, updated_at) VALUES (organization, day, now, now)
        ON CONFLICT (organization_id, date) DO UPDATE SET updated_at = excluded.updated_at;
    UPDATE org_daily_metrics SET
        total_sessions = counted.sessions, total_distance_km = counted.distance_km,
        total_duration_seconds = counted.duration_seconds, active_employees = counted.employees
    FROM (
        SELECT coalesce(sum(sessions), 0) AS sessions,
               coalesce(round(sum(distance_km::numeric), 3), 0)::float8 AS distance_km,
               coalesce(sum(duration_seconds), 0) AS duration_seconds,
               count(*) FILTER (WHERE sessions > 0) AS employees
        FROM employee_daily_metrics WHERE organization_id = organization AND date = day) AS counted
    WHERE organization_id = organization AND date = day;
END
$$;

-- Sets what an employee did in all.
CREATE FUNCTION app.set_totals(organization uuid, employee uuid, now timestamptz) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO employee_metrics_snapshot (organization_id, employee_id, updated_at) VALUES (organization, employee, now)
        ON CONFLICT (organization_id, employee_id) DO UPDATE SET updated_at = excluded.updated_at;
    UPDATE employee_metrics_snapshot SET
        total_sessions = worked.sessions, total_hours = worked.hours, total_distance = worked.kilometres,
        total_expenses = coalesce((
            SELECT round(approved_amount, 2) FROM employee_expense_totals
            WHERE organization_id = organization AND employee_id = employee), 0),
        last_active_at = (SELECT last_activity_at FROM employees WHERE organization_id = organization AND id = employee)
    FROM (
        SELECT count(*) AS sessions,
               coalesce(round(sum(total_duration_seconds) / 3600.0, 2), 0)::float8 AS hours,
               coalesce(round(sum(total_distance_km::numeric), 4), 0)::float8 AS kilometres
        FROM attendance_sessions
        WHERE organization_id = organization AND employee_id = employee
            AND checkout_at IS NOT NULL AND total_distance_km IS NOT NULL) AS worked
    WHERE organization_id = organization AND employee_id = employee;
END
$$;

-- How live everybody is who ever checked in, what today's sessions and the claims that wait for a review add up to; read
-- from the sessions and claims themselves, whatever jobs have run.
CREATE FUNCTION app.count_dashboard(organization uuid, now timestamptz) RETURNS TABLE (
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
         (SELECT count(*) AS inactive FROM employee_last_state s
          WHERE s.organization_id = organization AND s.last_session_id IS NOT NULL
              AND NOT EXISTS (SELECT FROM live WHERE live.employee_id = s.employee_id)) AS rest,
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

-- Sets what the dashboard shows. Answers whether there is such an organization.
CREATE FUNCTION app.set_dashboard(organization uuid, now timestamptz) RETURNS boolean
    LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM organizations WHERE id = organization) THEN
        RETURN false;
    END IF;
    INSERT INTO org_dashboard_snapshot (organization_id, updated_at) VALUES (organization, now)
        ON CONFLICT (organization_id) DO UPDATE SET updated_at = excluded.updated_at;
    UPDATE org_dashboard_snapshot SET
        active_employee_count = counted.active, recent_employee_count = counted.recent,
        inactive_employee_count = counted.inactive, active_employees_today = counted.active,
        today_session_count = counted.sessions, today_distance_km = counted.distance_km,
        pending_expense_count = counted.pending_count, pending_expense_amount = counted.pending_amount
    FROM app.count_dashboard(organization, now) AS counted
    WHERE organization_id = organization;
    RETURN true;
END
$$;

-- Everything that follows from a session's figures, in the transaction that sets them. What an open session adds up to
-- is told by the session alone: days and totals count closed ones. Answers whether there is such a session.
CREATE FUNCTION app.session_counts(organization uuid, session uuid, now timestamptz) RETURNS boolean
    LANGUAGE plpgsql AS $$
DECLARE
    counted record;
    day date;
BEGIN
    SELECT employee_id, checkin_at, checkout_at INTO counted FROM attendance_sessions
        WHERE organization_id = organization AND id = session;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM app.set_last_state(organization, counted.employee_id, now);
    IF counted.checkout_at IS NOT NULL THEN
        day := app.day_of(counted.checkin_at, app.time_zone_of(organization));
        PERFORM app.set_day(organization, counted.employee_id, day, now);
        PERFORM app.set_org_day(organization, day, now);
        PERFORM app.set_totals(organization, counted.employee_id, now);
    END IF;
    RETURN true;
END
$$;

-- What follows from something an employee did: their state and their totals. Answers whether there is such an employee.
CREATE FUNCTION app.employee_counts(organization uuid, employee uuid, now timestamptz) RETURNS boolean
    LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM employees WHERE organization_id = organization AND id = employee) THEN
        RETURN false;
    END IF;
    PERFORM app.set_last_state(organization, employee, now);
    PERFORM app.set_totals(organization, employee, now);
    RETURN true;
END
$$;

-- What follows from a claim: the day it was submitted, and its employee's totals. Answers whether there is such a claim.
CREATE FUNCTION app.expense_counts(organization uuid, expense uuid, now timestamptz) RETURNS boolean
    LANGUAGE plpgsql AS $$
DECLARE
    counted record;
    day date;
BEGIN
    SELECT employee_id, submitted_at INTO counted FROM expenses WHERE organization_id = organization AND id = expense;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    day := app.day_of(counted.submitted_at, app.time_zone_of(organization));
    PERFORM app.set_day(organization, counted.employee_id, day, now);
    PERFORM app.set_org_day(organization, day, now);
    PERFORM app.set_totals(organization, counted.employee_id, now);
    RETURN true;
END
$$;

-- Compares the days from `first` to `last` with the sessions and claims they are made of, and sets those that are
-- wrong, `most` of the employees' at a time; answers how many were. After a change of the time zone that may be all.
CREATE FUNCTION app.compare_days(organization uuid, first date, last date, most integer, now timestamptz) RETURNS integer
    LANGUAGE plpgsql AS $$
DECLARE
    wrong record;
    wrongs integer := 0;
BEGIN
    FOR wrong IN
        SELECT coalesce(counted.employee_id, kept.employee_id) AS employee_id, coalesce(counted.date, kept.date) AS date
        FROM app.count_days(organization, NULL, first, last) AS counted
            FULL JOIN (SELECT * FROM employee_daily_metrics
                       WHERE organization_id = organization AND date BETWEEN first AND last) AS kept
                ON kept.employee_id = counted.employee_id AND kept.date = counted.date
        WHERE (coalesce(counted.sessions, 0), coalesce(counted.distance_km, 0), coalesce(counted.duration_seconds, 0),
               coalesce(counted.expenses_count, 0), coalesce(counted.expenses_amount, 0))
            IS DISTINCT FROM
              (coalesce(kept.sessions, 0), coalesce(kept.distance_km, 0), coalesce(kept.duration_seconds, 0),
               coalesce(kept.expenses_count, 0), coalesce(kept.expenses_amount, 0))
        ORDER BY 1, 2 LIMIT most
    LOOP
        PERFORM app.set_day(organization, wrong.employee_id, wrong.date, now);
        wrongs := wrongs + 1;
    END LOOP;
    FOR wrong IN
        SELECT coalesce(counted.date, kept.date) AS date
        FROM (SELECT date, sum(sessions) AS sessions, round(sum(distance_km::numeric), 3)::float8 AS distance_km,
                     sum(duration_seconds) AS duration_seconds, count(*) FILTER (WHERE sessions > 0) AS employees
              FROM employee_daily_metrics
              WHERE organization_id = organization AND date BETWEEN first AND last GROUP BY date) AS counted
            FULL JOIN (SELECT * FROM org_daily_metrics
                       WHERE organization_id = organization AND date BETWEEN first AND last) AS kept
                ON kept.date = counted.date
        WHERE (coalesce(counted.sessions, 0), coalesce(counted.distance_km, 0), coalesce(counted.duration_seconds, 0),
               coalesce(counted.employees, 0))
            IS DISTINCT FROM
              (coalesce(kept.total_sessions, 0), coalesce(kept.total_distance_km, 0),
               coalesce(kept.total_duration_seconds, 0), coalesce(kept.active_employees, 0))
        ORDER BY 1
    LOOP
        PERFORM app.set_org_day(organization, wrong.date, now);
        wrongs := wrongs + 1;
    END LOOP;
    RETURN wrongs;
END
$$;

-- Compares everybody's state with their latest session, and the totals of those who worked or claimed since `since`
-- (everybody's when it is NULL); sets what is wrong, and what the dashboard shows. Answers how many were wrong.
CREATE FUNCTION app.compare_people(organization uuid, since timestamptz, now timestamptz) RETURNS integer
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
