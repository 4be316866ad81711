-- When each task of the schedule is due next. Whoever moves the time on runs the turn: with any number of workers
-- exactly one does. It belongs to no organization.
CREATE TABLE schedule_turns (
    task text PRIMARY KEY,
    due_at timestamptz NOT NULL,
    -- When the last turn was taken.
    taken_at timestamptz NOT NULL
);
ALTER TABLE schedule_turns ENABLE ROW LEVEL SECURITY;
ALTER TABLE schedule_turns FORCE ROW LEVEL SECURITY;
CREATE POLICY system_schedules ON schedule_turns TO fieldtrack_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE ON schedule_turns TO fieldtrack_system;

-- Drops the months of fixes that ended before `horizon`, and older fixes that the default partition caught; says how
-- many months it dropped. Figures stay as they were measured: a measurement that finds fewer points than were measured
-- before changes nothing. Runs as the owner, who alone may drop tables.
CREATE FUNCTION app.drop_partitions(horizon date) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    dropped integer := 0;
    month text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('app.ensure_partitions'));
    FOR month IN
        SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'gps_locations'::regclass AND relname ~ '^gps_locations_[0-9]{4}_[0-9]{2}$'
            AND to_date(right(relname, 7), 'YYYY_MM') + interval '1 month' <= horizon
        ORDER BY relname
    LOOP
        EXECUTE format('DROP TABLE %I', month);
        dropped := dropped + 1;
    END LOOP;
    -- The owner is held by the policies too, and no policy lets it see the points of every organization.
    ALTER TABLE gps_locations_default NO FORCE ROW LEVEL SECURITY;
    DELETE FROM gps_locations_default WHERE recorded_at < horizon::timestamp AT TIME ZONE 'UTC';
    ALTER TABLE gps_locations_default FORCE ROW LEVEL SECURITY;
    RETURN dropped;
END
$$;
REVOKE EXECUTE ON FUNCTION app.drop_partitions(date) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.drop_partitions(date) TO fieldtrack_system;
