//! The tables as the migrations make them. A test compares every column with the database.

use diesel::{allow_tables_to_appear_in_same_query, table};

/// SQL types of our own.
pub mod sql_types {
    /// The enumeration `user_role`.
    #[derive(Debug, Clone, Copy, diesel::sql_types::SqlType, diesel::query_builder::QueryId)]
    #[diesel(postgres_type(name = "user_role"))]
    pub struct UserRole;

    /// The enumeration `expense_status`.
    #[derive(Debug, Clone, Copy, diesel::sql_types::SqlType, diesel::query_builder::QueryId)]
    #[diesel(postgres_type(name = "expense_status"))]
    pub struct ExpenseStatus;
}

table! {
    organizations (id) {
        id -> Uuid,
        name -> Text,
        slug -> Text,
        employee_counter -> BigInt,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        time_zone -> Text,
        time_zone_set_at -> Nullable<Timestamptz>,
    }
}

table! {
    employee_daily_metrics (organization_id, date, employee_id) {
        organization_id -> Uuid,
        date -> Date,
        employee_id -> Uuid,
        id -> Uuid,
        sessions -> Integer,
        distance_km -> Double,
        duration_seconds -> BigInt,
        expenses_count -> Integer,
        expenses_amount -> Numeric,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

table! {
    org_daily_metrics (organization_id, date) {
        organization_id -> Uuid,
        date -> Date,
        id -> Uuid,
        total_sessions -> BigInt,
        total_distance_km -> Double,
        total_duration_seconds -> BigInt,
        active_employees -> Integer,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

table! {
    employee_last_state (organization_id, employee_id) {
        organization_id -> Uuid,
        employee_id -> Uuid,
        last_session_id -> Nullable<Uuid>,
        is_checked_in -> Bool,
        last_latitude -> Nullable<Double>,
        last_longitude -> Nullable<Double>,
        last_location_at -> Nullable<Timestamptz>,
        last_check_in_at -> Nullable<Timestamptz>,
        last_check_out_at -> Nullable<Timestamptz>,
        updated_at -> Timestamptz,
    }
}

table! {
    employee_metrics_snapshot (organization_id, employee_id) {
        organization_id -> Uuid,
        employee_id -> Uuid,
        total_sessions -> BigInt,
        total_hours -> Double,
        total_distance -> Double,
        total_expenses -> Numeric,
        last_active_at -> Nullable<Timestamptz>,
        updated_at -> Timestamptz,
    }
}

table! {
    org_dashboard_snapshot (organization_id) {
        organization_id -> Uuid,
        active_employee_count -> BigInt,
        recent_employee_count -> BigInt,
        inactive_employee_count -> BigInt,
        active_employees_today -> BigInt,
        today_session_count -> BigInt,
        today_distance_km -> Double,
        pending_expense_count -> BigInt,
        pending_expense_amount -> Numeric,
        updated_at -> Timestamptz,
        compared_at -> Nullable<Timestamptz>,
    }
}

table! {
    use diesel::sql_types::*;
    use super::sql_types::UserRole;

    users (organization_id, id) {
        organization_id -> Uuid,
        id -> Uuid,
        email -> Text,
        role -> UserRole,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

table! {
    employees (organization_id, id) {
        organization_id -> Uuid,
        id -> Uuid,
        user_id -> Nullable<Uuid>,
        name -> Text,
        phone -> Nullable<Text>,
        is_active -> Bool,
        employee_code -> Text,
        employee_number -> Nullable<BigInt>,
        last_activity_at -> Nullable<Timestamptz>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

table! {
    user_credentials (organization_id, user_id) {
        organization_id -> Uuid,
        user_id -> Uuid,
        password_hash -> Text,
        banned_until -> Nullable<Timestamptz>,
        last_sign_in_at -> Nullable<Timestamptz>,
        updated_at -> Timestamptz,
    }
}

table! {
    refresh_tokens (organization_id, token_hash) {
        organization_id -> Uuid,
        token_hash -> Bytea,
        user_id -> Uuid,
        family_id -> Uuid,
        created_at -> Timestamptz,
        used_at -> Nullable<Timestamptz>,
        revoked_at -> Nullable<Timestamptz>,
    }
}

table! {
    signing_keys (kid) {
        kid -> Text,
        sealed_private_key -> Bytea,
        public_key -> Bytea,
        created_at -> Timestamptz,
        retired_at -> Nullable<Timestamptz>,
    }
}

table! {
    attendance_sessions (organization_id, id) {
        organization_id -> Uuid,
        id -> Uuid,
        employee_id -> Uuid,
        checkin_at -> Timestamptz,
        checkout_at -> Nullable<Timestamptz>,
        distance_recalculation_status -> Text,
        total_distance_km -> Nullable<Double>,
        total_duration_seconds -> Nullable<Integer>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        dirty_from -> Nullable<Timestamptz>,
        dirty_since -> Nullable<Timestamptz>,
        measured_m -> Double,
        measured_points -> BigInt,
        measured_to -> Nullable<Timestamptz>,
        measured_latitude -> Nullable<Double>,
        measured_longitude -> Nullable<Double>,
    }
}

table! {
    session_summaries (organization_id, session_id) {
        organization_id -> Uuid,
        session_id -> Uuid,
        id -> Uuid,
        total_distance_km -> Double,
        total_duration_seconds -> Integer,
        avg_speed_kmh -> Double,
        computed_at -> Timestamptz,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

table! {
    gps_locations (organization_id, session_id, recorded_at) {
        organization_id -> Uuid,
        session_id -> Uuid,
        recorded_at -> Timestamptz,
        id -> Uuid,
        employee_id -> Uuid,
        latitude -> Double,
        longitude -> Double,
        accuracy -> Nullable<Double>,
        sequence_number -> Nullable<BigInt>,
        is_duplicate -> Bool,
    }
}

table! {
    schedule_turns (task) {
        task -> Text,
        due_at -> Timestamptz,
        taken_at -> Timestamptz,
    }
}

table! {
    webhook_events (organization_id, id) {
        organization_id -> Uuid,
        id -> Uuid,
        position -> BigInt,
        event_type -> Text,
        payload -> Jsonb,
        live -> Nullable<Jsonb>,
        trace -> Nullable<Text>,
        created_at -> Timestamptz,
        relayed_at -> Nullable<Timestamptz>,
        relayed -> Nullable<BigInt>,
    }
}

table! {
    relay_state (id) {
        id -> Bool,
        relayed -> BigInt,
        published -> BigInt,
        holder -> Nullable<Uuid>,
        held_until -> Nullable<Timestamptz>,
    }
}

table! {
    webhooks (organization_id, id) {
        organization_id -> Uuid,
        id -> Uuid,
        url -> Text,
        sealed_secret -> Bytea,
        events -> Array<Text>,
        is_active -> Bool,
        retry_schedule -> Text,
        failure_streak -> Integer,
        last_failure_at -> Nullable<Timestamptz>,
        circuit_open_until -> Nullable<Timestamptz>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

table! {
    webhook_deliveries (organization_id, id) {
        organization_id -> Uuid,
        id -> Uuid,
        webhook_id -> Uuid,
        event_id -> Uuid,
        event_type -> Text,
        status -> Text,
        attempt_count -> Integer,
        response_status -> Nullable<Integer>,
        response_body -> Nullable<Text>,
        last_error -> Nullable<Text>,
        last_attempt_at -> Nullable<Timestamptz>,
        next_retry_at -> Nullable<Timestamptz>,
        claimed_until -> Nullable<Timestamptz>,
        dead_at -> Nullable<Timestamptz>,
        created_at -> Timestamptz,
    }
}

table! {
    webhook_dlq_archive (organization_id, id) {
        organization_id -> Uuid,
        id -> Uuid,
        delivery_id -> Uuid,
        webhook_id -> Uuid,
        event_id -> Uuid,
        url -> Text,
        attempt_number -> Integer,
        failed_at -> Timestamptz,
        archived_at -> Timestamptz,
        reason -> Text,
    }
}

table! {
    api_keys (organization_id, id) {
        organization_id -> Uuid,
        id -> Uuid,
        name -> Text,
        key_hash -> Text,
        key_salt -> Text,
        key_prefix -> Text,
        scopes -> Array<Text>,
        active -> Bool,
        request_count -> BigInt,
        error_count -> BigInt,
        created_by -> Nullable<Uuid>,
        last_used_at -> Nullable<Timestamptz>,
        revoked_at -> Nullable<Timestamptz>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

table! {
    admin_audit_log (organization_id, id) {
        organization_id -> Uuid,
        id -> Uuid,
        event -> Text,
        actor_id -> Nullable<Uuid>,
        resource_type -> Nullable<Text>,
        resource_id -> Nullable<Text>,
        payload -> Jsonb,
        created_at -> Timestamptz,
        position -> Nullable<BigInt>,
        hash -> Nullable<Bytea>,
    }
}

table! {
    audit_chains (organization_id) {
        organization_id -> Uuid,
        position -> BigInt,
        hash -> Bytea,
    }
}

table! {
    use diesel::sql_types::*;
    use super::sql_types::ExpenseStatus;

    expenses (organization_id, id) {
        organization_id -> Uuid,
        id -> Uuid,
        employee_id -> Uuid,
        amount -> Numeric,
        description -> Text,
        status -> ExpenseStatus,
        receipt_url -> Nullable<Text>,
        submitted_at -> Timestamptz,
        reviewed_at -> Nullable<Timestamptz>,
        reviewed_by -> Nullable<Uuid>,
        rejection_comment -> Nullable<Text>,
        idempotency_key -> Nullable<Text>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        receipt_etag -> Nullable<Text>,
    }
}

table! {
    employee_expense_totals (organization_id, employee_id) {
        organization_id -> Uuid,
        employee_id -> Uuid,
        pending_count -> BigInt,
        pending_amount -> Numeric,
        approved_count -> BigInt,
        approved_amount -> Numeric,
        rejected_count -> BigInt,
        rejected_amount -> Numeric,
        latest_submitted_at -> Timestamptz,
    }
}

table! {
    admin_sessions (organization_id, id) {
        organization_id -> Uuid,
        id -> Uuid,
        admin_id -> Uuid,
        started_at -> Timestamptz,
        ended_at -> Nullable<Timestamptz>,
        created_at -> Timestamptz,
    }
}

table! {
    queue_retry_intents (organization_id, id) {
        organization_id -> Uuid,
        id -> Uuid,
        queue_name -> Text,
        job_key -> Text,
        payload -> Jsonb,
        status -> Text,
        retry_count -> Integer,
        next_retry_at -> Timestamptz,
        error_message -> Nullable<Text>,
        trace -> Nullable<Text>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

// Views: read as they are, never written.

table! {
    app.employee_states (organization_id, id) {
        organization_id -> Uuid,
        id -> Uuid,
        user_id -> Nullable<Uuid>,
        name -> Text,
        phone -> Nullable<Text>,
        is_active -> Bool,
        employee_code -> Text,
        employee_number -> Nullable<BigInt>,
        last_activity_at -> Nullable<Timestamptz>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        session_id -> Nullable<Uuid>,
        checkin_at -> Nullable<Timestamptz>,
        checkout_at -> Nullable<Timestamptz>,
        distance_recalculation_status -> Nullable<Text>,
        total_distance_km -> Nullable<Double>,
        total_duration_seconds -> Nullable<Integer>,
        session_updated_at -> Nullable<Timestamptz>,
        last_checkout_at -> Nullable<Timestamptz>,
    }
}

table! {
    sign_in_notices (organization_id, user_id) {
        organization_id -> Uuid,
        user_id -> Uuid,
        decision -> Uuid,
        due_at -> Timestamptz,
        taken_until -> Nullable<Timestamptz>,
    }
}

table! {
    app.employee_places (organization_id, employee_id) {
        organization_id -> Uuid,
        employee_id -> Uuid,
        latitude -> Double,
        longitude -> Double,
        recorded_at -> Timestamptz,
    }
}

allow_tables_to_appear_in_same_query!(
    organizations,
    users,
    employees,
    user_credentials,
    refresh_tokens,
    attendance_sessions,
    session_summaries,
    gps_locations,
    webhook_events,
    webhooks,
    webhook_deliveries,
    webhook_dlq_archive,
    api_keys,
    admin_audit_log,
    audit_chains,
    expenses,
    employee_expense_totals,
);
