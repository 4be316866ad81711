//! Figures: kept by jobs that set them, read by dashboards and rankings.
//!
//! The functions of the database (`migrations/*_figures`) say what each figure is made of, and lock what they set; days
//! are those of the organization's time zone, decided by `app.day_of` alone.

use bigdecimal::BigDecimal;
use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Date, Double, Integer, Nullable, Numeric, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use domain::analytics::{Dashboard, DayTotals, Metric, OrganizationTotals, Period, Ranked, UserTotals, Week};
use domain::location::round_2;
use domain::{EmployeeId, ExpenseId, SessionId, UserId};

use crate::{DbResult, SystemTx, TenantTx};

mod functions {
    use diesel::declare_sql_function;
    use diesel::sql_types::{Date, Nullable, Timestamptz, Uuid};

    #[declare_sql_function]
    extern "SQL" {
        /// What follows from a session's figures.
        #[sql_name = "app.session_counts"]
        fn session_counts(organization: Uuid, session: Uuid, now: Timestamptz) -> Bool;
        /// What follows from something an employee did.
        #[sql_name = "app.employee_counts"]
        fn employee_counts(organization: Uuid, employee: Uuid, now: Timestamptz) -> Bool;
        /// What follows from a claim.
        #[sql_name = "app.expense_counts"]
        fn expense_counts(organization: Uuid, expense: Uuid, now: Timestamptz) -> Bool;
        /// What the dashboard shows.
        #[sql_name = "app.set_dashboard"]
        fn set_dashboard(organization: Uuid, now: Timestamptz) -> Bool;
        /// Days that are not what they are made of.
        #[sql_name = "app.compare_days"]
        fn compare_days(
            organization: Uuid,
            first: Date,
            last: Date,
            most: diesel::sql_types::Integer,
            now: Timestamptz,
        ) -> Integer;
        /// People who are not what they are made of.
        #[sql_name = "app.compare_people"]
        fn compare_people(organization: Uuid, since: Nullable<Timestamptz>, now: Timestamptz) -> Integer;
    }
}

/// Sets everything that a session's figures are part of: its employee's state and, once it is closed, the day of its
/// check-in and the employee's totals. Answers whether there is such a session.
#[tracing::instrument(name = "db session counts", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn session_counts(tx: &mut TenantTx, session: SessionId, now: DateTime<Utc>) -> DbResult<bool> {
    let organization = tx.organization();
    let set = functions::session_counts(organization, session.uuid(), now);
    Ok(diesel::select(set).get_result(tx.connection()).await?)
}

/// Sets an employee's state and totals. Answers whether there is such an employee.
#[tracing::instrument(name = "db employee counts", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn employee_counts(tx: &mut TenantTx, employee: EmployeeId, now: DateTime<Utc>) -> DbResult<bool> {
    let organization = tx.organization();
    let set = functions::employee_counts(organization, employee.uuid(), now);
    Ok(diesel::select(set).get_result(tx.connection()).await?)
}

/// Sets the day a claim was submitted on, and its employee's totals. Answers whether there is such a claim.
#[tracing::instrument(name = "db expense counts", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn expense_counts(tx: &mut TenantTx, expense: ExpenseId, now: DateTime<Utc>) -> DbResult<bool> {
    let organization = tx.organization();
    let set = functions::expense_counts(organization, expense.uuid(), now);
    Ok(diesel::select(set).get_result(tx.connection()).await?)
}

/// Sets what the dashboard shows. Answers whether there is such an organization.
#[tracing::instrument(name = "db set dashboard", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn set_dashboard(tx: &mut TenantTx, now: DateTime<Utc>) -> DbResult<bool> {
    let organization = tx.organization();
    Ok(diesel::select(functions::set_dashboard(organization, now)).get_result(tx.connection()).await?)
}

/// Which days have to be compared with what they are made of, in spans that fit a transaction each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// Whether that is all of them.
    pub is_whole: bool,
    /// First and last day of each span.
    pub spans: Vec<(NaiveDate, NaiveDate)>,
}

/// Every day is compared once in so long, and whenever the time zone was changed; else the last few.
const WHOLE_EVERY: TimeDelta = TimeDelta::hours(24);

/// A change of the time zone overlaps with jobs that have begun before it: for so long days are compared again.
const ZONE_SETTLES: TimeDelta = TimeDelta::minutes(15);

/// Days that are always compared: today, the two before it, and tomorrow for clocks that disagree.
const DAYS_BACK: Days = Days::new(2);

/// What has to be compared at `now`; `None` when there is no such organization.
pub async fn comparison(tx: &mut TenantTx, now: DateTime<Utc>) -> DbResult<Option<Comparison>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Date)]
        today: NaiveDate,
        #[diesel(sql_type = Nullable<Timestamptz>)]
        time_zone_set_at: Option<DateTime<Utc>>,
        #[diesel(sql_type = Nullable<Timestamptz>)]
        compared_at: Option<DateTime<Utc>>,
        #[diesel(sql_type = Nullable<Date>)]
        first: Option<NaiveDate>,
    }
    let organization = tx.organization();
    let row: Option<Row> = sql_query(
        "SELECT app.day_of($2, o.time_zone) AS today, o.time_zone_set_at, d.compared_at,
                least((SELECT app.day_of(min(checkin_at), o.time_zone) FROM attendance_sessions WHERE organization_id = o.id),
                      (SELECT app.day_of(min(submitted_at), o.time_zone) FROM expenses WHERE organization_id = o.id),
                      (SELECT min(date) FROM employee_daily_metrics WHERE organization_id = o.id)) AS first
         FROM organizations o LEFT JOIN org_dashboard_snapshot d ON d.organization_id = o.id WHERE o.id = $1",
    )
    .bind::<SqlUuid, _>(organization)
    .bind::<Timestamptz, _>(now)
    .get_result(tx.connection())
    .await
    .optional()?;
    let Some(row) = row else { return Ok(None) };
    let tomorrow = row.today + Days::new(1);
    let is_whole = row.compared_at.is_none_or(|compared| {
        now - compared >= WHOLE_EVERY || row.time_zone_set_at.is_some_and(|set| compared < set + ZONE_SETTLES)
    });
    let mut first = row.today - DAYS_BACK;
    if is_whole {
        first = row.first.unwrap_or(first).min(first);
    }
    let mut spans = Vec::new();
    while first <= tomorrow {
        let last = (first + Days::new(30)).min(tomorrow);
        spans.push((first, last));
        first = last + Days::new(1);
    }
    Ok(Some(Comparison { is_whole, spans }))
}

/// Days of employees that are set in one transaction at most: about two seconds' worth.
pub const DAYS_AT_ONCE: i32 = 2000;

/// Compares the days from `first` to `last` with the sessions and claims they are made of, and sets those that are
/// wrong; answers how many were. From [`DAYS_AT_ONCE`] on there may be more: commit, and compare again.
#[tracing::instrument(name = "db compare days", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn compare_days(tx: &mut TenantTx, first: NaiveDate, last: NaiveDate, now: DateTime<Utc>) -> DbResult<i32> {
    let organization = tx.organization();
    let compare = functions::compare_days(organization, first, last, DAYS_AT_ONCE, now);
    Ok(diesel::select(compare).get_result(tx.connection()).await?)
}

/// Compares everybody's state, and the totals of those who did something in the last days (`whole`: everybody's), with
/// what they are made of; sets those that are wrong, and the dashboard. Answers how many were wrong.
pub async fn compare_people(tx: &mut TenantTx, whole: bool, now: DateTime<Utc>) -> DbResult<i32> {
    let organization = tx.organization();
    let since = if whole { None } else { Some(now - TimeDelta::hours(48)) };
    let compare = functions::compare_people(organization, since, now);
    let wrong = diesel::select(compare).get_result(tx.connection()).await?;
    if whole {
        sql_query("UPDATE org_dashboard_snapshot SET compared_at = $2 WHERE organization_id = $1")
            .bind::<SqlUuid, _>(organization)
            .bind::<Timestamptz, _>(now)
            .execute(tx.connection())
            .await?;
    }
    Ok(wrong)
}

/// Midnight in the organization's time zone, `days` days before today: where a day begins twice, since clocks are put back
/// to midnight, the first time.
pub async fn midnight(tx: &mut TenantTx, days: u16, now: DateTime<Utc>) -> DbResult<DateTime<Utc>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Timestamptz)]
        midnight: DateTime<Utc>,
    }
    let organization = tx.organization();
    let row: Row = sql_query(
        "SELECT min(moment) AS midnight
         FROM (SELECT time_zone, app.day_of($2, time_zone) - $3 AS day FROM organizations WHERE id = $1) AS asked,
              LATERAL (VALUES (app.day_start(day, time_zone)), (app.day_start(day, time_zone) - interval '1 hour'))
                  AS begins (moment)
         WHERE app.day_of(moment, time_zone) = day",
    )
    .bind::<SqlUuid, _>(organization)
    .bind::<Timestamptz, _>(now)
    .bind::<Integer, _>(i32::from(days))
    .get_result(tx.connection())
    .await?;
    Ok(row.midnight)
}

/// What the organization did in a period: sessions by whole days, claims by the moment.
#[tracing::instrument(name = "db organization totals", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn organization_totals(tx: &mut TenantTx, period: Period) -> DbResult<OrganizationTotals> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        sessions: i64,
        #[diesel(sql_type = Double)]
        distance_km: f64,
        #[diesel(sql_type = BigInt)]
        duration_s: i64,
        #[diesel(sql_type = BigInt)]
        expenses: i64,
        #[diesel(sql_type = Numeric)]
        approved: BigDecimal,
        #[diesel(sql_type = Numeric)]
        rejected: BigDecimal,
        #[diesel(sql_type = BigInt)]
        at_work: i64,
    }
    let organization = tx.organization();
    let row: Row = sql_query(
        "WITH days AS (
             SELECT coalesce(app.day_of($2, time_zone), '-infinity') AS first,
                    coalesce(app.day_of($3, time_zone), 'infinity') AS last
             FROM organizations WHERE id = $1
         )
         SELECT worked.*, claimed.*,
                (SELECT count(*) FROM attendance_sessions WHERE organization_id = $1 AND checkout_at IS NULL) AS at_work
         FROM (SELECT coalesce(sum(total_sessions), 0)::bigint AS sessions,
                      coalesce(sum(total_distance_km), 0) AS distance_km,
                      coalesce(sum(total_duration_seconds), 0)::bigint AS duration_s
               FROM org_daily_metrics WHERE organization_id = $1
                   AND date >= (SELECT first FROM days) AND date <= (SELECT last FROM days)) AS worked,
              (SELECT count(*) AS expenses,
                      coalesce(sum(amount) FILTER (WHERE status = 'APPROVED'), 0) AS approved,
                      coalesce(sum(amount) FILTER (WHERE status = 'REJECTED'), 0) AS rejected
               FROM expenses WHERE organization_id = $1
                   AND submitted_at >= coalesce($2, '-infinity') AND submitted_at <= coalesce($3, 'infinity')) AS claimed",
    )
    .bind::<SqlUuid, _>(organization)
    .bind::<Nullable<Timestamptz>, _>(period.from)
    .bind::<Nullable<Timestamptz>, _>(period.to)
    .get_result(tx.connection())
    .await?;
    Ok(OrganizationTotals {
        sessions: row.sessions,
        distance_km: round_2(row.distance_km),
        duration_s: row.duration_s,
        expenses: row.expenses,
        approved: row.approved.into(),
        rejected: row.rejected.into(),
        at_work: row.at_work,
    })
}

/// What one user did in a period, also when they were deactivated since; nothing when they are no employee.
#[tracing::instrument(name = "db user totals", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn user_totals(tx: &mut TenantTx, user: UserId, period: Period) -> DbResult<UserTotals> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        sessions: i64,
        #[diesel(sql_type = Double)]
        distance_km: f64,
        #[diesel(sql_type = BigInt)]
        duration_s: i64,
        #[diesel(sql_type = BigInt)]
        expenses: i64,
        #[diesel(sql_type = Numeric)]
        approved: BigDecimal,
    }
    let organization = tx.organization();
    let row: Row = sql_query(
        "WITH who AS (
             SELECT e.id, coalesce(app.day_of($3, o.time_zone), '-infinity') AS first,
                    coalesce(app.day_of($4, o.time_zone), 'infinity') AS last
             FROM employees e JOIN organizations o ON o.id = e.organization_id
             WHERE e.organization_id = $1 AND e.user_id = $2
         )
         SELECT worked.*, claimed.*
         FROM (SELECT coalesce(sum(sessions), 0)::bigint AS sessions, coalesce(sum(distance_km), 0) AS distance_km,
                      coalesce(sum(duration_seconds), 0)::bigint AS duration_s
               FROM employee_daily_metrics WHERE organization_id = $1 AND employee_id = (SELECT id FROM who)
                   AND date >= (SELECT first FROM who) AND date <= (SELECT last FROM who)) AS worked,
              (SELECT count(*) AS expenses, coalesce(sum(amount) FILTER (WHERE status = 'APPROVED'), 0) AS approved
               FROM expenses WHERE organization_id = $1 AND employee_id = (SELECT id FROM who)
                   AND submitted_at >= coalesce($3, '-infinity') AND submitted_at <= coalesce($4, 'infinity')) AS claimed",
    )
    .bind::<SqlUuid, _>(organization)
    .bind::<SqlUuid, _>(user.uuid())
    .bind::<Nullable<Timestamptz>, _>(period.from)
    .bind::<Nullable<Timestamptz>, _>(period.to)
    .get_result(tx.connection())
    .await?;
    Ok(UserTotals {
        sessions: row.sessions,
        distance_km: round_2(row.distance_km),
        duration_s: row.duration_s,
        expenses: row.expenses,
        approved: row.approved.into(),
    })
}

#[derive(QueryableByName)]
struct RankedRow {
    #[diesel(sql_type = SqlUuid)]
    employee_id: uuid::Uuid,
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    employee_code: String,
    #[diesel(sql_type = Double)]
    distance_km: f64,
    #[diesel(sql_type = BigInt)]
    sessions: i64,
    #[diesel(sql_type = BigInt)]
    duration_s: i64,
    #[diesel(sql_type = Numeric)]
    expenses: BigDecimal,
}

impl From<RankedRow> for Ranked {
    fn from(row: RankedRow) -> Self {
        Self {
            employee: row.employee_id.into(),
            name: row.name,
            code: row.employee_code,
            distance_km: round_2(row.distance_km),
            sessions: row.sessions,
            duration_s: row.duration_s,
            expenses: row.expenses.into(),
        }
    }
}

/// Employees by what they did in a period, read from the sessions that began in it, open ones included; of equals the
/// one who checked in last comes first. `expenses` stays nothing.
#[tracing::instrument(name = "db top performers", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn top_performers(tx: &mut TenantTx, metric: Metric, period: Period, most: i64) -> DbResult<Vec<Ranked>> {
    let organization = tx.organization();
    let rows: Vec<RankedRow> = sql_query(format!(
        "SELECT top.employee_id, e.name, e.employee_code, top.distance_km, top.sessions, top.duration_s, 0::numeric AS expenses
         FROM (SELECT employee_id, coalesce(sum(total_distance_km), 0) AS distance_km, count(*) AS sessions,
                      coalesce(sum(total_duration_seconds), 0)::bigint AS duration_s, max(checkin_at) AS latest,
                      {figure} AS figure
               FROM attendance_sessions
               WHERE organization_id = $1 AND checkin_at >= coalesce($2, '-infinity') AND checkin_at <= coalesce($3, 'infinity')
               GROUP BY employee_id
               ORDER BY figure DESC, latest DESC, employee_id LIMIT $4) AS top
             JOIN employees e ON e.organization_id = $1 AND e.id = top.employee_id
         ORDER BY top.figure DESC, top.latest DESC, top.employee_id",
        figure = match metric {
            // A sum of doubles depends on their order in its last bits; equals must be equal.
            Metric::Distance => "round(coalesce(sum(total_distance_km), 0)::numeric, 2)",
            Metric::Duration => "coalesce(sum(total_duration_seconds), 0)",
            Metric::Sessions | Metric::Expenses => "count(*)",
        },
    ))
    .bind::<SqlUuid, _>(organization)
    .bind::<Nullable<Timestamptz>, _>(period.from)
    .bind::<Nullable<Timestamptz>, _>(period.to)
    .bind::<BigInt, _>(most)
    .load(tx.connection())
    .await?;
    Ok(rows.into_iter().map(Ranked::from).collect())
}

/// Employees by what they did on the days of a period, in the order of their ids where they are equal. Whoever did
/// nothing at all is left out.
#[tracing::instrument(name = "db leaderboard", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn leaderboard(tx: &mut TenantTx, metric: Metric, period: Period, most: i64) -> DbResult<Vec<Ranked>> {
    let organization = tx.organization();
    let rows: Vec<RankedRow> = sql_query(format!(
        "WITH days AS (
             SELECT coalesce(app.day_of($2, time_zone), '-infinity') AS first,
                    coalesce(app.day_of($3, time_zone), 'infinity') AS last
             FROM organizations WHERE id = $1
         )
         SELECT top.employee_id, e.name, e.employee_code, top.distance_km, top.sessions, top.duration_s, top.expenses
         FROM (SELECT employee_id, sum(distance_km) AS distance_km, sum(sessions)::bigint AS sessions,
                      sum(duration_seconds)::bigint AS duration_s, sum(expenses_amount) AS expenses,
                      {figure} AS figure
               FROM employee_daily_metrics
               WHERE organization_id = $1 AND date >= (SELECT first FROM days) AND date <= (SELECT last FROM days)
               GROUP BY employee_id
               HAVING sum(sessions) > 0 OR sum(expenses_count) > 0
               ORDER BY figure DESC, employee_id LIMIT $4) AS top
             JOIN employees e ON e.organization_id = $1 AND e.id = top.employee_id
         ORDER BY top.figure DESC, top.employee_id",
        figure = match metric {
            // As above.
            Metric::Distance => "round(sum(distance_km)::numeric, 3)",
            Metric::Duration => "sum(duration_seconds)",
            Metric::Sessions => "sum(sessions)",
            Metric::Expenses => "sum(expenses_amount)",
        },
    ))
    .bind::<SqlUuid, _>(organization)
    .bind::<Nullable<Timestamptz>, _>(period.from)
    .bind::<Nullable<Timestamptz>, _>(period.to)
    .bind::<BigInt, _>(most)
    .load(tx.connection())
    .await?;
    Ok(rows.into_iter().map(Ranked::from).collect())
}

/// The days of a period that have sessions, oldest first.
#[tracing::instrument(name = "db days", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn days(tx: &mut TenantTx, period: Period) -> DbResult<Vec<DayTotals>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Date)]
        date: NaiveDate,
        #[diesel(sql_type = BigInt)]
        total_sessions: i64,
        #[diesel(sql_type = Double)]
        total_distance_km: f64,
        #[diesel(sql_type = BigInt)]
        total_duration_seconds: i64,
    }
    let organization = tx.organization();
    let rows: Vec<Row> = sql_query(
        "WITH days AS (
             SELECT coalesce(app.day_of($2, time_zone), '-infinity') AS first,
                    coalesce(app.day_of($3, time_zone), 'infinity') AS last
             FROM organizations WHERE id = $1
         )
         SELECT date, total_sessions, total_distance_km, total_duration_seconds
         FROM org_daily_metrics
         WHERE organization_id = $1 AND date >= (SELECT first FROM days) AND date <= (SELECT last FROM days)
             AND total_sessions > 0
         ORDER BY date",
    )
    .bind::<SqlUuid, _>(organization)
    .bind::<Nullable<Timestamptz>, _>(period.from)
    .bind::<Nullable<Timestamptz>, _>(period.to)
    .load(tx.connection())
    .await?;
    let day = |row: Row| DayTotals {
        date: row.date,
        sessions: row.total_sessions,
        distance_km: round_2(row.total_distance_km),
        duration_s: row.total_duration_seconds,
    };
    Ok(rows.into_iter().map(day).collect())
}

/// What the organization is doing right now; read from sessions and claims, whatever jobs have run.
#[tracing::instrument(name = "db dashboard", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn dashboard(tx: &mut TenantTx, now: DateTime<Utc>) -> DbResult<Dashboard> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        active: i64,
        #[diesel(sql_type = BigInt)]
        recent: i64,
        #[diesel(sql_type = BigInt)]
        inactive: i64,
        #[diesel(sql_type = BigInt)]
        sessions: i64,
        #[diesel(sql_type = Double)]
        distance_km: f64,
        #[diesel(sql_type = BigInt)]
        duration_seconds: i64,
        #[diesel(sql_type = BigInt)]
        pending_count: i64,
        #[diesel(sql_type = Numeric)]
        pending_amount: BigDecimal,
        #[diesel(sql_type = Nullable<Timestamptz>)]
        kept_at: Option<DateTime<Utc>>,
        #[diesel(sql_type = Date)]
        today: NaiveDate,
    }
    let organization = tx.organization();
    let row: Row = sql_query(
        "SELECT counted.*, app.day_of($2, app.time_zone_of($1)) AS today,
                (SELECT updated_at FROM org_dashboard_snapshot WHERE organization_id = $1) AS kept_at
         FROM app.count_dashboard($1, $2) AS counted",
    )
    .bind::<SqlUuid, _>(organization)
    .bind::<Timestamptz, _>(now)
    .get_result(tx.connection())
    .await?;
    Ok(Dashboard {
        active: row.active,
        recent: row.recent,
        inactive: row.inactive,
        sessions_today: row.sessions,
        distance_today_km: round_2(row.distance_km),
        duration_today_s: row.duration_seconds,
        pending_expenses: row.pending_count,
        pending_amount: row.pending_amount.into(),
        kept_at: row.kept_at,
        today: row.today,
    })
}

/// What an employee did in the week of `now`, which begins on Monday in the organization's time zone; read from sessions
/// and claims, whatever jobs have run. A session that goes on counts as far as it was measured.
#[tracing::instrument(name = "db week", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn week(tx: &mut TenantTx, employee: EmployeeId, now: DateTime<Utc>) -> DbResult<Week> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        sessions: i64,
        #[diesel(sql_type = Double)]
        distance_km: f64,
        #[diesel(sql_type = BigInt)]
        duration_s: i64,
        #[diesel(sql_type = BigInt)]
        submitted: i64,
        #[diesel(sql_type = BigInt)]
        approved: i64,
    }
    let organization = tx.organization();
    let row: Row = sql_query(
        "WITH week AS MATERIALIZED (
             SELECT time_zone, date_trunc('week', app.day_of($3, time_zone)::timestamp)::date AS monday
             FROM organizations WHERE id = $1
         ), span AS MATERIALIZED (SELECT app.around(monday, monday + 6, time_zone) AS span FROM week)
         SELECT worked.*, coalesce(t.pending_count + t.approved_count + t.rejected_count, 0) AS submitted,
                coalesce(t.approved_count, 0) AS approved
         FROM (SELECT count(*) AS sessions, coalesce(sum(s.total_distance_km), 0) AS distance_km,
                      coalesce(sum(CASE WHEN s.checkout_at IS NULL THEN s.total_duration_seconds
                                        ELSE floor(extract(epoch FROM s.checkout_at - s.checkin_at)) END), 0)::bigint AS duration_s
               FROM attendance_sessions s, week
               WHERE s.organization_id = $1 AND s.employee_id = $2
                   AND s.checkin_at >= (SELECT lower(span) FROM span) AND s.checkin_at < (SELECT upper(span) FROM span)
                   AND app.day_of(s.checkin_at, week.time_zone) BETWEEN week.monday AND week.monday + 6) AS worked
             LEFT JOIN employee_expense_totals t ON t.organization_id = $1 AND t.employee_id = $2",
    )
    .bind::<SqlUuid, _>(organization)
    .bind::<SqlUuid, _>(employee.uuid())
    .bind::<Timestamptz, _>(now)
    .get_result(tx.connection())
    .await?;
    Ok(Week {
        sessions: row.sessions,
        distance_km: round_2(row.distance_km),
        duration_s: row.duration_s,
        expenses_submitted: row.submitted,
        expenses_approved: row.approved,
    })
}

/// How fresh a read model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// When its newest row was kept; `None` without any row.
    pub newest: Option<DateTime<Utc>>,
    /// How many rows the organization has in it.
    pub rows: i64,
}

/// How fresh the read models of an organization are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadModels {
    /// Everybody's latest session.
    pub employee_last_state: Freshness,
    /// What the dashboard shows.
    pub org_dashboard_snapshot: Freshness,
    /// What everybody did in all.
    pub employee_metrics_snapshot: Freshness,
}

impl ReadModels {
    /// All of them.
    #[must_use]
    pub const fn all(&self) -> [Freshness; 3] {
        [self.employee_last_state, self.org_dashboard_snapshot, self.employee_metrics_snapshot]
    }
}

/// How fresh the read models of the organization are.
pub async fn freshness(tx: &mut TenantTx) -> DbResult<ReadModels> {
    use crate::schema::{
        employee_last_state as states, employee_metrics_snapshot as totals, org_dashboard_snapshot as boards,
    };
    use diesel::dsl::{count_star, max};
    let organization = tx.organization();
    let of = |(newest, rows)| Freshness { newest, rows };
    let states: (Option<DateTime<Utc>>, i64) = states::table
        .filter(states::organization_id.eq(organization))
        .select((max(states::updated_at), count_star()))
        .first(tx.connection())
        .await?;
    let boards: (Option<DateTime<Utc>>, i64) = boards::table
        .filter(boards::organization_id.eq(organization))
        .select((max(boards::updated_at), count_star()))
        .first(tx.connection())
        .await?;
    let totals: (Option<DateTime<Utc>>, i64) = totals::table
        .filter(totals::organization_id.eq(organization))
        .select((max(totals::updated_at), count_star()))
        .first(tx.connection())
        .await?;
    Ok(ReadModels {
        employee_last_state: of(states),
        org_dashboard_snapshot: of(boards),
        employee_metrics_snapshot: of(totals),
    })
}

/// When the dashboard that nobody looked after for the longest time was set; `None` when there is none. By the system
/// role, for metrics: it is told when and not whose.
pub async fn oldest_dashboard(tx: &mut SystemTx) -> DbResult<Option<DateTime<Utc>>> {
    use crate::schema::org_dashboard_snapshot as boards;
    Ok(boards::table.select(diesel::dsl::min(boards::updated_at)).first(tx.connection()).await?)
}
