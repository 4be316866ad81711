//! What administrators are answered equals an independent recount, whatever order jobs come in, how often, and where they
//! are cut off: the gateway's answers over HTTP beside statements that share nothing with the functions that keep figures.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use api_gateway::config::Config;
use api_gateway::identity::passwords::Passwords;
use api_gateway::startup::Application;
use chrono::{DateTime, TimeDelta, Utc};
use domain::auth::Role;
use domain::{Clock, OrganizationId, UserId};
use reqwest::Client;
use serde_json::{Value, json};
use settings::Settings;
use testkit::database::tenant;
use testkit::redis::RedisServer;
use tokio_postgres::types::ToSql;

use crate::figures::{Dice, World, around, world};
use crate::support::SECRETS_KEY;

const PASSWORD: &str = "correct horse battery staple";

/// A gateway on the world's database and clock.
struct Gateway {
    address: String,
    http: Client,
    runtime: Option<tokio::runtime::Runtime>,
    _redis: RedisServer,
}

impl Gateway {
    fn start(world: &World) -> Self {
        let redis = RedisServer::start().unwrap();
        let variables = [
            ("APP_ENV", "test".to_owned()),
            ("DATABASE_URL", world.database.app_url()),
            ("SYSTEM_DATABASE_URL", world.database.system_url()),
            ("REDIS_URL", redis.url()),
            ("SECRETS_KEY", SECRETS_KEY.to_owned()),
        ];
        let config = Config::read(Settings::from_variables(variables)).unwrap();
        let clock: Arc<dyn Clock> = world.clock.clone();
        let (ready, started) = std::sync::mpsc::channel();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        std::thread::spawn(move || {
            handle.block_on(async {
                let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
                let registry = telemetry::metrics::Registry::new();
                let application = Application::build(config, registry, clock, listener).unwrap();
                ready.send(application.address()).unwrap();
                application.serve().await.unwrap();
            });
        });
        let address = format!("http://{}", started.recv().unwrap());
        let http = Client::builder().no_proxy().build().unwrap();
        Self { address, http, runtime: Some(runtime), _redis: redis }
    }

    /// Makes an administrator and signs them in.
    async fn administrator(&self, world: &World, organization: OrganizationId, password_hash: &str) -> Admin<'_> {
        let email = format!("admin@{}.example", organization.uuid().simple());
        let new = db::identity::NewUser { id: UserId::generate(), email: &email, role: Role::Admin, password_hash };
        let mut tx = world.database.open().tenant(tenant(organization.uuid())).await.unwrap();
        db::identity::create_user(&mut tx, &new).await.unwrap();
        tx.commit().await.unwrap();
        let credentials = json!({ "email": email, "password": PASSWORD });
        let answer = self.http.post(format!("{}/auth/login", self.address)).json(&credentials).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        Admin { gateway: self, token: answer["data"]["access_token"].as_str().unwrap().to_owned() }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // A runtime must not be waited for within another.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Admin<'a> {
    gateway: &'a Gateway,
    token: String,
}

impl Admin<'_> {
    async fn get(&self, path: &str) -> Value {
        let url = format!("{}{path}", self.gateway.address);
        let answer = self.gateway.http.get(url).bearer_auth(&self.token).send().await.unwrap();
        let status = answer.status();
        let body: Value = answer.json().await.unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    async fn data(&self, path: &str) -> Value {
        plain(self.get(path).await["data"].take())
    }

    /// Every page of a list, joined; each says how many rows there are in all.
    async fn all(&self, path: &str, limit: usize) -> Value {
        let (mut rows, mut page) = (Vec::new(), 1);
        loop {
            let mut answer = self.get(&format!("{path}&limit={limit}&page={page}")).await;
            let Value::Array(mut more) = answer["data"].take() else { panic!("{answer}") };
            let is_last = more.len() < limit;
            rows.append(&mut more);
            if is_last {
                assert_eq!(answer["pagination"]["total"], rows.len(), "{path}");
                assert_eq!(answer["pagination"]["totalPages"], rows.len().div_ceil(limit), "{path}");
                return plain(rows.into());
            }
            page += 1;
        }
    }
}

/// With every number a double: 2 and 2.0 are one number, however they are written.
fn plain(value: Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64().unwrap()),
        Value::Array(values) => values.into_iter().map(plain).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, plain(value))).collect(),
        other => other,
    }
}

/// These fields of each row, in the order of a list.
fn only(rows: &Value, fields: &[&str]) -> Value {
    let of = |row: &Value| fields.iter().map(|field| ((*field).to_owned(), row[*field].clone())).collect::<Value>();
    rows.as_array().unwrap().iter().map(of).collect()
}

/// What every recount begins with: the organization's zone, its sessions that count, its claims; each with its day.
const HAPPENED: &str = "WITH zone AS (SELECT time_zone AS name FROM organizations WHERE id = $1),
    sessions AS (
        SELECT s.*, to_char(s.checkin_at AT TIME ZONE zone.name, 'YYYY-MM-DD') AS day, s.total_distance_km::numeric AS km
        FROM attendance_sessions s, zone WHERE s.organization_id = $1),
    worked AS (SELECT * FROM sessions WHERE NOT (checkout_at IS NULL OR total_distance_km IS NULL)),
    claims AS (
        SELECT x.*, to_char(x.submitted_at AT TIME ZONE zone.name, 'YYYY-MM-DD') AS day
        FROM expenses x, zone WHERE x.organization_id = $1)";

/// A period: its ends, and the days they belong to.
const SPAN: &str = "span AS (
        SELECT $2::timestamptz AS begins, $3::timestamptz AS ends,
               to_char($2::timestamptz AT TIME ZONE name, 'YYYY-MM-DD') AS first,
               to_char($3::timestamptz AT TIME ZONE name, 'YYYY-MM-DD') AS last FROM zone)";

struct Recount<'a> {
    world: &'a World,
    organization: OrganizationId,
}

impl Recount<'_> {
    async fn ask(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Value {
        let organization = self.organization.uuid();
        let all: Vec<&(dyn ToSql + Sync)> =
            std::iter::once(&organization as &(dyn ToSql + Sync)).chain(parameters.iter().copied()).collect();
        let row = self.world.client.query_one(sql, &all).await.unwrap();
        plain(serde_json::from_str(row.get::<_, &str>(0)).unwrap())
    }

    async fn dashboard(&self) -> Value {
        let now = self.world.clock.now();
        let counts = format!(
            "{HAPPENED}, today AS (SELECT to_char($2::timestamptz AT TIME ZONE name, 'YYYY-MM-DD') AS day,
                                          to_char(($2::timestamptz AT TIME ZONE name)::date - 7, 'YYYY-MM-DD') AS week FROM zone)
             SELECT json_build_object(
                 'activeEmployeeCount', (SELECT count(*) FROM employees WHERE organization_id = $1 AND status(id) = 'ACTIVE'),
                 'activeEmployeesToday', (SELECT count(DISTINCT employee_id) FROM sessions WHERE checkout_at IS NULL),
                 'recentEmployeeCount', (SELECT count(*) FROM employees WHERE organization_id = $1 AND status(id) = 'RECENT'),
                 'inactiveEmployeeCount',
                     (SELECT count(*) FROM employees WHERE organization_id = $1 AND status(id) = 'INACTIVE'),
                 'todaySessionCount', (SELECT count(*) FROM worked, today WHERE worked.day = today.day),
                 'todayDistanceKm', (SELECT coalesce(sum(km), 0) FROM worked, today WHERE worked.day = today.day),
                 'pendingExpenseCount', (SELECT count(*) FROM claims WHERE status = 'PENDING'),
                 'pendingExpenseAmount', (SELECT coalesce(round(sum(amount), 2), 0) FROM claims WHERE status = 'PENDING'),
                 'sessionTrend', (
                     SELECT coalesce(json_agg(json_build_object('date', day, 'sessions', sessions, 'distance', km,
                                                                'duration', seconds) ORDER BY day), '[]')
                     FROM (SELECT worked.day, count(*) AS sessions, sum(km) AS km, sum(total_duration_seconds) AS seconds
                           FROM worked, today WHERE worked.day BETWEEN today.week AND today.day GROUP BY worked.day) AS days)
             )::text FROM today"
        );
        let mut board = self.ask(&counts, &[&now]).await;
        board["leaderboard"] = self.leaderboard("distance", (now - TimeDelta::days(30), far()), 5).await;
        board
    }

    async fn summary(&self, (from, to): (DateTime<Utc>, DateTime<Utc>)) -> Value {
        let totals = format!(
            "{HAPPENED}, {SPAN}, mine AS (SELECT worked.* FROM worked, span WHERE worked.day BETWEEN first AND last),
                 claimed AS (SELECT claims.* FROM claims, span WHERE submitted_at >= begins AND submitted_at <= ends)
             SELECT json_build_object(
                 'totalSessions', (SELECT count(*) FROM mine),
                 'totalDistanceKm', (SELECT coalesce(sum(km), 0) FROM mine),
                 'totalDurationSeconds', (SELECT coalesce(sum(total_duration_seconds), 0) FROM mine),
                 'totalExpenses', (SELECT count(*) FROM claimed),
                 'approvedExpenseAmount', (SELECT coalesce(round(sum(amount), 2), 0) FROM claimed WHERE status = 'APPROVED'),
                 'rejectedExpenseAmount', (SELECT coalesce(round(sum(amount), 2), 0) FROM claimed WHERE status = 'REJECTED'),
                 'activeEmployeesCount', (SELECT count(*) FROM sessions WHERE checkout_at IS NULL))::text"
        );
        self.ask(&totals, &[&from, &to]).await
    }

    async fn trend(&self, (from, to): (DateTime<Utc>, DateTime<Utc>)) -> Value {
        let days = format!(
            "{HAPPENED}, {SPAN}
             SELECT coalesce(json_agg(json_build_object('date', day, 'sessions', sessions, 'distance', km,
                                                        'duration', seconds) ORDER BY day), '[]')::text
             FROM (SELECT day, count(*) AS sessions, sum(km) AS km, sum(total_duration_seconds) AS seconds
                   FROM worked, span WHERE day BETWEEN first AND last GROUP BY day) AS days"
        );
        self.ask(&days, &[&from, &to]).await
    }

    async fn leaderboard(&self, metric: &str, (from, to): (DateTime<Utc>, DateTime<Utc>), most: i64) -> Value {
        let ranked = format!(
            "{HAPPENED}, {SPAN}, entries AS (
                 SELECT e.id, e.employee_code, e.name,
                     (SELECT coalesce(sum(km), 0) FROM worked, span
                          WHERE employee_id = e.id AND day BETWEEN first AND last) AS distance,
                     (SELECT count(*) FROM worked, span WHERE employee_id = e.id AND day BETWEEN first AND last) AS sessions,
                     (SELECT coalesce(sum(total_duration_seconds), 0) FROM worked, span
                          WHERE employee_id = e.id AND day BETWEEN first AND last) AS duration,
                     (SELECT coalesce(sum(amount), 0) FROM claims, span
                          WHERE employee_id = e.id AND day BETWEEN first AND last) AS expenses
                 FROM employees e WHERE e.organization_id = $1),
             ranked AS (
                 SELECT *, row_number() OVER (ORDER BY {metric} DESC, id) AS rank FROM entries
                 WHERE sessions > 0 OR expenses > 0)
             SELECT coalesce(json_agg(json_strip_nulls(json_build_object(
                 'rank', rank, 'employeeId', id, 'employeeCode', employee_code, 'employeeName', name, 'distance', distance,
                 'sessions', sessions, 'duration', duration,
                 'expenses', CASE WHEN expenses > 0 OR '{metric}' = 'expenses' THEN round(expenses, 2) END)) ORDER BY rank), '[]')::text
             FROM ranked WHERE rank <= $4"
        );
        self.ask(&ranked, &[&from, &to, &most]).await
    }

    async fn top_performers(&self, metric: &str, (from, to): (DateTime<Utc>, DateTime<Utc>), most: i64) -> Value {
        let (name, figure) = match metric {
            "distance" => ("totalDistanceKm", "coalesce(sum(km), 0)"),
            "duration" => ("totalDurationSeconds", "coalesce(sum(total_duration_seconds), 0)"),
            _ => ("sessionsCount", "count(*)"),
        };
        let ranked = format!(
            "{HAPPENED}, ranked AS (
                 SELECT employee_id, {figure} AS figure,
                        row_number() OVER (ORDER BY {figure} DESC, max(checkin_at) DESC, employee_id) AS rank
                 FROM sessions WHERE checkin_at >= $2 AND checkin_at <= $3 GROUP BY employee_id)
             SELECT coalesce(json_agg(json_build_object('employeeId', id, 'employeeName', e.name, '{name}', figure)
                                      ORDER BY rank), '[]')::text
             FROM ranked JOIN employees e ON e.id = employee_id WHERE rank <= $4"
        );
        self.ask(&ranked, &[&from, &to, &most]).await
    }

    /// The latest session of everybody who ever checked in: the open one, else the one that began last.
    async fn latest_sessions(&self, status: Option<&str>) -> Value {
        let latest = format!(
            "{HAPPENED}, latest AS (
                 SELECT DISTINCT ON (employee_id) *, status(employee_id) AS live FROM sessions
                 ORDER BY employee_id, checkout_at IS NULL DESC, checkin_at DESC, id DESC)
             SELECT coalesce(json_agg(json_build_object('id', id, 'employee_id', employee_id, 'activityStatus', live,
                 'total_distance_km', km, 'total_duration_seconds', total_duration_seconds,
                 'distance_recalculation_status', distance_recalculation_status)
                 ORDER BY CASE live WHEN 'ACTIVE' THEN 1 WHEN 'RECENT' THEN 2 ELSE 3 END, updated_at DESC, employee_id), '[]')::text
             FROM latest WHERE $2::text IS NULL OR live = upper($2)"
        );
        self.ask(&latest, &[&status]).await
    }

    async fn sessions_of(&self, employee: uuid::Uuid) -> Value {
        let theirs = format!(
            "{HAPPENED} SELECT coalesce(json_agg(json_build_object('id', id, 'total_distance_km', km,
                 'total_duration_seconds', total_duration_seconds) ORDER BY checkin_at DESC, id DESC), '[]')::text
             FROM sessions WHERE employee_id = $2"
        );
        self.ask(&theirs, &[&employee]).await
    }

    async fn employees(&self) -> Value {
        let all = "SELECT coalesce(json_agg(json_build_object('id', e.id,
                 'activity_status', CASE status(e.id) WHEN 'NONE' THEN 'INACTIVE' ELSE status(e.id) END,
                 'is_checked_in', status(e.id) = 'ACTIVE', 'last_latitude', place.latitude, 'last_longitude', place.longitude)
                 ORDER BY e.employee_number NULLS LAST, e.employee_code, e.id), '[]')::text
             FROM employees e LEFT JOIN LATERAL (
                 SELECT g.latitude, g.longitude FROM gps_locations g JOIN attendance_sessions s ON s.id = g.session_id
                 WHERE g.employee_id = e.id
                 ORDER BY s.checkin_at DESC, s.id DESC, g.recorded_at DESC LIMIT 1) AS place ON true
             WHERE e.organization_id = $1";
        self.ask(all, &[]).await
    }

    /// What an employee did in all, as their sheet and their user's summary say it.
    async fn totals(&self, employee: uuid::Uuid) -> Value {
        let totals = format!(
            "{HAPPENED}, mine AS (SELECT * FROM worked WHERE employee_id = $2),
                 claimed AS (SELECT * FROM claims WHERE employee_id = $2)
             SELECT json_build_object('sheet', json_build_object(
                     'totalSessions', (SELECT count(*) FROM sessions WHERE employee_id = $2),
                     'totalDistanceKm', (SELECT coalesce(sum(km), 0) FROM sessions WHERE employee_id = $2),
                     'totalDurationSeconds', (
                         SELECT coalesce(sum(CASE WHEN checkout_at IS NULL THEN coalesce(total_duration_seconds, 0)
                                                  ELSE trunc(extract(epoch FROM checkout_at) - extract(epoch FROM checkin_at)) END), 0)
                         FROM sessions WHERE employee_id = $2),
                     'expensesSubmitted', (SELECT count(*) FROM claimed),
                     'expensesApproved', (SELECT count(*) FROM claimed WHERE status = 'APPROVED')),
                 'user', json_build_object(
                     'sessionsCount', (SELECT count(*) FROM mine),
                     'totalDistanceKm', (SELECT coalesce(sum(km), 0) FROM mine),
                     'totalDurationSeconds', (SELECT coalesce(sum(total_duration_seconds), 0) FROM mine),
                     'totalExpenses', (SELECT count(*) FROM claimed),
                     'approvedExpenseAmount', (SELECT coalesce(round(sum(amount), 2), 0) FROM claimed WHERE status = 'APPROVED'),
                     'averageDistancePerSession', (SELECT coalesce(round(avg(km), 2), 0) FROM mine),
                     'averageSessionDurationSeconds', (SELECT coalesce(round(avg(total_duration_seconds)), 0) FROM mine)))::text"
        );
        self.ask(&totals, &[&employee]).await
    }
}

/// Later than anything.
fn far() -> DateTime<Utc> {
    around() + TimeDelta::days(1000)
}

fn asked((from, to): (DateTime<Utc>, DateTime<Utc>)) -> String {
    let time = |time: DateTime<Utc>| time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    format!("from={}&to={}", time(from), time(to))
}

#[tokio::test]
async fn answers_over_http_equal_an_independent_recount_whatever_jobs_did() {
    let hash = Passwords::new().hash(PASSWORD.to_owned().into()).await.unwrap();
    let mut today_counted = 0;
    for seed in 21..=22 {
        let mut dice = Dice(seed);
        // Nobody's work is over yet: sessions of today, open ones, and claims of this minute.
        let world = world(&mut dice, around() + TimeDelta::days(2), 7).await;
        // Everybody has a user, so that they can be asked for by it.
        world
            .client
            .batch_execute(
                "UPDATE employees SET employee_number = substring(employee_code FROM 2)::bigint;
                 INSERT INTO users (organization_id, id, email, role)
                     SELECT organization_id, id, id || '@people.example', 'EMPLOYEE' FROM employees;
                 UPDATE employees SET user_id = id",
            )
            .await
            .unwrap();
        world.work(&mut dice).await;
        let now = world.clock.now();
        world.client.execute("SELECT set_config('test.now', $1, false)", &[&now.to_rfc3339()]).await.unwrap();
        let gateway = Gateway::start(&world);
        for organization in &world.organizations {
            let admin = gateway.administrator(&world, *organization, &hash).await;
            let recount = Recount { world: &world, organization: *organization };
            let whose = format!("seed {seed}, {organization}");

            let mut board = admin.data("/admin/dashboard").await;
            let kept_at = board.as_object_mut().unwrap().remove("snapshotUpdatedAt").unwrap();
            assert_ne!(kept_at, Value::Null, "{whose}");
            assert_eq!(board, recount.dashboard().await, "{whose}");
            today_counted += i32::from(board["todaySessionCount"] != json!(0.0));

            let moment = |dice: &mut Dice| around() + TimeDelta::seconds(dice.roll(5 * 86_400) - 3 * 86_400);
            let mut spans = vec![(now - TimeDelta::days(30), far())];
            for _ in 0..4 {
                let (one, other) = (moment(&mut dice), moment(&mut dice));
                spans.push((one.min(other), one.max(other)));
            }
            for (number, span) in spans.into_iter().enumerate() {
                // The first is what is meant when nothing is said.
                let query = if number == 0 { String::new() } else { asked(span) };
                let whose = format!("{whose}, {query}");
                for path in ["/admin/org-summary", "/analytics/summary"] {
                    assert_eq!(
                        admin.data(&format!("{path}?{query}")).await,
                        recount.summary(span).await,
                        "{whose}: {path}"
                    );
                }
                assert_eq!(
                    admin.data(&format!("/admin/session-trend?{query}")).await,
                    recount.trend(span).await,
                    "{whose}: trend"
                );
                let most = 1 + dice.roll(8);
                for metric in ["distance", "duration", "sessions", "expenses"] {
                    let query = format!("metric={metric}&limit={most}&{query}");
                    let expected = recount.leaderboard(metric, span, most).await;
                    for path in ["/admin/leaderboard", "/leaderboard"] {
                        assert_eq!(admin.data(&format!("{path}?{query}")).await, expected, "{whose}: {path} {query}");
                    }
                    if metric != "expenses" {
                        let expected = recount.top_performers(metric, span, most).await;
                        let top = admin.data(&format!("/admin/top-performers?{query}")).await;
                        assert_eq!(top, expected, "{whose}: top {query}");
                    }
                }
            }

            let fields = [
                "id",
                "employee_id",
                "activityStatus",
                "total_distance_km",
                "total_duration_seconds",
                "distance_recalculation_status",
            ];
            for status in [None, Some("active"), Some("recent"), Some("inactive")] {
                let path = format!("/admin/sessions?status={}", status.unwrap_or("all"));
                let listed = only(&admin.all(&path, 3).await, &fields);
                assert_eq!(listed, recount.latest_sessions(status).await, "{whose}: {path}");
            }
            let fields = ["id", "activity_status", "is_checked_in", "last_latitude", "last_longitude"];
            let employees = only(&admin.all("/admin/employees?search=", 3).await, &fields);
            assert_eq!(employees, recount.employees().await, "{whose}");
            for employee in employees.as_array().unwrap() {
                let id = employee["id"].as_str().unwrap();
                let totals = recount.totals(id.parse().unwrap()).await;
                let sheet = admin.data(&format!("/admin/employees/{id}/profile")).await;
                assert_eq!(sheet["summary"], totals["sheet"], "{whose}: {id}");
                assert_eq!(
                    admin.data(&format!("/admin/user-summary?userId={id}")).await,
                    totals["user"],
                    "{whose}: {id}"
                );
                let listed = admin.all(&format!("/admin/sessions?employee_id={id}"), 4).await;
                let listed = only(&listed, &["id", "total_distance_km", "total_duration_seconds"]);
                assert_eq!(listed, recount.sessions_of(id.parse().unwrap()).await, "{whose}: {id}");
            }
        }
    }
    assert!(today_counted > 4, "too little happened today: {today_counted}");
}
