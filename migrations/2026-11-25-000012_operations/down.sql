REVOKE SELECT (updated_at) ON org_dashboard_snapshot FROM fieldtrack_system;
DROP POLICY system_measures ON org_dashboard_snapshot;
DROP TABLE queue_retry_intents;
DROP TABLE admin_sessions;
