DROP TABLE webhook_dlq_archive;
DROP TABLE webhook_deliveries;
DROP TABLE webhooks;
DROP TABLE relay_state;
DROP INDEX webhook_events_history;
DROP INDEX webhook_events_relayed;
ALTER TABLE webhook_events DROP COLUMN relayed;
