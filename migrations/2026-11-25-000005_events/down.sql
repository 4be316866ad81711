DROP FUNCTION app.verify_audit(uuid);
DROP TABLE audit_chains;
DROP TRIGGER chained ON admin_audit_log;
DROP FUNCTION app.chain_audit();
DROP FUNCTION app.audit_hash(bytea, admin_audit_log);
DROP TABLE admin_audit_log;
DROP TABLE webhook_events;
DROP FUNCTION app.wake_relay();
