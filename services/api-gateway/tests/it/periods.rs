//! Which days and moments a period holds when nobody says so, and that nothing is left out because there is much of it.

use chrono::{DateTime, Datelike, NaiveDate, NaiveTime, TimeDelta, Utc, Weekday};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::figures::reconcile;
use crate::support::{Organization, Person, TestApp};

/// Midnight of a day that is `days` from the day it is now, in the organization's time zone.
async fn midnight(organization: &Organization<'_>, days: i32) -> DateTime<Utc> {
    let client = organization.app.database.superuser().await;
    let sql =
        "SELECT ((($2::timestamptz AT TIME ZONE time_zone)::date + $3::integer)::timestamp) AT TIME ZONE time_zone
               FROM organizations WHERE id = $1";
    client.query_one(sql, &[&organization.id, &organization.app.now(), &days]).await.unwrap().get(0)
}

/// An employee with a session of so many kilometres that began at `at` and took a second, and with an approved claim of
/// as much, submitted then.
async fn worked(organization: &Organization<'_>, name: &str, kilometres: f64, at: DateTime<Utc>) {
    let employee = Uuid::now_v7();
    let client = organization.app.database.superuser().await;
    let sql = "INSERT INTO employees (organization_id, id, name, employee_code) VALUES ($1, $2, $3, $3)";
    client.execute(sql, &[&organization.id, &employee, &name]).await.unwrap();
    let sql = "INSERT INTO attendance_sessions (organization_id, id, employee_id, checkin_at, checkout_at,
                   distance_recalculation_status, total_distance_km, total_duration_seconds)
               VALUES ($1, $2, $2, $3, $3::timestamptz + interval '1 second', 'done', $4, 1)";
    client.execute(sql, &[&organization.id, &employee, &at, &kilometres]).await.unwrap();
    let sql = "INSERT INTO expenses (organization_id, id, employee_id, amount, description, status, submitted_at, reviewed_at)
               VALUES ($1, $2, $2, $4::float8::numeric, 'Fuel', 'APPROVED', $3, $3)";
    client.execute(sql, &[&organization.id, &employee, &at, &kilometres]).await.unwrap();
}

fn each<'a>(rows: &'a Value, field: &str) -> Vec<&'a str> {
    rows.as_array().unwrap().iter().map(|row| row[field].as_str().unwrap()).collect()
}

/// The kilometres of a list of days, which are powers of two: so their sum says which days are in it.
fn kilometres(days: &Value) -> f64 {
    days.as_array().unwrap().iter().map(|day| day["distance"].as_f64().unwrap()).sum()
}

#[tokio::test]
async fn a_period_nobody_asked_for_begins_at_midnight_to_the_second() {
    for zone in ["UTC", "Asia/Kolkata", "America/St_Johns", "Pacific/Auckland"] {
        let app = TestApp::start().await;
        let organization = app.organization().await;
        let patch = json!({ "time_zone": zone });
        organization.admin.patch("/admin/organization", &patch).await.data(200);
        // Some midnight to come; every boundary is a midnight so many days before it, and the second before that.
        let today = midnight(&organization, 2).await;
        let second = TimeDelta::seconds(1);
        let before = async |days: i32| midnight(&organization, 2 - days).await;
        let mut kilometre = 1.0;
        for days in [30, 7, 90] {
            worked(&organization, &format!("in {days}"), kilometre, before(days).await).await;
            worked(&organization, &format!("before {days}"), kilometre * 2.0, before(days).await - second).await;
            kilometre *= 4.0;
        }
        worked(&organization, "first", 64.0, before(1).await).await;
        worked(&organization, "last", 128.0, today - second).await;

        // At midnight, and in the last second of the day before: everything moves by a day, at once.
        for (now, month, week, quarter, of_today) in [
            (today - second, 1.0 + 2.0 + 4.0 + 8.0 + 192.0, 4.0 + 8.0 + 192.0, 255.0, 192.0),
            (today, 1.0 + 4.0 + 8.0 + 192.0, 4.0 + 192.0, 255.0 - 32.0, 0.0),
        ] {
            app.clock.advance(now - app.now());
            let admin = app.sign_in(&organization.admin.email).await;
            reconcile(&organization).await;
            let whose = format!("{zone}, {now}");
            for path in ["/admin/org-summary", "/analytics/summary"] {
                let totals = admin.get(path).await.data(200);
                assert_eq!(totals["totalDistanceKm"], json!(month), "{whose}: {path}");
                // Claims are counted by the moment, and the period begins with a day.
                assert_eq!(totals["approvedExpenseAmount"].as_f64(), Some(month), "{whose}: {path}");
            }
            let ranked = |rows: &Value, figure: &str| -> f64 {
                rows.as_array().unwrap().iter().map(|row| row[figure].as_f64().unwrap()).sum()
            };
            let top = admin.get("/admin/top-performers").await.data(200);
            assert_eq!(ranked(&top, "totalDistanceKm"), month, "{whose}: {top}");
            for path in ["/admin/leaderboard", "/leaderboard"] {
                let board = admin.get(path).await.data(200);
                assert_eq!(ranked(&board, "distance"), month, "{whose}: {board}");
                assert_eq!(ranked(&board, "expenses"), month, "{whose}: {board}");
            }
            let trend = admin.get("/admin/session-trend").await.data(200);
            assert_eq!(kilometres(&trend), quarter, "{whose}: {trend}");
            let board = admin.get("/admin/dashboard").await.data(200);
            assert_eq!(kilometres(&board["sessionTrend"]), week, "{whose}: {board}");
            assert_eq!(board["todayDistanceKm"], json!(of_today), "{whose}: {board}");
            assert_eq!(board["todaySessionCount"], json!(if of_today > 0.0 { 2 } else { 0 }), "{whose}");
            // Six went somewhere in the last thirty days, or five; five are shown.
            let five = ["last", "first", "before 7", "in 7", if now < today { "before 30" } else { "in 30" }];
            assert_eq!(each(&board["leaderboard"], "employeeName"), five, "{whose}");
        }
    }
}

/// Clocks in Havana are put back from one to midnight: that day begins twice, and a period that begins with it the first
/// time.
#[tokio::test]
async fn a_period_begins_with_the_first_of_two_midnights() {
    let app = TestApp::start().await;
    let sunday = NaiveDate::from_weekday_of_month_opt(app.now().year() + 1, 11, Weekday::Sun, 1).unwrap();
    let first = sunday.and_time(NaiveTime::from_hms_opt(4, 0, 0).unwrap()).and_utc();
    app.clock.advance(first + TimeDelta::days(30) + TimeDelta::hours(12) - app.now());
    let organization = app.organization().await;
    organization.admin.patch("/admin/organization", &json!({ "time_zone": "America/Havana" })).await.data(200);
    assert_eq!(midnight(&organization, -30).await, first + TimeDelta::hours(1), "clocks are put back no more");
    for (name, kilometres, minutes) in
        [("before", 1.0, -1), ("first", 2.0, 0), ("between", 4.0, 30), ("second", 8.0, 60)]
    {
        worked(&organization, name, kilometres, first + TimeDelta::minutes(minutes)).await;
    }
    reconcile(&organization).await;
    let totals = organization.admin.get("/admin/org-summary").await.data(200);
    assert_eq!((&totals["totalDistanceKm"], totals["approvedExpenseAmount"].as_f64()), (&json!(14.0), Some(14.0)));
    let top = organization.admin.get("/admin/top-performers").await.data(200);
    assert_eq!(each(&top, "employeeName"), ["second", "between", "first"]);
}

/// Makes so many employees who each went as far as their number says, on the day it is now.
async fn crowd(organization: &Organization<'_>, people: i32) {
    let client = organization.app.database.superuser().await;
    let at = organization.app.now();
    let sql = "WITH people AS (
                   INSERT INTO employees (organization_id, id, name, employee_code)
                   SELECT $1, gen_random_uuid(), 'Number ' || n, n::text FROM generate_series(1, $2) AS n
                   RETURNING organization_id, id, employee_code),
               sessions AS (
                   INSERT INTO attendance_sessions (organization_id, id, employee_id, checkin_at, checkout_at,
                                                    distance_recalculation_status, total_distance_km, total_duration_seconds)
                   SELECT organization_id, id, id, $3, $3, 'done', employee_code::float8, employee_code::integer FROM people)
               INSERT INTO expenses (organization_id, id, employee_id, amount, description, submitted_at)
               SELECT organization_id, id, id, employee_code::numeric, 'Fuel', $3 FROM people";
    client.execute(sql, &[&organization.id, &people, &at]).await.unwrap();
    reconcile(organization).await;
}

#[tokio::test]
async fn rankings_and_lists_look_at_everybody() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    crowd(&organization, 1250).await;
    let admin = &organization.admin;
    // Everybody takes part: with more than a thousand, whoever is looked at last may be the first.
    for metric in ["distance", "duration", "expenses"] {
        for path in ["/admin/leaderboard", "/leaderboard"] {
            let board = admin.get(&format!("{path}?metric={metric}&limit=50")).await.data(200);
            let names: Vec<String> = (1201..=1250).rev().map(|number| format!("Number {number}")).collect();
            assert_eq!(each(&board, "employeeName"), names, "D35: {path} by {metric}");
            assert_eq!(board[49]["rank"], 50);
        }
    }
    for metric in ["distance", "duration"] {
        let top = admin.get(&format!("/admin/top-performers?metric={metric}")).await.data(200);
        let names: Vec<String> = (1241..=1250).rev().map(|number| format!("Number {number}")).collect();
        assert_eq!(each(&top, "employeeName"), names, "D35: top by {metric}");
    }
    let board = admin.get("/admin/dashboard").await.data(200);
    assert_eq!(board["todaySessionCount"], 1250);
    assert_eq!(board["todayDistanceKm"], json!(f64::from(1250 * 1251 / 2)));
    assert_eq!(board["pendingExpenseAmount"], 1250 * 1251 / 2);
    // Lists are whole, page by page, past the thousandth row.
    for (path, limit) in [("/admin/employees", 200), ("/admin/sessions", 100), ("/admin/expenses", 100)] {
        let last = admin.get(&format!("{path}?limit={limit}&page={}", 1250 / limit + 1)).await.json();
        assert_eq!(last["pagination"]["total"], 1250, "{path}");
        assert_eq!(last["data"].as_array().unwrap().len(), 50, "{path}");
    }
}

#[tokio::test]
async fn a_route_of_more_than_a_thousand_points_is_whole() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let session = asha.check_in().await;
    app.clock.advance(TimeDelta::minutes(30));
    let id: Uuid = session.parse().unwrap();
    let sql =
        "INSERT INTO gps_locations (organization_id, session_id, recorded_at, id, employee_id, latitude, longitude)
               SELECT organization_id, id, checkin_at + n * interval '1 second', gen_random_uuid(), employee_id,
                      45 + n * 0.00001, 13
               FROM attendance_sessions, generate_series(1, 1234) AS n WHERE id = $1";
    app.database.superuser().await.execute(sql, &[&id]).await.unwrap();
    let whole = async |person: &Person<'_>, path: String| {
        let route = person.get(&path).await.data(200);
        let points = route.as_array().unwrap();
        assert_eq!(points.len(), 1234, "D35: {path}");
        assert_eq!(points[1233]["latitude"], json!(45.01234), "{path}");
    };
    whole(&asha, format!("/locations/my-route?sessionId={session}")).await;
    whole(&organization.admin, format!("/admin/sessions/{session}/locations")).await;
    // All of them are measured, too: a metre and a bit each.
    let measured = asha.post(&format!("/attendance/{session}/recalculate"), &json!({})).await.data(200);
    assert_eq!(measured["total_distance_km"], 1.37, "D17: 1233 steps of 1.112 m");
}
