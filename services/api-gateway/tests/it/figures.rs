//! Figures over HTTP: totals, rankings, dashboards; whose they are, and which day they belong to.

use chrono::{DateTime, Datelike, NaiveTime, TimeDelta, Utc, Weekday};
use db::measurement::{From, Outcome, measure};
use domain::job::{Occasion, Payload, Snapshot};
use domain::{EmployeeId, SessionId};
use reqwest::Method;
use serde_json::{Value, json};
use testkit::database::tenant;
use uuid::Uuid;

use crate::support::{Organization, Person, TestApp, point};

/// The employee somebody is.
async fn employee_of(person: &Person<'_>) -> Uuid {
    let me = person.get("/auth/me").await.data(200);
    let client = person.app.database.superuser().await;
    let user: Uuid = me["id"].as_str().unwrap().parse().unwrap();
    client.query_one("SELECT id FROM employees WHERE user_id = $1", &[&user]).await.unwrap().get(0)
}

async fn user_of(person: &Person<'_>) -> String {
    person.get("/auth/me").await.data(200)["id"].as_str().unwrap().to_owned()
}

/// Works for so many seconds, a metre and a bit each, and is measured; answers the kilometres.
async fn work(person: &Person<'_>, organization: &Organization<'_>, seconds: i64) -> f64 {
    let app = person.app;
    let session = person.check_in().await;
    let points: Vec<Value> = (0..10).map(|step| point(app, step * seconds / 9)).collect();
    app.clock.advance(TimeDelta::seconds(seconds));
    let batch = json!({ "session_id": session, "points": points });
    assert_eq!(person.post("/locations/batch", &batch).await.status, 201);
    person.check_out().await;
    measured(organization, &session).await
}

/// Measures a session as the worker does.
async fn measured(organization: &Organization<'_>, session: &str) -> f64 {
    let app = organization.app;
    let id: SessionId = session.parse::<Uuid>().unwrap().into();
    let mut tx = app.database.open().tenant(tenant(organization.id)).await.unwrap();
    let outcome = measure(&mut tx, id, From::Checkpoint, 100_000, app.now()).await.unwrap();
    tx.commit().await.unwrap();
    match outcome {
        Outcome::Measured(_, measured) => measured.distance_km,
        other => panic!("{other:?}"),
    }
}

/// Puts the clock to this time of the day after today, so that no test crosses midnight by chance.
fn tomorrow_at(app: &TestApp, hour: u32) -> DateTime<Utc> {
    let at =
        (app.now().date_naive() + TimeDelta::days(1)).and_time(NaiveTime::from_hms_opt(hour, 0, 0).unwrap()).and_utc();
    app.clock.advance(at - app.now());
    at
}

/// Signs somebody in again: their token is as old as the clock was moved.
async fn again<'a>(person: &Person<'a>) -> Person<'a> {
    person.app.sign_in(&person.email).await
}

/// A claim, as it stands in the database, and what follows from it.
async fn claim(organization: &Organization<'_>, employee: Uuid, amount: &str, status: &str, at: DateTime<Utc>) {
    let reviewed = (status != "PENDING").then_some(at);
    let comment = (status == "REJECTED").then_some("No receipt");
    let id = Uuid::now_v7();
    let client = organization.app.database.superuser().await;
    client
        .execute(
            &format!(
                "INSERT INTO expenses (organization_id, id, employee_id, amount, description, status, submitted_at,
                                       reviewed_at, rejection_comment)
                 VALUES ($1, $2, $3, {amount}, 'Fuel', '{status}', $4, $5, $6)"
            ),
            &[&organization.id, &id, &employee, &at, &reviewed, &comment],
        )
        .await
        .unwrap();
    let mut tx = organization.app.database.open().tenant(tenant(organization.id)).await.unwrap();
    assert!(db::figures::expense_counts(&mut tx, id.into(), organization.app.now()).await.unwrap());
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn organization_totals_count_days_claims_and_who_is_at_work() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let (asha, ben) = (organization.employee("Asha").await, organization.employee("Ben").await);
    let zeros = json!({
        "totalSessions": 0, "totalDistanceKm": 0.0, "totalDurationSeconds": 0, "totalExpenses": 0,
        "approvedExpenseAmount": 0, "rejectedExpenseAmount": 0, "activeEmployeesCount": 0,
    });
    assert_eq!(organization.admin.get("/admin/org-summary").await.data(200), zeros);

    tomorrow_at(&app, 8);
    let (asha, ben, admin) = (again(&asha).await, again(&ben).await, again(&organization.admin).await);
    let kilometres = work(&asha, &organization, 900).await + work(&ben, &organization, 1800).await;
    ben.check_in().await;
    let employee = employee_of(&asha).await;
    for (amount, status) in [("100.10", "APPROVED"), ("0.2", "APPROVED"), ("7.5", "REJECTED"), ("3", "PENDING")] {
        claim(&organization, employee, amount, status, app.now()).await;
    }
    let expected = json!({
        "totalSessions": 2, "totalDistanceKm": (kilometres * 100.0).round() / 100.0, "totalDurationSeconds": 2700,
        "totalExpenses": 4, "approvedExpenseAmount": 100.3, "rejectedExpenseAmount": 7.5, "activeEmployeesCount": 1,
    });
    assert!(kilometres > 2.9, "{kilometres}");
    for path in ["/admin/org-summary", "/analytics/summary"] {
        assert_eq!(admin.get(path).await.data(200), expected, "{path}");
    }
    // Days count whole, claims by the moment; whoever is at work is at work whatever was asked.
    let today = app.now().date_naive();
    let evening = admin.get(&format!("/admin/org-summary?from={today}T23:00:00Z&to={today}T23:30:00Z")).await.data(200);
    assert_eq!((&evening["totalSessions"], &evening["totalExpenses"]), (&json!(2), &json!(0)));
    let before = admin.get("/admin/org-summary?from=2020-01-01T00:00Z&to=2020-12-31T00:00:00%2B02:00").await.data(200);
    assert_eq!((&before["totalSessions"], &before["activeEmployeesCount"]), (&json!(0), &json!(1)));
    let later = admin.get(&format!("/admin/org-summary?from={}T00:00Z", today + TimeDelta::days(1))).await.data(200);
    assert_eq!(later["totalSessions"], 0);
    // Nobody else's.
    let other = app.organization().await;
    assert_eq!(other.admin.get("/admin/org-summary").await.data(200), zeros);
}

#[tokio::test]
async fn periods_that_make_no_sense_are_refused_by_name() {
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    let paths = [
        "/admin/org-summary",
        "/analytics/summary",
        "/admin/user-summary",
        "/admin/top-performers",
        "/admin/session-trend",
        "/admin/leaderboard",
        "/leaderboard",
    ];
    for path in paths {
        for (query, error) in [
            ("from=yesterday", "querystring/from from must be a valid ISO-8601 date"),
            ("from=2026-03-10", "querystring/from from must be a valid ISO-8601 date"),
            ("to=", "querystring/to to must be a valid ISO-8601 date"),
            ("to=2026-02-30T00:00:00Z", "querystring/to to must be a valid ISO-8601 date"),
            (
                "from=2026-03-10T08:00:00Z&from=2026-03-10T08:00:00Z",
                "querystring/from Invalid input: expected string, received array",
            ),
            (
                "from=x&to=y",
                "querystring/from from must be a valid ISO-8601 date, querystring/to to must be a valid ISO-8601 date",
            ),
            ("from=2026-03-10T08:00:00Z&to=2026-03-10T07:59:59Z", "'from' date must not be later than 'to' date"),
            // 10:00 in Rome is 09:00 in London.
            (
                "from=2026-03-10T09:30:00Z&to=2026-03-10T10:00:00%2B01:00",
                "'from' date must not be later than 'to' date",
            ),
        ] {
            admin.get(&format!("{path}?{query}")).await.refused(400, "VALIDATION_ERROR", error);
        }
        let equal = format!("{path}?from=2026-03-10T09:00:00Z&to=2026-03-10T10:00:00%2B01:00");
        assert_eq!(admin.get(&equal).await.status, 200, "{path}: a moment is a period");
        assert_eq!(admin.get(&format!("{path}?other=1")).await.status, 200, "{path}");
        // As far as dates can be written, and a day further.
        for far in ["from=0000-01-01T00:00:00%2B23:59&to=9999-12-31T23:59:59-23:59", "to=0000-01-01T00:00:00Z"] {
            let answer = admin.get(&format!("{path}?{far}")).await;
            assert_eq!(answer.status, 200, "{path}?{far}: {}", answer.text);
        }
    }
}

#[tokio::test]
async fn rankings_are_refused_what_they_do_not_know() {
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    let top = "metric must be distance, duration, or sessions";
    let board = "metric must be distance, duration, sessions, or expenses";
    for (path, metric) in [("/admin/top-performers", top), ("/admin/leaderboard", board), ("/leaderboard", board)] {
        for (query, error) in [
            ("metric=speed", format!("querystring/metric {metric}")),
            ("metric=", format!("querystring/metric {metric}")),
            ("metric=distance&metric=distance", format!("querystring/metric {metric}")),
            ("limit=51", "querystring/limit Too big: expected number to be <=50".to_owned()),
            ("limit=0", "querystring/limit Too small: expected number to be >=1".to_owned()),
            ("limit=", "querystring/limit Too small: expected number to be >=1".to_owned()),
            ("limit=1.5", "querystring/limit Invalid input: expected int, received number".to_owned()),
            ("limit=x", "querystring/limit Invalid input: expected number, received NaN".to_owned()),
        ] {
            admin.get(&format!("{path}?{query}")).await.refused(400, "VALIDATION_ERROR", &error);
        }
        assert_eq!(admin.get(&format!("{path}?limit=1e1")).await.data(200), json!([]));
    }
    admin.get("/admin/top-performers?metric=expenses").await.refused(
        400,
        "VALIDATION_ERROR",
        &format!("querystring/metric {top}"),
    );
    admin.get("/admin/user-summary?userId=x").await.refused(
        400,
        "VALIDATION_ERROR",
        "querystring/userId userId must be a valid UUID",
    );
}

#[tokio::test]
async fn a_users_totals_outlive_their_employment() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    tomorrow_at(&app, 8);
    let (asha, admin) = (again(&asha).await, again(&organization.admin).await);
    let (first, second) = (work(&asha, &organization, 100).await, work(&asha, &organization, 301).await);
    let employee = employee_of(&asha).await;
    claim(&organization, employee, "12.345", "APPROVED", app.now()).await;
    claim(&organization, employee, "1", "REJECTED", app.now()).await;
    let user = user_of(&asha).await;
    let total = ((first + second) * 100.0).round() / 100.0;
    let expected = json!({
        "sessionsCount": 2, "totalDistanceKm": total, "totalDurationSeconds": 401, "totalExpenses": 2,
        "approvedExpenseAmount": 12.35, "averageDistancePerSession": (total / 2.0 * 100.0 + 0.5).floor() / 100.0,
        "averageSessionDurationSeconds": 201,
    });
    let path = format!("/admin/user-summary?userId={user}");
    assert_eq!(admin.get(&path).await.data(200), expected);
    app.database
        .superuser()
        .await
        .execute("UPDATE employees SET is_active = false WHERE id = $1", &[&employee])
        .await
        .unwrap();
    assert_eq!(admin.get(&path).await.data(200), expected, "D48");
    assert_eq!(admin.get(&format!("{path}&to=2020-01-01T00:00:00Z")).await.data(200)["sessionsCount"], 0);

    let zeros = json!({
        "sessionsCount": 0, "totalDistanceKm": 0.0, "totalDurationSeconds": 0, "totalExpenses": 0,
        "approvedExpenseAmount": 0, "averageDistancePerSession": 0.0, "averageSessionDurationSeconds": 0,
    });
    // The caller is no employee; nobody has this id; they belong to somebody else.
    assert_eq!(admin.get("/admin/user-summary").await.data(200), zeros);
    assert_eq!(admin.get(&format!("/admin/user-summary?userId={}", Uuid::new_v4())).await.data(200), zeros);
    let other = app.organization().await;
    assert_eq!(other.admin.get(&path).await.data(200), zeros);
}

#[tokio::test]
async fn top_performers_are_read_from_sessions_open_ones_included() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let (asha, ben, cem) =
        (organization.employee("Asha").await, organization.employee("Ben").await, organization.employee("Cem").await);
    tomorrow_at(&app, 8);
    let (asha, ben, cem) = (again(&asha).await, again(&ben).await, again(&cem).await);
    let admin = again(&organization.admin).await;
    let far = work(&asha, &organization, 3000).await;
    let near = work(&ben, &organization, 500).await;
    cem.check_in().await;
    let [asha, ben, cem] = [employee_of(&asha).await, employee_of(&ben).await, employee_of(&cem).await];
    let top = async |query: &str| admin.get(&format!("/admin/top-performers{query}")).await.data(200);
    assert_eq!(
        top("").await,
        json!([
            { "employeeId": asha, "employeeName": "Asha", "totalDistanceKm": far },
            { "employeeId": ben, "employeeName": "Ben", "totalDistanceKm": near },
            { "employeeId": cem, "employeeName": "Cem", "totalDistanceKm": 0.0 },
        ])
    );
    // All have one session: whoever checked in last comes first.
    assert_eq!(
        top("?metric=sessions&limit=2").await,
        json!([
            { "employeeId": cem, "employeeName": "Cem", "sessionsCount": 1 },
            { "employeeId": ben, "employeeName": "Ben", "sessionsCount": 1 },
        ])
    );
    assert_eq!(
        top("?metric=duration&limit=1").await,
        json!([{ "employeeId": asha, "employeeName": "Asha", "totalDurationSeconds": 3000 }])
    );
    assert_eq!(top("?from=2020-01-01T00:00:00Z&to=2020-01-02T00:00:00Z").await, json!([]));
    let other = app.organization().await;
    assert_eq!(other.admin.get("/admin/top-performers").await.data(200), json!([]));
}

#[tokio::test]
async fn the_leaderboard_has_every_figure_and_is_everybodys() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let (asha, ben, cem) =
        (organization.employee("Asha").await, organization.employee("Ben").await, organization.employee("Cem").await);
    organization.employee("Idle").await;
    tomorrow_at(&app, 8);
    let (asha, ben, cem) = (again(&asha).await, again(&ben).await, again(&cem).await);
    let admin = again(&organization.admin).await;
    let far = work(&asha, &organization, 3000).await;
    let near = work(&ben, &organization, 500).await;
    cem.check_in().await;
    let [first, second, third] = [employee_of(&asha).await, employee_of(&ben).await, employee_of(&cem).await];
    claim(&organization, second, "20.005", "PENDING", app.now()).await;
    claim(&organization, third, "5", "REJECTED", app.now()).await;
    let codes = async |employee: Uuid| -> String {
        let client = app.database.superuser().await;
        client.query_one("SELECT employee_code FROM employees WHERE id = $1", &[&employee]).await.unwrap().get(0)
    };
    let a = json!({
        "employeeId": first, "employeeCode": codes(first).await, "employeeName": "Asha",
        "distance": far, "sessions": 1, "duration": 3000,
    });
    let b = json!({
        "employeeId": second, "employeeCode": codes(second).await, "employeeName": "Ben",
        "distance": near, "sessions": 1, "duration": 500, "expenses": 20.01,
    });
    let c = json!({
        "employeeId": third, "employeeCode": codes(third).await, "employeeName": "Cem",
        "distance": 0.0, "sessions": 0, "duration": 0, "expenses": 5,
    });
    let ranked = |entries: &[&Value]| -> Value {
        let place = |(place, entry): (usize, &&Value)| {
            let mut entry = (*entry).clone();
            entry["rank"] = json!(place + 1);
            entry
        };
        entries.iter().enumerate().map(place).collect()
    };
    for (person, path) in [(&admin, "/admin/leaderboard"), (&admin, "/leaderboard"), (&asha, "/leaderboard")] {
        assert_eq!(person.get(path).await.data(200), ranked(&[&a, &b, &c]), "{path}");
        let by = async |query: &str| person.get(&format!("{path}?{query}")).await.data(200);
        // An open session is no day's yet; equals stand by their ids.
        let equals = if first < second { [&a, &b, &c] } else { [&b, &a, &c] };
        assert_eq!(by("metric=sessions").await, ranked(&equals));
        assert_eq!(by("metric=duration&limit=1").await, ranked(&[&a]));
        let mut nothing = a.clone();
        nothing["expenses"] = json!(0);
        assert_eq!(by("metric=expenses").await, ranked(&[&b, &c, &nothing]), "asked for, it is there");
        assert_eq!(by("to=2020-01-02T00:00:00Z&from=2020-01-01T00:00:00Z").await, json!([]));
    }
    let stranger = app.organization().await.employee("Stranger").await;
    assert_eq!(stranger.get("/leaderboard").await.data(200), json!([]));
}

#[tokio::test]
async fn the_trend_shows_days_with_sessions_oldest_first() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let mut expected = Vec::new();
    for _ in 0..2 {
        // A day without work lies between.
        app.clock.advance(TimeDelta::days(1));
        let at = tomorrow_at(&app, 8);
        let person = again(&asha).await;
        let distance = work(&person, &organization, 600).await;
        expected.push(json!({ "date": at.date_naive(), "sessions": 1, "distance": distance, "duration": 600 }));
    }
    let admin = again(&organization.admin).await;
    assert_eq!(admin.get("/admin/session-trend").await.data(200), json!(expected));
    let last = expected[1]["date"].as_str().unwrap().to_owned();
    let only = admin.get(&format!("/admin/session-trend?from={last}T12:00:00Z")).await.data(200);
    assert_eq!(only, json!([expected[1]]), "the whole day of `from`");
    let until = admin.get(&format!("/admin/session-trend?to={last}T00:00:00Z")).await.data(200);
    assert_eq!(until, json!(expected), "the whole day of `to`");
    app.clock.advance(TimeDelta::days(90));
    let admin = again(&organization.admin).await;
    assert_eq!(admin.get("/admin/session-trend").await.data(200), json!([expected[1]]), "ninety days back");
    let other = app.organization().await;
    assert_eq!(other.admin.get("/admin/session-trend").await.data(200), json!([]));
}

#[tokio::test]
async fn somebody_whose_work_nobody_measured_is_counted_too() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    organization.employee("Ben").await;
    asha.check_in().await;
    asha.post("/attendance/check-out", &json!({})).await.data(200);
    app.clock.advance(TimeDelta::hours(25));
    let board = again(&organization.admin).await.get("/admin/dashboard").await.data(200);
    let counts = ["activeEmployeeCount", "recentEmployeeCount", "inactiveEmployeeCount"].map(|name| &board[name]);
    assert_eq!(counts, [&json!(0), &json!(0), &json!(1)], "{board}");
}

#[tokio::test]
async fn a_dashboard_is_true_whatever_jobs_have_run() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let empty = json!({
        "activeEmployeeCount": 0, "recentEmployeeCount": 0, "inactiveEmployeeCount": 0, "activeEmployeesToday": 0,
        "todaySessionCount": 0, "todayDistanceKm": 0.0, "pendingExpenseCount": 0, "pendingExpenseAmount": 0,
        "snapshotUpdatedAt": null, "sessionTrend": [], "leaderboard": [],
    });
    assert_eq!(organization.admin.get("/admin/dashboard").await.data(200), empty);

    let (asha, ben) = (organization.employee("Asha").await, organization.employee("Ben").await);
    let morning = tomorrow_at(&app, 8);
    let (asha, ben, admin) = (again(&asha).await, again(&ben).await, again(&organization.admin).await);
    let kilometres = work(&asha, &organization, 1200).await;
    // Nothing was asked to count this one yet.
    ben.check_in().await;
    let employee = employee_of(&asha).await;
    claim(&organization, employee, "10.50", "PENDING", app.now()).await;
    claim(&organization, employee, "1", "APPROVED", app.now()).await;
    let board = admin.get("/admin/dashboard").await.data(200);
    for (figure, value) in [
        ("activeEmployeeCount", json!(1)),
        ("recentEmployeeCount", json!(1)),
        ("inactiveEmployeeCount", json!(0)),
        ("activeEmployeesToday", json!(1)),
        ("todaySessionCount", json!(1)),
        ("todayDistanceKm", json!(kilometres)),
        ("pendingExpenseCount", json!(1)),
        ("pendingExpenseAmount", json!(10.5)),
        ("snapshotUpdatedAt", Value::Null),
        (
            "sessionTrend",
            json!([{ "date": morning.date_naive(), "sessions": 1, "distance": kilometres, "duration": 1200 }]),
        ),
    ] {
        assert_eq!(board[figure], value, "{figure}: {board}");
    }
    assert_eq!(board["leaderboard"][0]["distance"], json!(kilometres));

    // D43: midnight passes, and no job runs.
    app.clock.advance(TimeDelta::hours(24));
    let admin = again(&organization.admin).await;
    let board = admin.get("/admin/dashboard").await.data(200);
    assert_eq!((&board["todaySessionCount"], &board["todayDistanceKm"]), (&json!(0), &json!(0.0)), "{board}");
    assert_eq!((&board["activeEmployeeCount"], &board["inactiveEmployeeCount"]), (&json!(1), &json!(1)), "{board}");
    assert_eq!(board["sessionTrend"].as_array().unwrap().len(), 1, "yesterday stays");

    // The job that keeps the figures says when it did.
    let mut tx = app.database.open().tenant(tenant(organization.id)).await.unwrap();
    assert!(db::figures::set_dashboard(&mut tx, app.now()).await.unwrap());
    tx.commit().await.unwrap();
    let board = admin.get("/admin/dashboard").await.data(200);
    assert_eq!(board["snapshotUpdatedAt"], json!(domain::clock::Stored(app.now())));

    let other = app.organization().await;
    assert_eq!(other.admin.get("/admin/dashboard").await.data(200), empty);
}

#[tokio::test]
async fn my_summary_is_the_running_week_of_whoever_asks() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let (asha, ben) = (organization.employee("Asha").await, organization.employee("Ben").await);
    let zeros = json!({
        "sessionsThisWeek": 0, "distanceThisWeek": 0.0, "hoursThisWeek": 0.0, "expensesSubmitted": 0, "expensesApproved": 0,
    });
    assert_eq!(asha.get("/dashboard/my-summary").await.data(200), zeros);
    assert_eq!(organization.admin.get("/dashboard/my-summary").await.data(200), zeros, "no employee");

    tomorrow_at(&app, 8);
    while app.now().weekday() != Weekday::Wed {
        app.clock.advance(TimeDelta::days(1));
    }
    let (asha, ben) = (again(&asha).await, again(&ben).await);
    let kilometres = work(&asha, &organization, 1800).await;
    work(&ben, &organization, 60).await;
    let employee = employee_of(&asha).await;
    claim(&organization, employee, "5", "APPROVED", app.now() - TimeDelta::days(300)).await;
    claim(&organization, employee, "5", "REJECTED", app.now()).await;
    let mine = asha.get("/dashboard/my-summary").await.data(200);
    let expected = json!({
        "sessionsThisWeek": 1, "distanceThisWeek": kilometres, "hoursThisWeek": 0.5, "expensesSubmitted": 2,
        "expensesApproved": 1,
    });
    assert_eq!(mine, expected);

    // A session that goes on counts; so does one that was closed and not measured yet.
    asha.check_in().await;
    assert_eq!(asha.get("/dashboard/my-summary").await.data(200)["sessionsThisWeek"], 2);
    app.clock.advance(TimeDelta::minutes(30));
    let asha = again(&asha).await;
    asha.check_out().await;
    assert_eq!(asha.get("/dashboard/my-summary").await.data(200)["hoursThisWeek"], 1.0);

    // Monday, 00:00.
    let monday = (app.now().date_naive() + TimeDelta::days(7 - i64::from(app.now().weekday().num_days_from_monday())))
        .and_time(NaiveTime::MIN)
        .and_utc();
    app.clock.advance(monday - app.now() - TimeDelta::seconds(1));
    assert_eq!(again(&asha).await.get("/dashboard/my-summary").await.data(200)["sessionsThisWeek"], 2);
    app.clock.advance(TimeDelta::seconds(1));
    let mine = again(&asha).await.get("/dashboard/my-summary").await.data(200);
    assert_eq!((&mine["sessionsThisWeek"], &mine["expensesSubmitted"]), (&json!(0), &json!(2)));
}

#[tokio::test]
async fn an_administrator_chooses_the_time_zone_of_the_days() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let own = organization.admin.get("/admin/organization").await.data(200);
    assert_eq!((&own["time_zone"], &own["id"]), (&json!("UTC"), &json!(organization.id)));

    // 20:00 in UTC is half past one of the next day in Kolkata.
    let evening = tomorrow_at(&app, 20);
    let (asha, admin) = (again(&asha).await, again(&organization.admin).await);
    let kilometres = work(&asha, &organization, 600).await;
    let today = evening.date_naive();
    let trend = admin.get("/admin/session-trend").await.data(200);
    assert_eq!(trend[0]["date"], json!(today));

    let patch = async |body: Value| app.send(admin.request(Method::PATCH, "/admin/organization").json(&body)).await;
    let own = patch(json!({ "time_zone": "Asia/Kolkata" })).await.data(200);
    assert_eq!(own["time_zone"], "Asia/Kolkata");
    // What is read from sessions follows at once, what is kept by days with the next comparison.
    let board = admin.get("/admin/dashboard").await.data(200);
    assert_eq!(board["todaySessionCount"], 1);
    assert_eq!(board["sessionTrend"][0]["date"], json!(today), "not counted anew yet");
    reconcile(&organization).await;
    let day = today + TimeDelta::days(1);
    let expected = json!([{ "date": day, "sessions": 1, "distance": kilometres, "duration": 600 }]);
    assert_eq!(admin.get("/admin/session-trend").await.data(200), expected);
    assert_eq!(admin.get("/admin/dashboard").await.data(200)["sessionTrend"], expected);

    let logged: i64 = app
        .database
        .superuser()
        .await
        .query_one("SELECT count(*) FROM admin_audit_log WHERE event = 'ORGANIZATION_UPDATED'", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(logged, 1);
    patch(json!({ "time_zone": "Asia/Kolkata" })).await.data(200);

    let unknown = "time_zone must be an IANA time zone such as Europe/Rome";
    for zone in ["Atlantis/Capital", "EST5EDTX", "+02:00", "'; DROP TABLE employees; --"] {
        let body = patch(json!({ "time_zone": zone })).await.refused(400, "VALIDATION_ERROR", unknown);
        assert_eq!(body["details"]["field"], "time_zone");
    }
    for (body, error) in [
        (json!({}), "body/time_zone Invalid input: expected string, received undefined"),
        (json!({ "time_zone": null }), "body/time_zone Invalid input: expected string, received null"),
        (json!({ "time_zone": "" }), "body/time_zone Too small: expected string to have >=1 characters"),
        (json!({ "time_zone": "x".repeat(65) }), "body/time_zone Too big: expected string to have <=64 characters"),
    ] {
        patch(body).await.refused(400, "VALIDATION_ERROR", error);
    }
    let other = app.organization().await;
    assert_eq!(other.admin.get("/admin/organization").await.data(200)["time_zone"], "UTC");
}

/// What the worker does every five minutes.
pub async fn reconcile(organization: &Organization<'_>) {
    let app = organization.app;
    let asked =
        Snapshot { occasion: Occasion::Reconcile, organization: organization.id.into(), employee: None, expense: None };
    assert_eq!(asked.organization(), Some(organization.id.into()));
    let db = app.database.open();
    let mut tx = db.tenant(tenant(organization.id)).await.unwrap();
    let comparison = db::figures::comparison(&mut tx, app.now()).await.unwrap().unwrap();
    for (first, last) in comparison.spans {
        db::figures::compare_days(&mut tx, first, last, app.now()).await.unwrap();
    }
    db::figures::compare_people(&mut tx, comparison.is_whole, app.now()).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn totals_and_rankings_have_no_hidden_limit() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let (employee, user) = (employee_of(&asha).await, user_of(&asha).await);
    tomorrow_at(&app, 12);
    let admin = again(&organization.admin).await;
    // 1,200 short sessions and claims within the last days: more than a page of anything.
    let client = app.database.superuser().await;
    client
        .execute(
            "INSERT INTO attendance_sessions (organization_id, id, employee_id, checkin_at, checkout_at,
                                              distance_recalculation_status, total_distance_km, total_duration_seconds)
             SELECT $1, gen_random_uuid(), $2, at, at + interval '1 minute', 'done', 0.25, 60
             FROM generate_series($3::timestamptz - interval '1199 minutes', $3, interval '1 minute') AS at",
            &[&organization.id, &employee, &(app.now() - TimeDelta::hours(1))],
        )
        .await
        .unwrap();
    client
        .execute(
            "INSERT INTO expenses (organization_id, id, employee_id, amount, description, status, submitted_at, reviewed_at)
             SELECT $1, gen_random_uuid(), $2, 0.5, 'Toll', 'APPROVED', $3, $3 FROM generate_series(1, 1100)",
            &[&organization.id, &employee, &(app.now() - TimeDelta::hours(1))],
        )
        .await
        .unwrap();
    reconcile(&organization).await;
    let totals = admin.get("/admin/org-summary").await.data(200);
    assert_eq!(totals["totalSessions"], 1200, "D35: {totals}");
    assert_eq!(totals["totalDistanceKm"], 300.0);
    assert_eq!((&totals["totalExpenses"], &totals["approvedExpenseAmount"]), (&json!(1100), &json!(550)));
    assert_eq!(admin.get("/admin/top-performers?metric=sessions").await.data(200)[0]["sessionsCount"], 1200);
    let first = &admin.get("/admin/leaderboard").await.data(200)[0];
    assert_eq!((&first["sessions"], &first["expenses"]), (&json!(1200), &json!(550)));
    let mine = admin.get(&format!("/admin/user-summary?userId={user}")).await.data(200);
    assert_eq!((&mine["sessionsCount"], &mine["averageSessionDurationSeconds"]), (&json!(1200), &json!(60)));
    // What an employee did in all, as their sheet may show it.
    let mut tx = app.database.open().tenant(tenant(organization.id)).await.unwrap();
    assert!(db::figures::employee_counts(&mut tx, EmployeeId::from(employee), app.now()).await.unwrap());
    tx.commit().await.unwrap();
    let row = client
        .query_one("SELECT total_sessions, total_hours, total_distance FROM employee_metrics_snapshot", &[])
        .await
        .unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, f64>(1), row.get::<_, f64>(2)), (1200, 20.0, 300.0));
}

#[tokio::test]
async fn read_models_that_nobody_keeps_are_told() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let health = async |person: &Person<'_>| {
        let answer = person.get("/internal/snapshot-health").await;
        (answer.status.as_u16(), answer.json())
    };
    let (status, body) = health(&organization.admin).await;
    assert_eq!((status, &body["success"]), (503, &json!(true)), "{body}");
    assert_eq!(body["data"]["status"], "degraded");
    let table = &body["data"]["tables"]["employee_last_state"];
    assert_eq!(*table, json!({ "latestUpdateAt": null, "rowCount": 0, "stale": true }));
    assert_eq!(body["data"]["workers"], json!({ "healthy": false, "lastProcessedAt": null }));

    tomorrow_at(&app, 8);
    let (asha, admin) = (again(&asha).await, again(&organization.admin).await);
    work(&asha, &organization, 60).await;
    assert_eq!(health(&admin).await.0, 503, "there is no dashboard yet");
    reconcile(&organization).await;
    let (status, body) = health(&admin).await;
    assert_eq!((status, &body["data"]["status"]), (200, &json!("healthy")), "{body}");
    let table = &body["data"]["tables"]["employee_metrics_snapshot"];
    let now = json!(domain::clock::Stored(app.now()));
    assert_eq!(*table, json!({ "latestUpdateAt": now, "rowCount": 1, "stale": false }));
    assert_eq!(body["data"]["workers"], json!({ "healthy": true, "lastProcessedAt": now }));

    // Nothing happens for a while, and reconciliation goes on: that is fresh. Nobody reconciles: that is stale.
    app.clock.advance(TimeDelta::minutes(9));
    reconcile(&organization).await;
    app.clock.advance(TimeDelta::minutes(9));
    assert_eq!(health(&admin).await.0, 200);
    app.clock.advance(TimeDelta::seconds(61));
    assert_eq!(health(&admin).await.0, 503);
}
