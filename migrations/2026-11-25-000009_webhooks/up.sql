-- Handing events on: to webhooks, and to streams that are open.

-- The number under which an event was handed on. One relay at a time gives numbers, in the transaction in which it fans
-- the event out, so a smaller number is never committed later. It is what streams call an event's id.
ALTER TABLE webhook_events ADD COLUMN relayed bigint;
CREATE INDEX webhook_events_relayed ON webhook_events (relayed) WHERE live IS NOT NULL;
-- A stream that was cut off asks for what it missed.
CREATE INDEX webhook_events_history ON webhook_events (organization_id, relayed) WHERE live IS NOT NULL;
GRANT UPDATE (relayed) ON webhook_events TO fieldtrack_system;

-- How far the relay is: the last number given, and the last one told to open streams. One row, which its holder keeps
-- moving; a holder that dies loses it when its time is over.
CREATE TABLE relay_state (
    id boolean PRIMARY KEY DEFAULT true CHECK (id),
    relayed bigint NOT NULL DEFAULT 0,
    published bigint NOT NULL DEFAULT 0,
    holder uuid,
    held_until timestamptz
);
INSERT INTO relay_state DEFAULT VALUES;
ALTER TABLE relay_state ENABLE ROW LEVEL SECURITY;
ALTER TABLE relay_state FORCE ROW LEVEL SECURITY;
CREATE POLICY system_relays ON relay_state TO fieldtrack_system USING (true) WITH CHECK (true);
GRANT SELECT, UPDATE (relayed, published, holder, held_until) ON relay_state TO fieldtrack_system;

CREATE TABLE webhooks (
    organization_id uuid NOT NULL REFERENCES organizations,
    id uuid NOT NULL,
    url text NOT NULL CHECK (url <> ''),
    -- Sealed with SECRETS_KEY for this very row.
    sealed_secret bytea NOT NULL,
    events text[] NOT NULL CHECK (cardinality(events) > 0),
    is_active boolean NOT NULL DEFAULT true,
    -- How attempts are spread: the contract's five within an hour and a half, or ten within three days.
    retry_schedule text NOT NULL DEFAULT 'standard' CHECK (retry_schedule IN ('standard', 'extended')),
    -- Failed attempts in a row, and when the last of them was.
    failure_streak integer NOT NULL DEFAULT 0,
    last_failure_at timestamptz,
    -- Set while the circuit breaker keeps it inactive; an administrator's decision leaves it NULL.
    circuit_open_until timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (organization_id, id)
);
CREATE INDEX webhooks_circuits ON webhooks (circuit_open_until) WHERE circuit_open_until IS NOT NULL;
ALTER TABLE webhooks ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhooks FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON webhooks
    USING (organization_id = ANY ((SELECT app.current_organizations())::uuid[]))
    WITH CHECK (organization_id = ANY ((SELECT app.current_organizations())::uuid[]));
-- The relay asks which webhooks want an event, the schedule which circuits may close. Neither sees address or secret.
CREATE POLICY system_relays ON webhooks FOR SELECT TO fieldtrack_system USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON webhooks TO fieldtrack_app;
GRANT SELECT (organization_id, id, events, is_active, circuit_open_until) ON webhooks TO fieldtrack_system;

-- One event on its way to one webhook. The row is the truth; the job only says that it is due.
CREATE TABLE webhook_deliveries (
    organization_id uuid NOT NULL,
    id uuid NOT NULL,
    webhook_id uuid NOT NULL,
    event_id uuid NOT NULL,
    event_type text NOT NULL,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'success', 'failed')),
    attempt_count integer NOT NULL DEFAULT 0,
    response_status integer,
    response_body text,
    last_error text,
    last_attempt_at timestamptz,
    -- When the next attempt is due, while it is pending.
    next_retry_at timestamptz,
    -- Set while an attempt is under way; whoever makes it and dies loses it then.
    claimed_until timestamptz,
    -- When it became a dead letter; NULL again once it was sent again or archived.
    dead_at timestamptz,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (organization_id, id),
    CONSTRAINT webhook_deliveries_once UNIQUE (organization_id, event_id, webhook_id),
    FOREIGN KEY (organization_id, webhook_id) REFERENCES webhooks (organization_id, id) ON DELETE CASCADE
);
CREATE INDEX webhook_deliveries_newest ON webhook_deliveries (organization_id, created_at DESC, id DESC);
CREATE INDEX webhook_deliveries_of_webhook ON webhook_deliveries (organization_id, webhook_id, created_at DESC);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (next_retry_at) WHERE status = 'pending';
CREATE INDEX webhook_deliveries_dead ON webhook_deliveries (organization_id, dead_at) WHERE dead_at IS NOT NULL;
CREATE INDEX webhook_deliveries_age ON webhook_deliveries (created_at);
ALTER TABLE webhook_deliveries ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhook_deliveries FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON webhook_deliveries
    USING (organization_id = ANY ((SELECT app.current_organizations())::uuid[]))
    WITH CHECK (organization_id = ANY ((SELECT app.current_organizations())::uuid[]));
-- The relay makes deliveries; the schedule looks for those whose job was lost, for organizations with dead letters to
-- archive, and removes what is older than the events. None of them sees an answer.
CREATE POLICY system_relays ON webhook_deliveries TO fieldtrack_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE ON webhook_deliveries TO fieldtrack_app;
GRANT SELECT (organization_id, id, webhook_id, event_id, event_type, status, attempt_count, next_retry_at, claimed_until,
              dead_at, created_at) ON webhook_deliveries TO fieldtrack_system;
GRANT INSERT, DELETE ON webhook_deliveries TO fieldtrack_system;

-- Dead letters that were given up.
CREATE TABLE webhook_dlq_archive (
    organization_id uuid NOT NULL REFERENCES organizations,
    id uuid NOT NULL,
    delivery_id uuid NOT NULL,
    webhook_id uuid NOT NULL,
    event_id uuid NOT NULL,
    url text NOT NULL,
    attempt_number integer NOT NULL,
    failed_at timestamptz NOT NULL,
    archived_at timestamptz NOT NULL,
    reason text NOT NULL CHECK (reason IN ('retention_policy', 'max_size_eviction')),
    PRIMARY KEY (organization_id, id)
);
ALTER TABLE webhook_dlq_archive ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhook_dlq_archive FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON webhook_dlq_archive
    USING (organization_id = ANY ((SELECT app.current_organizations())::uuid[]))
    WITH CHECK (organization_id = ANY ((SELECT app.current_organizations())::uuid[]));
GRANT SELECT, INSERT ON webhook_dlq_archive TO fieldtrack_app;
