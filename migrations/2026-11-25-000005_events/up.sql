-- What happened, written in the transaction of the change it tells of, and who did what.

-- One row a type of the webhook contract; two names of one action are two rows. The relay hands rows on that are not
-- marked, in the order of `position`. It never keeps a cursor: a transaction that commits later with a smaller number
-- is simply found unmarked. What one caller saw before doing the next thing has the smaller number and is visible
-- whenever the later one is, so cause comes before effect without any lock.
CREATE TABLE webhook_events (
    organization_id uuid NOT NULL REFERENCES organizations,
    id uuid NOT NULL,
    position bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    event_type text NOT NULL,
    -- The envelope: the body of a webhook request.
    payload jsonb NOT NULL,
    -- What open streams are told, on one row of each action; NULL on the others.
    live jsonb,
    -- The trace and the request it happened in.
    trace text,
    created_at timestamptz NOT NULL,
    relayed_at timestamptz,
    PRIMARY KEY (organization_id, id)
);
CREATE INDEX webhook_events_waiting ON webhook_events (position) WHERE relayed_at IS NULL;
CREATE INDEX webhook_events_age ON webhook_events (created_at);
ALTER TABLE webhook_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhook_events FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON webhook_events
    USING (organization_id = ANY ((SELECT app.current_organizations())::uuid[]))
    WITH CHECK (organization_id = ANY ((SELECT app.current_organizations())::uuid[]));
-- The relay hands on the events of all organizations and marks them; retention removes old ones.
CREATE POLICY system_relays ON webhook_events TO fieldtrack_system USING (true) WITH CHECK (true);
GRANT SELECT ON webhook_events TO fieldtrack_app;
-- Not the mark: nobody can write an event that the relay passes over.
GRANT INSERT (organization_id, id, event_type, payload, live, trace, created_at) ON webhook_events TO fieldtrack_app;
GRANT SELECT, DELETE, UPDATE (relayed_at) ON webhook_events TO fieldtrack_system;

-- Whoever writes an event wakes the relay, when the transaction commits.
CREATE FUNCTION app.wake_relay() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('webhook_events', '');
    RETURN NULL;
END
$$;
CREATE TRIGGER wakes_relay AFTER INSERT ON webhook_events FOR EACH STATEMENT EXECUTE FUNCTION app.wake_relay();

-- Who did what. The application may add rows and read them; nobody but the owner may change or remove any, and then the
-- chain shows it: each row is hashed together with the hash of the row before it in its organization.
CREATE TABLE admin_audit_log (
    organization_id uuid NOT NULL REFERENCES organizations,
    id uuid NOT NULL,
    event text NOT NULL CHECK (event <> ''),
    -- The signed-in user; NULL for API keys (the payload names the key) and for what the system does by itself.
    actor_id uuid,
    resource_type text,
    resource_id text,
    payload jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(payload) = 'object'),
    created_at timestamptz NOT NULL,
    -- Place and hash in the chain, filled in by app.chain_audit when the transaction commits.
    position bigint,
    hash bytea CHECK (octet_length(hash) = 32),
    PRIMARY KEY (organization_id, id),
    UNIQUE (organization_id, position)
);
CREATE INDEX admin_audit_log_newest ON admin_audit_log (organization_id, created_at DESC, id DESC);
ALTER TABLE admin_audit_log ENABLE ROW LEVEL SECURITY;
ALTER TABLE admin_audit_log FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON admin_audit_log
    USING (organization_id = ANY ((SELECT app.current_organizations())::uuid[]))
    WITH CHECK (organization_id = ANY ((SELECT app.current_organizations())::uuid[]));
-- `audit verify` on the command line looks at the chains of all organizations.
CREATE POLICY system_verifies ON admin_audit_log FOR SELECT TO fieldtrack_system USING (true);
GRANT SELECT ON admin_audit_log TO fieldtrack_app, fieldtrack_system;
GRANT INSERT (organization_id, id, event, actor_id, resource_type, resource_id, payload, created_at)
    ON admin_audit_log TO fieldtrack_app;

-- The end of each chain: without it, rows cut off at the end would not be missed. Its row is also what makes writers of
-- one organization follow each other.
CREATE TABLE audit_chains (
    organization_id uuid PRIMARY KEY REFERENCES organizations,
    position bigint NOT NULL,
    hash bytea NOT NULL CHECK (octet_length(hash) = 32)
);
ALTER TABLE audit_chains ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_chains FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON audit_chains
    USING (organization_id = ANY ((SELECT app.current_organizations())::uuid[]))
    WITH CHECK (organization_id = ANY ((SELECT app.current_organizations())::uuid[]));
CREATE POLICY system_verifies ON audit_chains FOR SELECT TO fieldtrack_system USING (true);
GRANT SELECT ON audit_chains TO fieldtrack_app, fieldtrack_system;

-- The hash of a row: SHA-256 over the 32 bytes of the hash before it (zeros before the first), followed by the UTF-8
-- text of the JSON array [organization, position, id, event, actor, resource type, resource id, payload, microseconds
-- since 1970 of created_at], as PostgreSQL writes jsonb. docs/decisions/0010 has an example to compute by hand.
CREATE FUNCTION app.audit_hash(previous bytea, entry admin_audit_log) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN sha256(coalesce(previous, decode(repeat('00', 32), 'hex')) || convert_to(jsonb_build_array(
        entry.organization_id, entry.position, entry.id, entry.event, entry.actor_id, entry.resource_type,
        entry.resource_id, entry.payload, (extract(epoch FROM entry.created_at) * 1000000)::bigint)::text, 'UTF8'));

-- Puts a new row at the end of its organization's chain. It runs at the very end of the transaction, when every other
-- lock has been taken, so that writers wait for each other only for the length of a commit and never in a circle.
-- Runs as the owner: the application's role can write neither a place nor a hash.
CREATE FUNCTION app.chain_audit() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    entry admin_audit_log;
    last audit_chains;
BEGIN
    INSERT INTO audit_chains VALUES (NEW.organization_id, 0, decode(repeat('00', 32), 'hex')) ON CONFLICT DO NOTHING;
    SELECT * INTO STRICT last FROM audit_chains WHERE organization_id = NEW.organization_id FOR UPDATE;
    entry := NEW;
    entry.position := last.position + 1;
    entry.hash := app.audit_hash(last.hash, entry);
    UPDATE admin_audit_log SET position = entry.position, hash = entry.hash
        WHERE organization_id = NEW.organization_id AND id = NEW.id;
    UPDATE audit_chains SET position = entry.position, hash = entry.hash WHERE organization_id = NEW.organization_id;
    RETURN NULL;
END
$$;
REVOKE EXECUTE ON FUNCTION app.chain_audit() FROM PUBLIC;
CREATE CONSTRAINT TRIGGER chained AFTER INSERT ON admin_audit_log
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.chain_audit();

-- The first thing wrong with the chain of an organization; no row when nothing is. `id` is the row that is changed, or
-- the first one after a gap; NULL when rows are missing at the end. One statement, so one moment.
CREATE FUNCTION app.verify_audit(in_organization uuid)
    RETURNS TABLE (problem text, at_position bigint, id uuid)
    LANGUAGE sql STABLE AS $$
    WITH places AS (
        SELECT entry AS entry, entry.position, entry.hash, false AS is_end
        FROM admin_audit_log AS entry WHERE organization_id = in_organization
        UNION ALL
        -- The end, as a row behind the last.
        SELECT NULL::admin_audit_log, coalesce(max(position), 0) + 1, (array_agg(hash))[1], true
        FROM audit_chains WHERE organization_id = in_organization
    ), chain AS (
        SELECT *, coalesce(lag(position) OVER nearest, 0) + 1 AS due, lag(hash) OVER nearest AS previous FROM places
        WINDOW nearest AS (ORDER BY position NULLS LAST, is_end)
    )
    SELECT CASE WHEN position IS NULL THEN 'unchained' WHEN position <> due THEN 'missing' ELSE 'changed' END,
           CASE WHEN position IS NULL OR is_end AND position = due THEN position - 1 ELSE least(position, due) END,
           (entry).id
    FROM chain
    WHERE position IS NULL OR position <> due
        OR CASE WHEN is_end THEN coalesce(hash, previous) IS DISTINCT FROM previous
                ELSE hash IS DISTINCT FROM app.audit_hash(previous, entry) END
    ORDER BY position NULLS LAST LIMIT 1
$$;
