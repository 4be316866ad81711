//! Figures equal an independent recount, whatever order jobs come in, how often, and where they are cut off.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use db::Db;
use distance_worker::jobs::analytics::Analytics;
use distance_worker::jobs::distance::Distance;
use distance_worker::jobs::snapshot::Snapshots;
use distance_worker::jobs::{Context, Kind};
use distance_worker::metrics::Metrics;
use domain::job::{Occasion, RecalculateDistance, Snapshot, UpdateMetrics};
use domain::{ManualClock, OrganizationId};
use queue::JobError;
use testkit::database::TestDatabase;
use tokio_postgres::Client;
use uuid::Uuid;

/// Numbers that look random and are the same in every run: a failure can be looked at again.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from((self.0 >> 33) % u64::try_from(sides).unwrap()).unwrap()
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for place in (1..items.len()).rev() {
            items.swap(place, usize::try_from(self.roll(i64::try_from(place).unwrap() + 1)).unwrap());
        }
    }
}

/// Zones whose clocks are put on or back in the days below, also over midnight, and one that is half an hour off.
pub const ZONES: [&str; 6] =
    ["UTC", "Europe/Rome", "America/Havana", "Asia/Kolkata", "Pacific/Auckland", "America/Sao_Paulo"];

/// Clocks in Havana are put back from one to midnight on 1 November 2026, so that day begins twice.
pub fn around() -> DateTime<Utc> {
    "2026-11-01T04:30:00Z".parse().unwrap()
}

pub struct World {
    pub database: TestDatabase,
    pub clock: Arc<ManualClock>,
    cx: Context,
    pub client: Client,
    pub organizations: Vec<OrganizationId>,
    /// Every job that what happened asks for.
    jobs: Vec<Job>,
}

#[derive(Debug, Clone, Copy)]
enum Job {
    Distance(RecalculateDistance),
    Analytics(UpdateMetrics),
    Snapshot(Snapshot),
}

/// Organizations with people who worked, still work, or never came; some sessions were measured once and have new
/// points since. All of it began within two days of the moment at which clocks change; `now` is later.
pub async fn world(dice: &mut Dice, now: DateTime<Utc>, people: i64) -> World {
    let database = TestDatabase::create().await;
    let client = database.superuser().await;
    let clock = Arc::new(ManualClock::at(now));
    let metrics = Arc::new(Metrics::new(telemetry::metrics::Registry::new()));
    let cx = Context { db: database.open(), clock: clock.clone(), metrics };
    client.batch_execute("SELECT app.ensure_partitions('2026-10-01', 2)").await.unwrap();
    let (mut organizations, mut jobs) = (Vec::new(), Vec::new());
    for zone in ZONES {
        let organization = Uuid::now_v7();
        client
            .execute(
                "INSERT INTO organizations (id, name, slug, time_zone) VALUES ($1, 'Field Services', $2, $3)",
                &[&organization, &format!("o{}", organization.simple()), &zone],
            )
            .await
            .unwrap();
        for number in 0..people {
            let employee = Uuid::now_v7();
            client
                .execute(
                    "INSERT INTO employees (organization_id, id, name, employee_code) VALUES ($1, $2, 'Somebody', $3)",
                    &[&organization, &employee, &format!("E{number}")],
                )
                .await
                .unwrap();
            let of = |occasion, expense: Option<Uuid>| {
                Job::Snapshot(Snapshot {
                    occasion,
                    organization: organization.into(),
                    employee: Some(employee.into()),
                    expense: expense.map(Into::into),
                })
            };
            // One after the other: nobody is at work twice. Half of them still are.
            let sessions = dice.roll(9);
            let mut checkins: Vec<_> =
                (0..sessions).map(|_| around() + TimeDelta::seconds(dice.roll(4 * 86_400) - 2 * 86_400)).collect();
            checkins.sort_unstable();
            let is_at_work = dice.roll(2) == 0;
            for (turn, checkin) in checkins.iter().copied().enumerate() {
                let session = Uuid::now_v7();
                let next = checkins.get(turn + 1).copied();
                let ended = next.is_some() || !is_at_work;
                let checkout = ended.then(|| next.unwrap_or(now).min(checkin + TimeDelta::seconds(dice.roll(40_000))));
                client
                    .execute(
                        "INSERT INTO attendance_sessions (organization_id, id, employee_id, checkin_at, checkout_at,
                                                          dirty_from, dirty_since)
                         VALUES ($1, $2, $3, $4, $5, $4, $4)",
                        &[&organization, &session, &employee, &checkin, &checkout],
                    )
                    .await
                    .unwrap();
                let points = dice.roll(6);
                client
                    .execute(
                        "INSERT INTO gps_locations (organization_id, session_id, recorded_at, id, employee_id, latitude, longitude)
                         SELECT $1, $2, $3::timestamptz + n * interval '7 seconds', gen_random_uuid(), $4, 45 + n * 0.0123, 13 + $5::float8 * 0.001
                         FROM generate_series(0, $6::integer - 1) AS n",
                        &[&organization, &session, &checkin, &employee, &f64::from(i32::try_from(dice.roll(9)).unwrap()),
                          &i32::try_from(points).unwrap()],
                    )
                    .await
                    .unwrap();
                let asked = RecalculateDistance { session: session.into(), organization: Some(organization.into()) };
                jobs.push(Job::Distance(asked));
                jobs.push(of(Occasion::CheckIn, None));
                if ended {
                    jobs.push(of(Occasion::CheckOut, None));
                    jobs.push(Job::Analytics(UpdateMetrics {
                        session: session.into(),
                        organization: Some(organization.into()),
                        employee: None,
                    }));
                }
            }
            for _ in 0..dice.roll(6) {
                let expense = Uuid::now_v7();
                let at = around() + TimeDelta::seconds(dice.roll(4 * 86_400) - 2 * 86_400);
                let status = ["PENDING", "APPROVED", "REJECTED"][usize::try_from(dice.roll(3)).unwrap()];
                client
                    .execute(
                        &format!(
                            "INSERT INTO expenses (organization_id, id, employee_id, amount, description, status, submitted_at,
                                                   reviewed_at, rejection_comment)
                             VALUES ($1, $2, $3, {}.{}, 'Fuel', '{status}', $4, {}, {})",
                            dice.roll(500),
                            dice.roll(99) + 1,
                            if status == "PENDING" { "NULL" } else { "$4" },
                            if status == "REJECTED" { "'No'" } else { "NULL" },
                        ),
                        &[&organization, &expense, &employee, &at],
                    )
                    .await
                    .unwrap();
                jobs.push(of(Occasion::ExpenseCreated, Some(expense)));
                if status != "PENDING" {
                    jobs.push(of(Occasion::ExpenseApproved, Some(expense)));
                }
            }
        }
        organizations.push(organization.into());
    }
    let world = World { database, clock, cx, client, organizations, jobs };
    world.prepare().await;
    world
}

/// Days after which nobody works any more.
const LATER: TimeDelta = TimeDelta::days(4);

impl World {
    /// Has every job done three times, in any order, several at once, a third of them cut off somewhere; then each once
    /// more until it is done, as queues do.
    pub async fn work(&self, dice: &mut Dice) {
        let mut jobs: Vec<Job> = self.jobs.iter().flat_map(|job| [*job; 3]).collect();
        dice.shuffle(&mut jobs);
        for jobs in jobs.chunks(6) {
            let running = jobs.iter().map(|job| (tokio::spawn(run(self.cx.clone(), *job)), dice.roll(3) == 0));
            for (running, cut_off) in running.collect::<Vec<_>>() {
                if cut_off {
                    for _ in 0..dice.roll(40) {
                        tokio::task::yield_now().await;
                    }
                    running.abort();
                }
                // Whether it succeeded is decided below: here it may also come too early.
                let _ = running.await;
            }
        }
        // Queues try again until a job has ended; measurements first, since daily totals wait for them.
        for job in &self.jobs {
            if let Job::Distance(_) = job {
                self.run(*job).await.unwrap();
            }
        }
        let mut rest = self.jobs.clone();
        dice.shuffle(&mut rest);
        for job in rest {
            self.run(job).await.unwrap();
        }
    }

    async fn run(&self, job: Job) -> Result<(), JobError> {
        run(self.cx.clone(), job).await
    }

    /// Has every organization reconciled; answers how many figures were wrong.
    async fn reconcile(&self) -> i64 {
        let mut wrong = 0;
        for organization in &self.organizations {
            let asked =
                Snapshot { occasion: Occasion::Reconcile, organization: *organization, employee: None, expense: None };
            let result = Snapshots { cx: self.cx.clone() }.run(&asked).await.unwrap();
            wrong += result["setRight"].as_i64().unwrap();
        }
        wrong
    }

    /// Compares every figure there is with a recount that shares nothing with the functions that keep them.
    async fn check(&self, when: &str) {
        let rows = async |sql: &str| -> BTreeMap<String, String> {
            let rows = self.client.query(sql, &[]).await.unwrap();
            rows.into_iter().map(|row| (row.get(0), row.get(1))).collect()
        };
        let days = rows(
            "SELECT concat_ws(' ', organization_id, employee_id, date),
                    concat_ws(' ', sessions, distance_km, duration_seconds, expenses_count, trim_scale(expenses_amount))
             FROM employee_daily_metrics WHERE sessions > 0 OR expenses_count > 0",
        )
        .await;
        let recounted = rows(
            "WITH happened AS (
                 SELECT s.organization_id, s.employee_id, to_char(s.checkin_at AT TIME ZONE o.time_zone, 'YYYY-MM-DD') AS day,
                        1 AS sessions, s.total_distance_km::numeric AS km, s.total_duration_seconds AS seconds,
                        0 AS claims, 0::numeric AS amount
                 FROM attendance_sessions s JOIN organizations o ON o.id = s.organization_id
                 WHERE NOT (s.checkout_at IS NULL OR s.total_distance_km IS NULL)
                 UNION ALL
                 SELECT e.organization_id, e.employee_id, to_char(e.submitted_at AT TIME ZONE o.time_zone, 'YYYY-MM-DD'),
                        0, 0, 0, 1, e.amount
                 FROM expenses e JOIN organizations o ON o.id = e.organization_id
             )
             SELECT concat_ws(' ', organization_id, employee_id, day),
                    concat_ws(' ', sum(sessions), sum(km)::float8, sum(seconds), sum(claims), trim_scale(sum(amount)))
             FROM happened GROUP BY organization_id, employee_id, day",
        )
        .await;
        assert!(recounted.len() > 20, "{when}: too little happened");
        assert_eq!(days, recounted, "{when}: days");

        let of_organizations = rows(
            "SELECT concat_ws(' ', organization_id, date),
                    concat_ws(' ', total_sessions, total_distance_km, total_duration_seconds, active_employees)
             FROM org_daily_metrics WHERE total_sessions > 0",
        )
        .await;
        let recounted = rows(
            "SELECT concat_ws(' ', s.organization_id, to_char(s.checkin_at AT TIME ZONE o.time_zone, 'YYYY-MM-DD')),
                    concat_ws(' ', count(*), sum(s.total_distance_km::numeric)::float8, sum(s.total_duration_seconds),
                              count(DISTINCT s.employee_id))
             FROM attendance_sessions s JOIN organizations o ON o.id = s.organization_id
             WHERE NOT (s.checkout_at IS NULL OR s.total_distance_km IS NULL)
             GROUP BY s.organization_id, to_char(s.checkin_at AT TIME ZONE o.time_zone, 'YYYY-MM-DD')",
        )
        .await;
        assert_eq!(of_organizations, recounted, "{when}: organizations' days");

        let totals = rows(
            "SELECT employee_id::text, concat_ws(' ', total_sessions, total_hours, total_distance, trim_scale(total_expenses))
             FROM employee_metrics_snapshot WHERE total_sessions > 0 OR total_expenses > 0",
        )
        .await;
        let recounted = rows(
            "SELECT id::text, concat_ws(' ', sessions, hours, km, trim_scale(approved)) FROM (
                 SELECT e.id,
                        (SELECT count(*) FROM attendance_sessions s WHERE s.employee_id = e.id
                             AND s.checkout_at IS NOT NULL AND s.total_distance_km IS NOT NULL) AS sessions,
                        (SELECT coalesce(round(sum(total_duration_seconds)::numeric / 3600, 2), 0)::float8
                             FROM attendance_sessions s WHERE s.employee_id = e.id
                             AND s.checkout_at IS NOT NULL AND s.total_distance_km IS NOT NULL) AS hours,
                        (SELECT coalesce(sum(total_distance_km::numeric), 0)::float8 FROM attendance_sessions s
                             WHERE s.employee_id = e.id AND s.checkout_at IS NOT NULL) AS km,
                        (SELECT coalesce(sum(amount), 0) FROM expenses x WHERE x.employee_id = e.id
                             AND x.status = 'APPROVED') AS approved
                 FROM employees e) AS counted
             WHERE sessions > 0 OR approved > 0",
        )
        .await;
        assert_eq!(totals, recounted, "{when}: totals");

        let states = rows(
            "SELECT employee_id::text, concat_ws(' ', last_session_id, is_checked_in, last_check_in_at, last_check_out_at,
                                                 last_location_at, last_latitude, last_longitude)
             FROM employee_last_state WHERE last_session_id IS NOT NULL",
        )
        .await;
        let recounted = rows(
            "SELECT DISTINCT ON (s.employee_id) s.employee_id::text,
                    concat_ws(' ', s.id, s.checkout_at IS NULL, s.checkin_at, (
                        SELECT l.checkout_at FROM attendance_sessions l
                        WHERE l.employee_id = s.employee_id AND l.checkout_at IS NOT NULL
                        ORDER BY l.checkin_at DESC, l.id DESC LIMIT 1), (
                        SELECT concat_ws(' ', g.recorded_at, g.latitude, g.longitude) FROM gps_locations g
                        WHERE g.session_id = (SELECT l.id FROM attendance_sessions l WHERE l.employee_id = s.employee_id
                                                  AND EXISTS (SELECT FROM gps_locations p WHERE p.session_id = l.id)
                                              ORDER BY l.checkin_at DESC, l.id DESC LIMIT 1)
                        ORDER BY g.recorded_at DESC LIMIT 1))
             FROM attendance_sessions s ORDER BY s.employee_id, s.checkout_at IS NULL DESC, s.checkin_at DESC, s.id DESC",
        )
        .await;
        assert_eq!(states, recounted, "{when}: states");

        let boards = rows(
            "SELECT organization_id::text, concat_ws(' ', active_employee_count, recent_employee_count,
                 inactive_employee_count, pending_expense_count, trim_scale(pending_expense_amount))
             FROM org_dashboard_snapshot",
        )
        .await;
        let now = self.cx.clock.now().to_rfc3339();
        self.client.execute("SELECT set_config('test.now', $1, false)", &[&now]).await.unwrap();
        let recounted = rows(
            "SELECT o.id::text, concat_ws(' ',
                 (SELECT count(*) FROM employees e WHERE e.organization_id = o.id AND status(e.id) = 'ACTIVE'),
                 (SELECT count(*) FROM employees e WHERE e.organization_id = o.id AND status(e.id) = 'RECENT'),
                 (SELECT count(*) FROM employees e WHERE e.organization_id = o.id AND status(e.id) = 'INACTIVE'),
                 (SELECT count(*) FROM expenses x WHERE x.organization_id = o.id AND x.status = 'PENDING'),
                 (SELECT trim_scale(coalesce(sum(amount), 0)) FROM expenses x
                      WHERE x.organization_id = o.id AND x.status = 'PENDING'))
             FROM organizations o WHERE EXISTS (SELECT FROM org_dashboard_snapshot d WHERE d.organization_id = o.id)",
        )
        .await;
        assert_eq!(boards, recounted, "{when}: dashboards");
    }

    /// The live status of an employee, spelt out, for the recount.
    async fn prepare(&self) {
        self.client
            .batch_execute(
                "CREATE FUNCTION status(employee uuid) RETURNS text LANGUAGE sql AS $$
                     SELECT CASE WHEN count(*) = 0 THEN 'NONE'
                                 WHEN bool_or(checkout_at IS NULL) THEN 'ACTIVE'
                                 WHEN current_setting('test.now')::timestamptz - max(checkout_at) < interval '24 hours' THEN 'RECENT'
                                 ELSE 'INACTIVE' END
                     FROM attendance_sessions WHERE employee_id = employee $$",
            )
            .await
            .unwrap();
    }
}

async fn run(cx: Context, job: Job) -> Result<(), JobError> {
    match job {
        Job::Distance(asked) => Distance { cx, max_points: 1000 }.run(&asked).await.map(|_| ()),
        Job::Analytics(asked) => Analytics { cx }.run(&asked).await.map(|_| ()),
        Job::Snapshot(asked) => Snapshots { cx }.run(&asked).await.map(|_| ()),
    }
}

#[tokio::test]
async fn shuffled_replayed_and_cut_off_jobs_end_at_an_independent_recount() {
    for seed in 1..=3 {
        let mut dice = Dice(seed);
        let world = world(&mut dice, around() + LATER, 4).await;
        world.work(&mut dice).await;
        world.check(&format!("seed {seed}")).await;
        assert_eq!(world.reconcile().await, 0, "seed {seed}: reconciliation agrees");
    }
}

#[tokio::test]
async fn reconciliation_alone_is_enough_and_finds_nothing_after_the_jobs() {
    let mut dice = Dice(11);
    let world = world(&mut dice, around() + LATER, 4).await;
    // Measured by somebody who told nobody.
    world
        .client
        .batch_execute(
            "UPDATE attendance_sessions SET total_distance_km = 12.34, total_duration_seconds = 3600, dirty_from = NULL,
                 dirty_since = NULL, distance_recalculation_status = 'done'
             WHERE checkout_at IS NOT NULL;
             UPDATE attendance_sessions s SET measured_to = p.recorded_at, measured_latitude = p.latitude, measured_longitude = p.longitude
             FROM (SELECT DISTINCT ON (session_id) * FROM gps_locations ORDER BY session_id, recorded_at DESC) AS p
             WHERE p.session_id = s.id",
        )
        .await
        .unwrap();
    assert!(world.reconcile().await > 50, "nobody had counted anything");
    world.check("after reconciliation").await;
    let db: Db = world.cx.db.clone();
    for organization in &world.organizations {
        let mut tx = db.tenant(testkit::database::tenant(organization.uuid())).await.unwrap();
        let first = (around() - TimeDelta::days(30)).date_naive();
        let last = (around() + TimeDelta::days(30)).date_naive();
        let now = world.cx.clock.now();
        assert_eq!(db::figures::compare_days(&mut tx, first, last, now).await.unwrap(), 0);
        assert_eq!(db::figures::compare_people(&mut tx, true, now).await.unwrap(), 0);
    }

    // Somebody meddles with the figures, and with the clock.
    world
        .client
        .batch_execute(
            "UPDATE employee_daily_metrics SET sessions = sessions + 1, distance_km = 99;
             UPDATE org_daily_metrics SET total_sessions = 0;
             UPDATE employee_metrics_snapshot SET total_hours = 1;
             UPDATE employee_last_state SET is_checked_in = NOT is_checked_in;
             UPDATE organizations SET time_zone = 'America/Havana', time_zone_set_at = now();
             UPDATE org_dashboard_snapshot SET compared_at = NULL",
        )
        .await
        .unwrap();
    assert!(world.reconcile().await > 50);
    world.check("after meddling").await;
    assert_eq!(world.reconcile().await, 0);

    // Of everything that is kept of somebody's state, each alone.
    for wrong in [
        "last_latitude = last_latitude + 0.5",
        "last_longitude = NULL",
        "last_location_at = last_location_at - interval '1 second'",
        "last_check_in_at = last_check_in_at - interval '1 second'",
        "last_check_out_at = last_check_out_at + interval '1 second'",
        "is_checked_in = NOT is_checked_in",
        "last_session_id = gen_random_uuid()",
    ] {
        let column = wrong.split_once(' ').unwrap().0;
        let meddle = format!("UPDATE employee_last_state SET {wrong} WHERE {column} IS NOT NULL");
        let meddled = i64::try_from(world.client.execute(&meddle, &[]).await.unwrap()).unwrap();
        assert!(meddled > 5, "{wrong}");
        assert_eq!(world.reconcile().await, meddled, "{wrong}");
        world.check(wrong).await;
    }
    // Whoever is at work now, too: their last check-out is that of another session.
    let at_work = "UPDATE employee_last_state SET last_check_out_at = now() WHERE is_checked_in";
    let meddled = i64::try_from(world.client.execute(at_work, &[]).await.unwrap()).unwrap();
    assert!(meddled > 0 && world.reconcile().await == meddled);
    world.check("check-outs of those at work").await;
}
