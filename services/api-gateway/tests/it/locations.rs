//! Positions: what is stored, what is refused, what is answered.

use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::support::{TestApp, location, point};

const CLOSED: &str = "Cannot record location: invalid or closed attendance session.";

#[tokio::test]
async fn a_fix_is_answered_with_the_row_that_is_stored() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let session = asha.check_in().await;
    let mut fix = location(&app, &session, 1);
    fix["sequence_number"] = json!(9_007_199_254_740_991_i64);
    fix["accuracy"] = json!(12.5);
    let stored = asha.post("/locations", &fix).await.data(201);
    assert_eq!(stored["organization_id"], json!(organization.id));
    assert_eq!(stored["sequence_number"], fix["sequence_number"]);
    assert_eq!((&stored["accuracy"], &stored["is_duplicate"]), (&json!(12.5), &json!(false)));
    assert_eq!(stored.as_object().unwrap().len(), 10);
    let route = asha.get(&format!("/locations/my-route?session_id={session}")).await.data(200);
    assert_eq!(route, json!([stored]));
}

#[tokio::test]
async fn a_fix_sent_again_is_answered_with_the_first_one() {
    let app = TestApp::start().await;
    let asha = app.organization().await.employee("Asha").await;
    let session = asha.check_in().await;
    let first = asha.post("/locations", &location(&app, &session, 1)).await.data(201);
    let mut again = location(&app, &session, 1);
    again["latitude"] = json!(-45);
    assert_eq!(asha.post("/locations", &again).await.data(201), first);
    let batch = json!({ "session_id": session, "points": [point(&app, 1), point(&app, 2), point(&app, 2)] });
    assert_eq!(asha.post("/locations/batch", &batch).await.json()["inserted"], 1);
    let route = asha.get(&format!("/locations/my-route?sessionId={session}")).await.data(200);
    assert_eq!(route.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_route_is_in_the_order_of_time_whatever_the_order_of_arrival() {
    let app = TestApp::start().await;
    let asha = app.organization().await.employee("Asha").await;
    let session = asha.check_in().await;
    for seconds in [[5, 3], [1, 4]] {
        let points: Vec<Value> = seconds.into_iter().map(|second| point(&app, second)).collect();
        let batch = json!({ "session_id": session, "points": points });
        assert_eq!(asha.post("/locations/batch", &batch).await.status, 201);
    }
    asha.post("/locations", &location(&app, &session, 2)).await.data(201);
    let route = asha.get(&format!("/locations/my-route?sessionId={session}")).await.data(200);
    let times: Vec<&str> = route.as_array().unwrap().iter().map(|fix| fix["recorded_at"].as_str().unwrap()).collect();
    assert_eq!(times.len(), 5);
    assert!(times.is_sorted());
}

#[tokio::test]
async fn only_the_open_session_of_the_caller_takes_fixes() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let (asha, ben) = (organization.employee("Asha").await, organization.employee("Ben").await);
    let stranger = app.organization().await.employee("Stranger").await;
    let session = asha.check_in().await;
    let batch = json!({ "session_id": session, "points": [point(&app, 1)] });
    for other in [&ben, &stranger] {
        other.post("/locations", &location(&app, &session, 1)).await.refused(400, "VALIDATION_ERROR", CLOSED);
        let error = "Cannot record locations: invalid or closed attendance session.";
        other.post("/locations/batch", &batch).await.refused(400, "VALIDATION_ERROR", error);
        let route = other.get(&format!("/locations/my-route?sessionId={session}")).await.data(200);
        assert_eq!(route, json!([]));
    }
    asha.check_out().await;
    asha.post("/locations", &location(&app, &session, 1)).await.refused(400, "VALIDATION_ERROR", CLOSED);
    asha.post("/locations", &location(&app, "00000000-0000-0000-0000-000000000000", 1)).await.refused(
        400,
        "VALIDATION_ERROR",
        CLOSED,
    );
}

#[tokio::test]
async fn fixes_from_before_the_session_or_from_the_future_are_refused() {
    let app = TestApp::start().await;
    let asha = app.organization().await.employee("Asha").await;
    let session = asha.check_in().await;
    asha.post("/locations", &location(&app, &session, -1)).await.refused(
        400,
        "VALIDATION_ERROR",
        "Cannot record location: recorded_at is before the session start time.",
    );
    let batch = json!({ "session_id": session, "points": [point(&app, 1), point(&app, -1)] });
    asha.post("/locations/batch", &batch).await.refused(
        400,
        "VALIDATION_ERROR",
        "Cannot record locations: one or more points have recorded_at before the session start time.",
    );
    asha.post("/locations", &location(&app, &session, 120)).await.data(201);
    let future = "recorded_at cannot be more than 2 minutes in the future";
    asha.post("/locations", &location(&app, &session, 121)).await.refused(
        400,
        "VALIDATION_ERROR",
        &format!("body/recorded_at {future}"),
    );
    let batch = json!({ "session_id": session, "points": [point(&app, 1), point(&app, 121)] });
    asha.post("/locations/batch", &batch).await.refused(
        400,
        "VALIDATION_ERROR",
        &format!("body/points/1/recorded_at {future}"),
    );
    // Nothing of the refused batches was stored.
    let route = asha.get(&format!("/locations/my-route?sessionId={session}")).await.data(200);
    assert_eq!(route.as_array().unwrap().len(), 1);
    app.clock.advance(TimeDelta::seconds(1));
    asha.post("/locations", &location(&app, &session, 120)).await.data(201);
}

#[tokio::test]
async fn a_route_needs_a_session_and_takes_two_spellings() {
    let app = TestApp::start().await;
    let asha = app.organization().await.employee("Asha").await;
    let session = asha.check_in().await;
    let body = asha.get("/locations/my-route").await.refused(400, "VALIDATION_ERROR", "sessionId is required");
    assert_eq!(body["details"], json!({ "field": "sessionId" }));
    for spelling in ["sessionId", "session_id"] {
        asha.get(&format!("/locations/my-route?{spelling}=x")).await.refused(
            400,
            "VALIDATION_ERROR",
            &format!("querystring/{spelling} {spelling} must be a valid UUID"),
        );
        let upper = session.to_uppercase();
        assert_eq!(asha.get(&format!("/locations/my-route?{spelling}={upper}")).await.data(200), json!([]));
    }
}

#[tokio::test]
async fn many_phones_at_once_each_get_their_own_answer() {
    let app = TestApp::start_with(&[("RATE_LIMIT_MULTIPLIER", "100")]).await;
    let mut people = Vec::new();
    for organization in [app.organization().await, app.organization().await] {
        for name in ["Asha", "Ben", "Chitra"] {
            let person = organization.employee(name).await;
            let session = person.check_in().await;
            people.push((person, session));
        }
    }
    let requests = people.iter().flat_map(|(person, session)| {
        (1..=20).map(move |second| {
            let body = location(person.app, session, second);
            async move { (session, person.post("/locations", &body).await.data(201)) }
        })
    });
    for (session, stored) in futures_util::future::join_all(requests.collect::<Vec<_>>()).await {
        assert_eq!(stored["session_id"], json!(session));
    }
    for (person, session) in &people {
        let route = person.get(&format!("/locations/my-route?sessionId={session}")).await.data(200);
        assert_eq!(route.as_array().unwrap().len(), 20);
    }
}

/// Whatever comes first: what was acknowledged is there, what was refused is not, and nobody waits in a circle.
#[tokio::test]
async fn check_ins_check_outs_and_uploads_at_once_lose_nothing_and_block_nobody() {
    let app = TestApp::start_with(&[("RATE_LIMIT_MULTIPLIER", "1000")]).await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let (nothing, closed) = (json!({}), "Cannot record locations: invalid or closed attendance session.");
    let twice = "Cannot check in: you already have an active session. Check out first.";
    let (mut stored, mut began) = (0, 0);
    for round in 0..24 {
        app.clock.advance(TimeDelta::seconds(30));
        let session = asha.check_in().await;
        let upload = |first: i64| {
            let points: Vec<Value> = (first..first + 5).map(|second| point(&app, second)).collect();
            json!({ "session_id": session, "points": points })
        };
        let (early, late, single) = (upload(1), upload(11), location(&app, &session, 21));
        // In two rounds of three the session ends meanwhile.
        let ends =
            async { if round % 3 > 0 { Some(asha.post("/attendance/check-out", &nothing).await) } else { None } };
        let (early, late, single, again, ended) = tokio::join!(
            asha.post("/locations/batch", &early),
            asha.post("/locations/batch", &late),
            asha.post("/locations", &single),
            asha.post("/attendance/check-in", &nothing),
            ends,
        );
        let mut acknowledged = 0;
        for answer in [early, late] {
            match answer.status.as_u16() {
                201 => acknowledged += answer.json()["inserted"].as_i64().unwrap(),
                _ => drop(answer.refused(400, "VALIDATION_ERROR", closed)),
            }
        }
        match single.status.as_u16() {
            201 => acknowledged += 1,
            _ => drop(single.refused(400, "VALIDATION_ERROR", CLOSED)),
        }
        if let Some(ended) = &ended {
            assert_eq!(ended.data(200)["id"], json!(session), "round {round}");
        } else {
            assert_eq!(acknowledged, 11, "round {round}: a check-in that is refused is in nobody's way");
        }
        let route = asha.get(&format!("/locations/my-route?sessionId={session}")).await.data(200);
        assert_eq!(route.as_array().unwrap().len(), usize::try_from(acknowledged).unwrap(), "round {round}");
        match again.status.as_u16() {
            201 => {
                assert!(ended.is_some(), "round {round}: there was one already");
                began += 1;
                asha.check_out().await;
            }
            _ => drop(again.refused(400, "VALIDATION_ERROR", twice)),
        }
        if ended.is_none() {
            asha.check_out().await;
        }
        stored += acknowledged;
    }
    let client = app.database.superuser().await;
    let row = client
        .query_one(
            "SELECT (SELECT count(*) FROM gps_locations), count(*), count(*) FILTER (WHERE checkout_at IS NULL)
             FROM attendance_sessions",
            &[],
        )
        .await
        .unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2)), (stored, 24 + began, 0));
}
