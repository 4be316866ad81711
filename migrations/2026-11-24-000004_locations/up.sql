-- Where people went. The natural key is at once the rule against doubles, the order of a route and the only index:
-- every further index costs a quarter to a half of an insert. There is no foreign key to the session for the same
-- reason; the functions below lock the session before they write, and nothing else may write.
CREATE TABLE gps_locations (
    organization_id uuid NOT NULL,
    session_id uuid NOT NULL,
    recorded_at timestamptz NOT NULL,
    id uuid NOT NULL,
    employee_id uuid NOT NULL,
    latitude float8 NOT NULL CHECK (latitude BETWEEN -90 AND 90),
    longitude float8 NOT NULL CHECK (longitude BETWEEN -180 AND 180),
    accuracy float8 CHECK (accuracy >= 0),
    sequence_number bigint,
    is_duplicate boolean NOT NULL DEFAULT false,
    PRIMARY KEY (organization_id, session_id, recorded_at)
) PARTITION BY RANGE (recorded_at);
ALTER TABLE gps_locations ENABLE ROW LEVEL SECURITY;
ALTER TABLE gps_locations FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON gps_locations
    USING (organization_id = (SELECT app.current_organization()))
    WITH CHECK (organization_id = (SELECT app.current_organization()));
GRANT SELECT, INSERT ON gps_locations TO fieldtrack_app;

CREATE TABLE gps_locations_default PARTITION OF gps_locations DEFAULT;
ALTER TABLE gps_locations_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE gps_locations_default FORCE ROW LEVEL SECURITY;

-- Makes the partitions of the month of `first` and of the `ahead` months after it; says how many it made. Points that
-- the default partition caught meanwhile move into their month. Runs as the owner, who alone may make tables.
CREATE FUNCTION app.ensure_partitions(first date, ahead integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    month date := date_trunc('month', first);
    made integer := 0;
    name text;
BEGIN
    -- Two workers may have the same idea; the second finds the tables made.
    PERFORM pg_advisory_xact_lock(hashtext('app.ensure_partitions'));
    FOR i IN 0..least(greatest(ahead, 0), 120) LOOP
        name := 'gps_locations_' || to_char(month, 'YYYY_MM');
        IF to_regclass(name) IS NULL THEN
            EXECUTE format('CREATE TABLE %I (LIKE gps_locations INCLUDING ALL)', name);
            -- The owner is held by the policies too, and no policy lets it see the points of every organization.
            ALTER TABLE gps_locations_default NO FORCE ROW LEVEL SECURITY;
            EXECUTE format(
                'WITH moved AS (DELETE FROM gps_locations_default WHERE recorded_at >= %L AND recorded_at < %L RETURNING *)
                 INSERT INTO %I SELECT * FROM moved',
                month::timestamp AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC', name);
            ALTER TABLE gps_locations_default FORCE ROW LEVEL SECURITY;
            EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
            EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
            EXECUTE format('ALTER TABLE gps_locations ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                name, month::timestamp AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC');
            made := made + 1;
        END IF;
        month := month + interval '1 month';
    END LOOP;
    RETURN made;
END
$$;
REVOKE EXECUTE ON FUNCTION app.ensure_partitions(date, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.ensure_partitions(date, integer) TO fieldtrack_system;
SELECT app.ensure_partitions((now() AT TIME ZONE 'UTC')::date, 3);

-- One upload of one session, in one round trip and one transaction: the tenant is set, the session checked and locked,
-- the points stored, the session marked. The lock makes uploads, measurement and check-out of one session follow each
-- other, so a measurement never clears the mark of points that it has not read.
--
-- Answers {outcome, stored}. Outcome 1: stored, and the session was clean before, so its measurement has to be asked
-- for; 0: stored, or nothing new; -1: no such open session of this employee; -2: a point is older than the session.
CREATE FUNCTION app.record_batch(
    in_organization uuid, in_session uuid, in_employee uuid, ids uuid[], times timestamptz[],
    latitudes float8[], longitudes float8[], accuracies float8[], sequences bigint[], accepted_at timestamptz
) RETURNS integer[]
    LANGUAGE plpgsql AS $$
DECLARE
    session record;
    stored integer;
    earliest timestamptz;
    outcome integer := 0;
BEGIN
    PERFORM set_config('app.organization_id', in_organization::text, true);
    SELECT checkin_at, dirty_from, distance_recalculation_status AS status INTO session FROM attendance_sessions
        WHERE organization_id = in_organization AND id = in_session AND employee_id = in_employee
            AND checkout_at IS NULL
        FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN ARRAY[-1, 0];
    END IF;
    IF EXISTS (SELECT FROM unnest(times) AS time WHERE time < session.checkin_at) THEN
        RETURN ARRAY[-2, 0];
    END IF;
    WITH kept AS (
        INSERT INTO gps_locations (organization_id, session_id, recorded_at, id, employee_id, latitude, longitude,
                                   accuracy, sequence_number)
        SELECT in_organization, in_session, fix.recorded_at, fix.id, in_employee, fix.latitude, fix.longitude,
               fix.accuracy, fix.sequence_number
        FROM unnest(ids, times, latitudes, longitudes, accuracies, sequences)
            AS fix (id, recorded_at, latitude, longitude, accuracy, sequence_number)
        ON CONFLICT DO NOTHING
        RETURNING recorded_at
    )
    SELECT count(*), min(recorded_at) INTO stored, earliest FROM kept;
    IF stored > 0 AND (session.dirty_from IS NULL OR earliest < session.dirty_from OR session.status = 'failed') THEN
        outcome := (session.dirty_from IS NULL OR session.status = 'failed')::integer;
        UPDATE attendance_sessions
            SET dirty_from = least(dirty_from, earliest), dirty_since = coalesce(dirty_since, accepted_at),
                distance_recalculation_status = 'pending', updated_at = accepted_at
            WHERE organization_id = in_organization AND id = in_session;
    END IF;
    -- To the minute: nobody reads it finer, and a row a minute is cheaper than a row an upload.
    UPDATE employees SET last_activity_at = accepted_at
        WHERE organization_id = in_organization AND id = in_employee
            AND (last_activity_at IS NULL OR last_activity_at < accepted_at - interval '1 minute');
    RETURN ARRAY[outcome, stored];
END
$$;

-- Single points of many sessions, gathered by the gateway into one statement and one commit. Each organization's turn
-- sets the tenant anew, so row-level security judges every row by its own organization. Sessions are locked in one
-- order everywhere, so two gatherings cannot wait for each other.
--
-- Answers one outcome a point, in the order given. 2: stored, and the session was clean before; 1: stored; 0: the
-- point was there already; -1 and -2 as above.
CREATE FUNCTION app.record_points(
    organizations uuid[], sessions uuid[], employees_of uuid[], ids uuid[], times timestamptz[],
    latitudes float8[], longitudes float8[], accuracies float8[], sequences bigint[], accepted_at timestamptz
) RETURNS smallint[]
    LANGUAGE plpgsql AS $$
DECLARE
    outcomes smallint[] := array_fill(-1::smallint, ARRAY[cardinality(ids)]);
    tenant uuid;
    answer record;
BEGIN
    FOR tenant IN SELECT DISTINCT o FROM unnest(organizations) AS o ORDER BY o LOOP
        PERFORM set_config('app.organization_id', tenant::text, true);
        FOR answer IN
            WITH asked AS MATERIALIZED (
                SELECT fix.* FROM unnest(organizations, sessions, employees_of, ids, times, latitudes, longitudes,
                                         accuracies, sequences) WITH ORDINALITY
                    AS fix (organization_id, session_id, employee_id, id, recorded_at, latitude, longitude, accuracy,
                            sequence_number, place)
                WHERE fix.organization_id = tenant
            ), live AS MATERIALIZED (
                SELECT s.id, s.employee_id, s.checkin_at,
                       s.dirty_from IS NULL OR s.distance_recalculation_status = 'failed' AS clean
                FROM attendance_sessions s
                WHERE s.organization_id = tenant AND s.id = ANY (sessions) AND s.checkout_at IS NULL
                ORDER BY s.id
                FOR NO KEY UPDATE
            ), kept AS (
                INSERT INTO gps_locations (organization_id, session_id, recorded_at, id, employee_id, latitude,
                                           longitude, accuracy, sequence_number)
                SELECT tenant, asked.session_id, asked.recorded_at, asked.id, asked.employee_id, asked.latitude,
                       asked.longitude, asked.accuracy, asked.sequence_number
                FROM asked JOIN live ON live.id = asked.session_id AND live.employee_id = asked.employee_id
                WHERE asked.recorded_at >= live.checkin_at
                ORDER BY asked.place
                ON CONFLICT DO NOTHING
                RETURNING id, session_id, recorded_at
            ), marked AS (
                UPDATE attendance_sessions s
                SET dirty_from = least(s.dirty_from, first.recorded_at),
                    dirty_since = coalesce(s.dirty_since, accepted_at),
                    distance_recalculation_status = 'pending', updated_at = accepted_at
                FROM (SELECT session_id, min(recorded_at) AS recorded_at FROM kept GROUP BY session_id) AS first
                WHERE s.organization_id = tenant AND s.id = first.session_id
                    AND (s.dirty_from IS NULL OR first.recorded_at < s.dirty_from
                         OR s.distance_recalculation_status = 'failed')
                RETURNING s.id
            ), seen AS (
                UPDATE employees e SET last_activity_at = accepted_at
                FROM (SELECT DISTINCT employee_id FROM live) AS moving
                WHERE e.organization_id = tenant AND e.id = moving.employee_id
                    AND (e.last_activity_at IS NULL OR e.last_activity_at < accepted_at - interval '1 minute')
            )
            SELECT asked.place,
                   CASE
                       WHEN live.id IS NULL THEN -1
                       WHEN asked.recorded_at < live.checkin_at THEN -2
                       WHEN kept.id IS NULL THEN 0
                       WHEN live.clean AND marked.id IS NOT NULL THEN 2
                       ELSE 1
                   END AS outcome
            FROM asked
                LEFT JOIN live ON live.id = asked.session_id AND live.employee_id = asked.employee_id
                LEFT JOIN kept ON kept.id = asked.id
                LEFT JOIN marked ON marked.id = live.id
        LOOP
            outcomes[answer.place] := answer.outcome;
        END LOOP;
    END LOOP;
    RETURN outcomes;
END
$$;
