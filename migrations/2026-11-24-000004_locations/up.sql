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
    USING (organization_id = ANY ((SELECT app.current_organizations())::uuid[]))
    WITH CHECK (organization_id = ANY ((SELECT app.current_organizations())::uuid[]));
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

-- Uploads of many sessions, gathered by the gateway into one statement and one commit; each is stored whole or not at
-- all. `sizes` says how many of the points, in order, belong to which upload. The gateway orders uploads by
-- organization and session, as app.record_points does: two gatherings never wait for each other in a circle.
--
-- Answers {outcome, stored} for each upload, one after the other.
CREATE FUNCTION app.record_batches(
    organizations uuid[], sessions uuid[], employees_of uuid[], sizes integer[], ids uuid[], times timestamptz[],
    latitudes float8[], longitudes float8[], accuracies float8[], sequences bigint[], accepted_at timestamptz
) RETURNS integer[]
    LANGUAGE plpgsql AS $$
DECLARE
    answers integer[] := '{}';
    first integer := 1;
    last integer;
BEGIN
    FOR upload IN 1..cardinality(sessions) LOOP
        last := first + sizes[upload] - 1;
        answers := answers || app.record_batch(
            organizations[upload], sessions[upload], employees_of[upload], ids[first:last], times[first:last],
            latitudes[first:last], longitudes[first:last], accuracies[first:last], sequences[first:last], accepted_at);
        first := last + 1;
    END LOOP;
    RETURN answers;
END
$$;

-- Single points of many sessions, gathered by the gateway into one statement and one commit. Row-level security lets
-- through the organizations of these very points; each point is joined to its session by organization, session and
-- employee at once, so none can land in another's. Sessions are locked in one order everywhere.
--
-- Answers one outcome a point, in the order given. 2: stored, and the session was clean before; 1: stored; 0: the
-- point was there already; -1 and -2 as above.
CREATE FUNCTION app.record_points(
    organizations uuid[], sessions uuid[], employees_of uuid[], ids uuid[], times timestamptz[],
    latitudes float8[], longitudes float8[], accuracies float8[], sequences bigint[], accepted_at timestamptz
) RETURNS smallint[]
    LANGUAGE plpgsql AS $$
DECLARE
    outcomes smallint[];
BEGIN
    PERFORM set_config('app.organization_id', array_to_string(ARRAY(SELECT DISTINCT unnest(organizations)), ','), true);
    WITH asked AS MATERIALIZED (
        SELECT * FROM unnest(organizations, sessions, employees_of, ids, times, latitudes, longitudes, accuracies,
                             sequences) WITH ORDINALITY
            AS fix (organization_id, session_id, employee_id, id, recorded_at, latitude, longitude, accuracy,
                    sequence_number, place)
    ), live AS MATERIALIZED (
        SELECT s.organization_id, s.id, s.employee_id, s.checkin_at,
               s.dirty_from IS NULL OR s.distance_recalculation_status = 'failed' AS clean
        FROM attendance_sessions s
        WHERE (s.organization_id, s.id) IN (SELECT asked.organization_id, asked.session_id FROM asked)
            AND s.checkout_at IS NULL
        ORDER BY s.organization_id, s.id
        FOR NO KEY UPDATE
    ), kept AS (
        INSERT INTO gps_locations (organization_id, session_id, recorded_at, id, employee_id, latitude, longitude,
                                   accuracy, sequence_number)
        SELECT asked.organization_id, asked.session_id, asked.recorded_at, asked.id, asked.employee_id, asked.latitude,
               asked.longitude, asked.accuracy, asked.sequence_number
        FROM asked JOIN live ON live.organization_id = asked.organization_id AND live.id = asked.session_id
            AND live.employee_id = asked.employee_id
        WHERE asked.recorded_at >= live.checkin_at
        ORDER BY asked.place
        ON CONFLICT DO NOTHING
        RETURNING id, organization_id, session_id, recorded_at
    ), marked AS (
        UPDATE attendance_sessions s
        SET dirty_from = least(s.dirty_from, first.recorded_at), dirty_since = coalesce(s.dirty_since, accepted_at),
            distance_recalculation_status = 'pending', updated_at = accepted_at
        FROM (SELECT organization_id, session_id, min(recorded_at) AS recorded_at FROM kept GROUP BY 1, 2) AS first
        WHERE s.organization_id = first.organization_id AND s.id = first.session_id
            AND (s.dirty_from IS NULL OR first.recorded_at < s.dirty_from
                 OR s.distance_recalculation_status = 'failed')
    ), seen AS (
        UPDATE employees e SET last_activity_at = accepted_at
        FROM live
        WHERE e.organization_id = live.organization_id AND e.id = live.employee_id
            AND (e.last_activity_at IS NULL OR e.last_activity_at < accepted_at - interval '1 minute')
    )
    SELECT array_agg(
        CASE
            WHEN live.id IS NULL THEN -1
            WHEN asked.recorded_at < live.checkin_at THEN -2
            WHEN kept.id IS NULL THEN 0
            WHEN live.clean THEN 2
            ELSE 1
        END::smallint ORDER BY asked.place)
    INTO outcomes
    FROM asked
        LEFT JOIN live ON live.organization_id = asked.organization_id AND live.id = asked.session_id
            AND live.employee_id = asked.employee_id
        LEFT JOIN kept ON kept.id = asked.id;
    RETURN outcomes;
END
$$;
