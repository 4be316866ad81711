//! What operators look at: queues, dead letters, jobs that could not be queued, dependencies.

use std::time::{Duration, Instant};

use queue::{NewJob, Producer, Redis, RedisConfig};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Answer, TestApp, location};

const PEOPLE_SCOPE: &str = "API key missing required scope: admin:all";

/// Production's settings, as far as it insists on them.
const PRODUCTION: &[(&str, &str)] = &[
    ("APP_ENV", "production"),
    ("CONFIG_VERSION", "1"),
    ("APP_BASE_URL", "https://app.fieldtrack.test"),
    ("FRONTEND_BASE_URL", "https://console.fieldtrack.test"),
    ("METRICS_SCRAPE_TOKEN", "0123456789abcdef0123456789abcdef"),
    ("WORKERS_ENABLED", "true"),
];

/// Waits until something is so.
async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn number(app: &TestApp, words: &[&str]) -> i64 {
    app.redis.call(words).unwrap().to_string().parse().unwrap()
}

/// Puts a copy of a dead job where the worker puts it; with the record it was made of.
async fn letter(app: &TestApp, id: &str, original: &Value) {
    let failed_ms = "1773129600123";
    let redis = Redis::open(&RedisConfig::new(app.redis.url().into())).unwrap();
    let data = json!({ "originalData": original, "failedAt": "2026-03-10T08:00:00.123Z", "reason": "x" });
    let job = NewJob { id: Some(format!("{id}-{failed_ms}")), ..NewJob::new("dead-letter", data.to_string()) };
    Producer::start(redis, "distance-failed").enqueue(job).await.unwrap();
    app.redis
        .call(&["HSET", &format!("bull:distance-engine:{id}"), "name", "recalculate", "finishedOn", failed_ms])
        .unwrap();
    app.redis.call(&["ZADD", "bull:distance-engine:failed", failed_ms, id]).unwrap();
}

#[tokio::test]
async fn queues_are_counted_as_they_are() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let admin = &organization.admin;
    let nothing = json!({ "waiting": 0, "active": 0, "completed": 0, "failed": 0 });
    let empty = admin.get("/admin/queues").await;
    let mut analytics = nothing.clone();
    analytics["dlq"] = json!({ "waiting": 0, "failed": 0 });
    assert_eq!(empty.json(), json!({ "success": true, "queues": { "analytics": analytics, "distance": nothing } }));

    for (command, key) in [
        (["LPUSH", "1"], "bull:analytics:wait"),
        (["LPUSH", "2"], "bull:analytics:active"),
        (["LPUSH", "3"], "bull:analytics-failed:wait"),
        (["LPUSH", "4"], "bull:distance-engine:wait"),
    ] {
        app.redis.call(&[command[0], key, command[1]]).unwrap();
    }
    for (key, members) in [
        ("bull:analytics:delayed", "ab"),
        ("bull:analytics:completed", "abc"),
        ("bull:analytics-failed:failed", "ab"),
        ("bull:distance-engine:prioritized", "ab"),
        ("bull:distance-engine:delayed", "a"),
        ("bull:distance-engine:failed", "abcd"),
    ] {
        for member in members.chars() {
            app.redis.call(&["ZADD", key, "1", &member.to_string()]).unwrap();
        }
    }
    let queues = admin.get("/admin/queues").await.json()["queues"].clone();
    let letters = json!({ "waiting": 1, "failed": 2 });
    assert_eq!(queues["analytics"], json!({ "waiting": 1, "active": 1, "completed": 3, "failed": 0, "dlq": letters }));
    assert_eq!(queues["distance"], json!({ "waiting": 3, "active": 0, "completed": 0, "failed": 4 }));
    let status = admin.get("/internal/queues/status").await.json();
    let depths = json!({
        "distance": { "depth": 4, "active": 0, "delayed": 1 },
        "analytics": { "depth": 3, "active": 1, "delayed": 2 },
    });
    assert_eq!(status, json!({ "success": true, "queues": depths }));

    let (reader, _) = admin.api_key(&["read:employees"]).await;
    let (all, _) = admin.api_key(&["admin:all"]).await;
    for path in [
        "/admin/queues",
        "/internal/queues/status",
        "/internal/metrics",
        "/internal/ready-deep",
        "/admin/system-health",
        "/admin/retry-intents",
        "/auth/debug",
    ] {
        app.with_key(&reader, Method::GET, path, &Value::Null).await.refused(403, "FORBIDDEN", PEOPLE_SCOPE);
        assert_eq!(app.with_key(&all, Method::GET, path, &Value::Null).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn without_the_queue_store_each_says_so_in_its_own_way() {
    let mut app = TestApp::start().await;
    let organization = app.organization().await;
    let token = organization.admin.token.clone();
    drop(organization);
    app.redis.kill();
    let get = async |path: &str| -> Answer { app.send(app.request(Method::GET, path).bearer_auth(&token)).await };
    let status = get("/internal/queues/status").await;
    status.refused(500, "INTERNAL_ERROR", "Failed to fetch queue status");
    for path in ["/admin/queues", "/internal/metrics"] {
        get(path).await.refused(503, "SERVICE_UNAVAILABLE", "Service unavailable");
    }
    let replay = app.request(Method::POST, "/admin/queues/replay-distance-dlq").bearer_auth(&token);
    app.send(replay).await.refused(503, "SERVICE_UNAVAILABLE", "Service unavailable");

    let health = get("/admin/system-health").await.json();
    assert_eq!(health["workers"], json!({ "active": 0, "expected": 4, "healthy": false }));
    let queues = json!({
        "webhook": { "backlog": -1, "dlq": 0 }, "analytics": { "backlog": -1 }, "distance": { "backlog": -1 },
    });
    assert_eq!(health["queues"], queues);

    let begun = Instant::now();
    let deep = get("/internal/ready-deep").await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!((deep.status.as_u16(), &deep.json()["success"]), (503, &json!(true)));
    let data = &deep.json()["data"];
    assert_eq!((&data["status"], &data["checks"]["redis"]["status"]), (&json!("degraded"), &json!("error")));
    assert_eq!(data["checks"]["redis"]["error"], "unreachable");
    assert_eq!(data["checks"]["database"]["status"], "ok");

    let debug = app.get("/debug/redis").await;
    assert_eq!((debug.status.as_u16(), debug.json()), (503, json!({ "status": "error", "redis": "unreachable" })));
}

#[tokio::test]
async fn the_deep_probe_wants_workers_where_some_are_expected() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let deep = organization.admin.get("/internal/ready-deep").await.data(200);
    assert_eq!(deep["status"], "healthy");
    let workers = json!({ "status": "skipped", "healthy": false, "lastProcessedAt": null });
    assert_eq!(deep["checks"]["workers"], workers);
    for name in ["redis", "database"] {
        assert_eq!(deep["checks"][name]["status"], "ok");
        assert!(deep["checks"][name]["latencyMs"].as_u64().unwrap() < 2000);
        assert!(deep["checks"][name].get("error").is_none());
    }
    let app = TestApp::start_with(&[("WORKERS_ENABLED", "true")]).await;
    let organization = app.organization().await;
    app.redis.call(&["ZADD", "bull:analytics:completed", "1773129600123", "7"]).unwrap();
    app.redis.call(&["HSET", "bull:analytics:7", "processedOn", "1773129600100"]).unwrap();
    let deep = organization.admin.get("/internal/ready-deep").await.data(503);
    assert_eq!(deep["status"], "degraded");
    let workers = json!({ "status": "error", "healthy": false, "lastProcessedAt": "2026-03-10T08:00:00.123Z" });
    assert_eq!(deep["checks"]["workers"], workers);
}

#[tokio::test]
async fn dead_measurements_of_the_organization_are_asked_for_again_and_no_others() {
    let app = TestApp::start().await;
    let (ours, theirs) = (app.organization().await, app.organization().await);
    let (asha, stranger) = (ours.employee("Asha").await, theirs.employee("Stranger").await);
    let session = asha.check_in().await;
    let foreign = stranger.check_in().await;
    let (first, second) = (Uuid::now_v7(), Uuid::now_v7());
    letter(&app, "11", &json!({ "sessionId": first, "organizationId": ours.id })).await;
    letter(&app, "12", &json!({ "sessionId": Uuid::now_v7(), "organizationId": theirs.id })).await;
    letter(&app, "13", &json!({ "sessionId": second, "organizationId": ours.id })).await;
    // A foreign producer did not say whose session it is.
    letter(&app, "14", &json!({ "sessionId": session })).await;
    letter(&app, "15", &json!({ "sessionId": foreign })).await;
    letter(&app, "16", &json!("no payload of ours")).await;
    let waits = |queue: &str| number(&app, &["LLEN", &format!("bull:{queue}:wait")]);
    assert_eq!((waits("distance-failed"), number(&app, &["ZCARD", "bull:distance-engine:failed"])), (6, 6));

    const PATH: &str = "/admin/queues/replay-distance-dlq";
    let one = ours.admin.post(PATH, &json!({ "limit": 1 })).await;
    assert_eq!((one.status.as_u16(), one.json()), (200, json!({ "success": true, "replayed": 1, "limit": 1 })));
    let queued = app.redis.call(&["LINDEX", "bull:distance-engine:wait", "0"]).unwrap().to_string();
    let data = app.redis.call(&["HGET", &format!("bull:distance-engine:{queued}"), "data"]).unwrap().to_string();
    let data: Value = serde_json::from_str(&data).unwrap();
    assert_eq!(data, json!({ "sessionId": first, "organizationId": ours.id }), "the oldest first");
    // The dead job and its copy are gone.
    assert_eq!((waits("distance-failed"), number(&app, &["ZCARD", "bull:distance-engine:failed"])), (5, 5));
    assert_eq!(number(&app, &["EXISTS", "bull:distance-engine:11", "bull:distance-failed:11-1773129600123"]), 0);

    let soon = ours.admin.post(PATH, &json!({})).await;
    let refused = soon.refused(
        429,
        "DLQ_REPLAY_RATE_LIMITED",
        "Distance DLQ replay is rate-limited. Please wait before replaying again.",
    );
    let details = &refused["details"];
    assert_eq!((&details["queue"], &details["cooldownMs"]), (&json!("distance-failed"), &json!(15_000)));
    let left = details["retryAfterMs"].as_u64().unwrap();
    assert!((1..=15_000).contains(&left), "{left}");
    assert!((1..=15).contains(&soon.header("retry-after").parse::<u64>().unwrap()));
    let metrics = app.get("/metrics").await.text;
    let hit = format!(r#"security_rate_limit_hits_total{{route="{PATH}"}} 1"#);
    assert!(metrics.contains(&hit), "{metrics}");

    // Others do not wait for us; a program may do it, without a body.
    let (key, _) = theirs.admin.api_key(&["admin:all"]).await;
    let others = app.with_key(&key, Method::POST, PATH, &Value::Null).await.json();
    assert_eq!(others, json!({ "success": true, "replayed": 2, "limit": 100 }));

    app.redis.call(&["DEL", &format!("rl:replay:distance-failed:{}", ours.id)]).unwrap();
    let rest = ours.admin.post(PATH, &json!({ "limit": 500 })).await.json();
    assert_eq!(rest, json!({ "success": true, "replayed": 2, "limit": 500 }));
    assert_eq!((waits("distance-failed"), number(&app, &["ZCARD", "bull:distance-engine:failed"])), (1, 1));
    assert_eq!(waits("distance-engine"), 5);

    let log = ours.admin.get("/admin/audit-log?event=DLQ_REPLAY_EXECUTED").await.json();
    assert_eq!(log["count"], 2);
    assert_eq!(log["data"][0]["payload"], json!({ "replayed": 2, "limit": 500 }));
    assert_eq!(
        (&log["data"][0]["resource_type"], &log["data"][0]["resource_id"]),
        (&json!("queue"), &json!("distance-failed"))
    );
}

#[tokio::test]
async fn a_replay_that_cannot_be_done_is_refused_and_changes_nothing() {
    const PATH: &str = "/admin/queues/replay-distance-dlq";
    let app = TestApp::start_with(&[("MAX_QUEUE_DEPTH", "1")]).await;
    let organization = app.organization().await;
    let admin = &organization.admin;
    letter(&app, "11", &json!({ "sessionId": Uuid::now_v7(), "organizationId": organization.id })).await;
    app.redis.call(&["LPUSH", "bull:distance-engine:wait", "x"]).unwrap();
    for _ in 0..2 {
        // Twice: what was not done need not cool down.
        let refused = admin.post(PATH, &json!({})).await.refused(
            503,
            "QUEUE_OVERLOADED",
            "Queue overload: distance-engine depth 1 exceeds MAX_QUEUE_DEPTH=1",
        );
        let details = json!({ "queue": "distance-engine", "queueDepth": 1, "maxQueueDepth": 1 });
        assert_eq!(refused["details"], details);
    }
    assert_eq!(number(&app, &["LLEN", "bull:distance-failed:wait"]), 1);
    for (body, error) in [
        (json!({ "limit": 501 }), "body/limit Too big: expected number to be <=500"),
        (json!({ "limit": 0 }), "body/limit Too small: expected number to be >=1"),
        (json!({ "limit": 1.5 }), "body/limit Invalid input: expected int, received number"),
        (json!({ "limit": "5" }), "body/limit Invalid input: expected number, received string"),
        (json!([]), "body/ Invalid input: expected object, received array"),
    ] {
        admin.post(PATH, &body).await.refused(400, "VALIDATION_ERROR", error);
    }
    let (reader, _) = admin.api_key(&["read:sessions"]).await;
    app.with_key(&reader, Method::POST, PATH, &json!({})).await.refused(403, "FORBIDDEN", PEOPLE_SCOPE);
}

#[tokio::test]
async fn a_check_out_whose_job_cannot_be_queued_leaves_an_intent() {
    let mut app = TestApp::start().await;
    let (ours, theirs) = (app.organization().await, app.organization().await);
    let (asha, ben, carla) = (ours.employee("Asha").await, ours.employee("Ben").await, ours.employee("Carla").await);
    let sessions = [asha.check_in().await, ben.check_in().await, carla.check_in().await];
    let (admin, stranger) = (ours.admin.token.clone(), theirs.admin.token.clone());
    let (organization, tokens) = (ours.id, [asha.token.clone()]);
    let (forced, dismissed) = (ben.employee_id(), carla.employee_id());
    drop((ours, theirs, asha, ben, carla));
    app.redis.kill();
    let post = |token: &str, path: &str| app.request(Method::POST, path).bearer_auth(token);
    app.send(post(&tokens[0], "/attendance/check-out").json(&json!({}))).await.data(200);
    app.send(post(&admin, "/admin/force-checkout").json(&json!({ "employee_id": forced }))).await.data(200);
    let status = app.request(Method::PATCH, &format!("/admin/employees/{dismissed}/status")).bearer_auth(&admin);
    app.send(status.json(&json!({ "is_active": false }))).await.data(200);

    let list = async |token: &str, query: &str| {
        app.send(app.request(Method::GET, &format!("/admin/retry-intents{query}")).bearer_auth(token)).await
    };
    let page = eventually("three intents are written down", async || {
        let page = list(&admin, "").await.json();
        (page["pagination"]["total"] == 3).then_some(page)
    })
    .await;
    assert_eq!(page["pagination"], json!({ "page": 1, "limit": 50, "total": 3, "totalPages": 1 }));
    let keys: Vec<&str> =
        page["data"].as_array().unwrap().iter().map(|intent| intent["job_key"].as_str().unwrap()).collect();
    assert!(sessions.iter().all(|session| keys.contains(&session.as_str())), "{page}");
    for intent in page["data"].as_array().unwrap() {
        assert_eq!((&intent["queue_name"], &intent["status"]), (&json!("distance-engine"), &json!("pending")));
        assert_eq!((&intent["retry_count"], &intent["payload"]["organizationId"]), (&json!(0), &json!(organization)));
        assert_eq!(intent["payload"]["sessionId"], intent["job_key"]);
        assert!(intent["error_message"].as_str().unwrap().starts_with("Redis is unavailable"), "{intent}");
        assert!(intent["next_retry_at"].as_str().unwrap() > intent["created_at"].as_str().unwrap());
    }
    let metrics = app.get("/metrics").await.text;
    assert!(metrics.contains("retry_intents_created_total 3"), "{metrics}");
    assert_eq!(list(&stranger, "?status=all").await.json()["data"], json!([]));

    let superuser = app.database.superuser().await;
    superuser
        .execute("UPDATE queue_retry_intents SET status = 'dead' WHERE job_key = $1", &[&sessions[0]])
        .await
        .unwrap();
    superuser
        .execute("UPDATE queue_retry_intents SET status = 'resolved' WHERE job_key = $1", &[&sessions[1]])
        .await
        .unwrap();
    for (query, total) in
        [("", 1), ("?status=pending", 1), ("?status=dead", 1), ("?status=failed", 0), ("?status=all", 3)]
    {
        assert_eq!(list(&admin, query).await.json()["pagination"]["total"], total, "{query}");
    }
    let second = list(&admin, "?status=all&page=2&limit=10").await.json();
    assert_eq!((&second["data"], &second["pagination"]["totalPages"]), (&json!([]), &json!(1)));
    for (query, error) in [
        ("?limit=9", "querystring/limit Too small: expected number to be >=10"),
        ("?limit=201", "querystring/limit Too big: expected number to be <=200"),
        ("?page=x", "querystring/page Invalid input: expected number, received NaN"),
        ("?status=resolved", r#"querystring/status Invalid option: expected one of "pending"|"failed"|"dead"|"all""#),
    ] {
        list(&admin, query).await.refused(400, "VALIDATION_ERROR", error);
    }
}

#[tokio::test]
async fn system_health_tells_of_everybodys_queues_and_ones_own_webhooks() {
    let app = TestApp::start().await;
    let (ours, theirs) = (app.organization().await, app.organization().await);
    let health = ours.admin.get("/admin/system-health").await.json();
    assert_eq!(health["success"], true);
    assert!(health["timestamp"].as_str().unwrap().ends_with('Z'));
    let webhooks = json!({ "successRatePct": 100, "failureCount": 0, "retryCount": 0, "totalDeliveries": 0 });
    assert_eq!(health["webhooks"], webhooks);
    assert_eq!(health["workers"], json!({ "active": 0, "expected": 4, "healthy": false }));

    let superuser = app.database.superuser().await;
    for (organization, statuses) in [(ours.id, "success success failed pending"), (theirs.id, "failed failed")] {
        superuser
            .batch_execute(&format!(
                "INSERT INTO webhooks (organization_id, id, url, sealed_secret, events, created_at, updated_at)
                     VALUES ('{organization}', gen_random_uuid(), 'https://x.example', '', '{{session.checkin}}', now(), now());
                 INSERT INTO webhook_deliveries (organization_id, id, webhook_id, event_id, event_type, status,
                                                 attempt_count, dead_at, created_at)
                     SELECT '{organization}', gen_random_uuid(), webhooks.id, gen_random_uuid(), 'session.checkin', status,
                            CASE WHEN status = 'success' THEN 1 ELSE 2 END, CASE WHEN status = 'failed' THEN now() END, now()
                     FROM webhooks, unnest(string_to_array('{statuses}', ' ')) status
                     WHERE organization_id = '{organization}'"
            ))
            .await
            .unwrap();
    }
    app.redis.call(&["LPUSH", "bull:webhook-delivery:wait", "1"]).unwrap();
    app.redis.call(&["ZADD", "bull:webhook-delivery:delayed", "1", "2"]).unwrap();
    app.redis.call(&["LPUSH", "bull:analytics:active", "1"]).unwrap();
    app.redis.call(&["ZADD", "bull:distance-engine:prioritized", "1", "2"]).unwrap();
    let health = ours.admin.get("/admin/system-health").await.json();
    let webhooks = json!({ "successRatePct": 67, "failureCount": 1, "retryCount": 2, "totalDeliveries": 4 });
    assert_eq!(health["webhooks"], webhooks);
    let queues = json!({
        "webhook": { "backlog": 2, "dlq": 3 }, "analytics": { "backlog": 1 }, "distance": { "backlog": 1 },
    });
    assert_eq!(health["queues"], queues);
    assert_eq!(theirs.admin.get("/admin/system-health").await.json()["webhooks"]["successRatePct"], 0);
}

#[tokio::test]
async fn process_counters_are_told_without_an_envelope() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let none = organization.admin.get("/internal/metrics").await.json();
    assert_eq!((&none["totalRecalculations"], &none["avgRecalculationMs"]), (&json!(0), &json!(0)));
    let session = asha.check_in().await;
    for second in 1..=3 {
        asha.post("/locations", &location(&app, &session, second)).await.data(201);
    }
    asha.check_out().await;
    asha.post(&format!("/attendance/{session}/recalculate"), &json!({})).await.data(200);
    eventually("the job of the check-out waits", async || {
        let counters = organization.admin.get("/internal/metrics").await.json();
        assert_eq!(counters.as_object().unwrap().len(), 5, "{counters}");
        assert_eq!((&counters["totalRecalculations"], &counters["totalLocationsInserted"]), (&json!(1), &json!(3)));
        assert!(counters["uptimeSeconds"].as_u64().unwrap() < 600);
        (counters["queueDepth"] == 1).then_some(())
    })
    .await;
    // What workers did counts, too, and its times with ours.
    app.redis.call(&["HSET", "bull:distance-engine:metrics:completed", "count", "4"]).unwrap();
    for (id, took) in [("7", 1000), ("8", 3000)] {
        let ended = 1_900_000_000_000_u64;
        app.redis.call(&["ZADD", "bull:distance-engine:completed", &ended.to_string(), id]).unwrap();
        let begun = (ended - took).to_string();
        app.redis.call(&["HSET", &format!("bull:distance-engine:{id}"), "processedOn", &begun]).unwrap();
    }
    let counters = organization.admin.get("/internal/metrics").await.json();
    assert_eq!(counters["totalRecalculations"], 5);
    let average = counters["avgRecalculationMs"].as_u64().unwrap();
    assert!((4000 / 3..4000 / 3 + 200).contains(&average), "{average}");
}

#[tokio::test]
async fn callers_are_shown_their_own_claims_but_not_in_production() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let shown = asha.get("/auth/debug").await.json();
    assert_eq!((&shown["role"], &shown["org_id"]), (&json!("EMPLOYEE"), &json!(organization.id)));
    assert_eq!((&shown["source"], &shown["hook_ok"]), (&json!("top-level"), &json!(true)));
    assert_eq!(shown["claims"]["employee_id"], json!({ "present": true, "value": asha.employee_id() }));
    assert_eq!((&shown["raw"]["sub"], &shown["raw"]["aud"]), (&shown["sub"], &json!("authenticated")));
    assert_eq!(shown["email"], json!(asha.email));
    let shown = organization.admin.get("/auth/debug").await.json();
    assert_eq!(shown["claims"]["employee_id"], json!({ "present": false }));
    let (key, id) = organization.admin.api_key(&["admin:all"]).await;
    let shown = app.with_key(&key, Method::GET, "/auth/debug", &Value::Null).await.json();
    assert_eq!((&shown["sub"], &shown["raw"]), (&json!(format!("api_key:{id}")), &json!({})));
    assert_eq!((&shown["source"], &shown["hook_ok"]), (&json!("missing"), &json!(false)));
    assert_eq!(shown["claims"]["role"], json!({ "present": false }));
    assert_eq!(app.get("/debug/redis").await.json(), json!({ "status": "ok", "redis": "PONG" }));

    let app = TestApp::start_with(PRODUCTION).await;
    let admin = app.organization().await.admin;
    for path in ["/auth/debug", "/debug/redis"] {
        let answer = admin.get(path).await;
        let body = answer.json();
        assert_eq!((answer.status.as_u16(), &body["code"]), (404, &json!("NOT_FOUND")));
        assert_eq!(
            (&body["message"], &body["error"]),
            (&json!(format!("Route GET:{path} not found")), &json!("Not Found"))
        );
        assert_eq!(app.send(admin.request(Method::HEAD, path)).await.status, 404);
    }
}

#[tokio::test]
async fn every_queue_and_everything_that_waits_has_its_gauge() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    for queue in ["distance-engine", "analytics", "snapshot-engine", "webhook-delivery"] {
        app.redis.call(&["LPUSH", &format!("bull:{queue}:wait"), "1"]).unwrap();
        app.redis.call(&["LPUSH", &format!("bull:{queue}:active"), "2"]).unwrap();
    }
    for queue in ["distance-failed", "analytics-failed", "snapshot-failed"] {
        app.redis.call(&["LPUSH", &format!("bull:{queue}:wait"), "1"]).unwrap();
    }
    let superuser = app.database.superuser().await;
    superuser
        .batch_execute(&format!(
            "INSERT INTO webhooks (organization_id, id, url, sealed_secret, events, circuit_open_until, created_at, updated_at)
                 VALUES ('{id}', gen_random_uuid(), 'https://x.example', '', '{{session.checkin}}', now(), now(), now());
             INSERT INTO webhook_deliveries (organization_id, id, webhook_id, event_id, event_type, status, dead_at, created_at)
                 SELECT '{id}', gen_random_uuid(), id, gen_random_uuid(), 'x', 'failed', now(), now() FROM webhooks;
             INSERT INTO queue_retry_intents (organization_id, id, queue_name, job_key, payload, status, next_retry_at,
                                              created_at, updated_at)
                 SELECT '{id}', gen_random_uuid(), 'analytics', status, '{{}}', status, now(), now(), now()
                 FROM unnest(ARRAY['pending', 'dead', 'resolved']) status;
             INSERT INTO org_dashboard_snapshot (organization_id, updated_at) VALUES ('{id}', now() - interval '700 s')",
            id = organization.id
        ))
        .await
        .unwrap();
    let mut wanted: Vec<String> = [
        "analytics_queue_depth 1",
        r#"dlq_size{queue="distance-engine"} 1"#,
        r#"dlq_size{queue="analytics"} 1"#,
        r#"dlq_size{queue="snapshot-engine"} 1"#,
        r#"dlq_size{queue="webhook-delivery-dlq"} 1"#,
        "retry_intents_pending 1",
        "retry_intents_dead 1",
        "circuit_open 1",
        "redis_up 1",
        r#"snapshot_age_seconds{table="org_dashboard_snapshot"} 7"#,
        "db_pool_wait_seconds_bucket",
    ]
    .map(str::to_owned)
    .into();
    for queue in ["distance-engine", "analytics", "snapshot-engine", "webhook-delivery"] {
        wanted.push(format!(r#"queue_depth{{queue="{queue}"}} 1"#));
        wanted.push(format!(r#"queue_pending{{queue="{queue}"}} 1"#));
        wanted.push(format!(r#"queue_oldest_age_seconds{{queue="{queue}"}} 0"#));
    }
    let mut last = String::new();
    let all = eventually("everything is sampled", async || {
        last = app.get("/metrics").await.text;
        wanted.iter().all(|line| last.contains(line)).then_some(())
    });
    all.await;
}
