//! With several workers exactly one runs a turn.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use distance_worker::schedule::{Schedule, Task};
use domain::ManualClock;
use testkit::database::TestDatabase;

use crate::support::{NO_REDIS, TestWorker, eventually, schedule};

#[tokio::test]
async fn of_many_workers_exactly_one_takes_each_turn() {
    let database = TestDatabase::create().await;
    let clock = Arc::new(ManualClock::at(DateTime::from_timestamp(1_790_000_000, 0).unwrap()));
    let workers: Vec<Schedule> = (0..4).map(|_| schedule(&database, NO_REDIS, &clock)).collect();
    let mut turns: HashMap<Task, usize> = HashMap::new();
    // Two minutes, second by second; all four look at the same moment.
    for _ in 0..120 {
        let looks = workers.iter().map(|worker| {
            let worker = worker.clone();
            tokio::spawn(async move { worker.take_turns().await.unwrap() })
        });
        for look in looks.collect::<Vec<_>>() {
            for task in look.await.unwrap() {
                *turns.entry(task).or_default() += 1;
            }
        }
        clock.advance(TimeDelta::seconds(1));
    }
    assert_eq!(turns[&Task::Sweep], 24, "every 5 s");
    assert_eq!(turns[&Task::DeadLetters], 24, "every 5 s");
    assert_eq!(turns[&Task::Reconcile], 1, "every 5 min");
    assert_eq!(turns[&Task::Partitions], 1, "every 6 h");
    assert_eq!(turns[&Task::Retention], 1, "every hour");
    assert_eq!(turns[&Task::Intents], 4, "every 30 s");
    assert_eq!(turns[&Task::OldIntents], 1, "every 15 min");
    assert_eq!(turns[&Task::SignIn], 24, "every 5 s");

    // The one that took a turn may die in it: the next turn is anybody's.
    clock.advance(TimeDelta::hours(6));
    assert!(workers[3].take_turns().await.unwrap().contains(&Task::Partitions));
    assert!(workers[0].take_turns().await.unwrap().is_empty());

    // A clock that was a year ahead does not stop the schedule for a year.
    clock.advance(TimeDelta::days(-365));
    assert!(workers[1].take_turns().await.unwrap().contains(&Task::Partitions));
}

#[tokio::test]
async fn a_turn_that_failed_is_tried_again_soon() {
    let database = TestDatabase::create().await;
    let clock = Arc::new(ManualClock::at(DateTime::from_timestamp(1_790_000_000, 0).unwrap()));
    let worker = schedule(&database, NO_REDIS, &clock);
    assert!(worker.take_turns().await.unwrap().contains(&Task::Partitions));
    let owner = database.superuser().await;
    owner
        .batch_execute("REVOKE EXECUTE ON FUNCTION app.ensure_partitions(date, integer) FROM fieldtrack_system")
        .await
        .unwrap();
    worker.turn(Task::Partitions).await;
    owner
        .batch_execute("GRANT EXECUTE ON FUNCTION app.ensure_partitions(date, integer) TO fieldtrack_system")
        .await
        .unwrap();
    assert!(!worker.take_turns().await.unwrap().contains(&Task::Partitions), "not at once");
    clock.advance(TimeDelta::seconds(30));
    assert!(worker.take_turns().await.unwrap().contains(&Task::Partitions), "and not in six hours");
    worker.turn(Task::Partitions).await;
    clock.advance(TimeDelta::minutes(5));
    assert!(!worker.take_turns().await.unwrap().contains(&Task::Partitions), "it is done");
}

/// The whole of it, as a worker that runs does it: every organization is looked at, whoever it is, and everything wrong
/// about it is set right, again and again.
#[tokio::test]
async fn reconciliation_gets_to_every_organization_at_every_turn() {
    // More than are asked for in one go.
    const ORGANIZATIONS: i64 = 230;
    let worker = TestWorker::start(&[]).await;
    let client = worker.database.superuser().await;
    let turn = async || -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        let sql = "SELECT taken_at, due_at FROM schedule_turns WHERE task = 'reconcile'";
        client.query_opt(sql, &[]).await.unwrap().map(|row| (row.get(0), row.get(1)))
    };
    eventually("a worker that starts takes the turn", async || turn().await.is_some()).await;
    // Sessions and claims of today that nobody counted, one of each in each organization.
    let fill = format!(
        "INSERT INTO organizations (id, name, slug)
             SELECT gen_random_uuid(), 'Field Services', 'o' || n FROM generate_series(1, {ORGANIZATIONS}) AS n;
         INSERT INTO employees (organization_id, id, name, employee_code, last_activity_at)
             SELECT id, id, 'Asha', 'EMP0001', now() FROM organizations;
         INSERT INTO attendance_sessions (organization_id, id, employee_id, checkin_at, checkout_at,
                                          distance_recalculation_status, total_distance_km, total_duration_seconds)
             SELECT id, id, id, now(), now(), 'done', 2.5, 60 FROM organizations;
         INSERT INTO expenses (organization_id, id, employee_id, amount, description, submitted_at)
             SELECT id, id, id, 12.5, 'Fuel', now() FROM organizations"
    );
    client.batch_execute(&fill).await.unwrap();
    // Every figure of an organization in one line, when it is as it should be.
    let right = async || -> i64 {
        let sql = "SELECT count(*) FROM organizations o
             JOIN employee_daily_metrics d ON (d.sessions, d.distance_km, d.duration_seconds, d.expenses_count,
                     d.expenses_amount) = (1, 2.5, 60, 1, 12.5) AND d.organization_id = o.id
             JOIN org_daily_metrics w ON (w.total_sessions, w.total_distance_km, w.active_employees) = (1, 2.5, 1)
                 AND w.organization_id = o.id AND w.date = d.date
             JOIN employee_last_state s ON s.organization_id = o.id AND s.last_session_id = o.id AND NOT s.is_checked_in
             JOIN employee_metrics_snapshot m ON (m.total_sessions, m.total_distance) = (1, 2.5) AND m.organization_id = o.id
             JOIN org_dashboard_snapshot b ON (b.recent_employee_count, b.pending_expense_count, b.pending_expense_amount)
                     = (1, 1, 12.5) AND b.organization_id = o.id";
        client.query_one(sql, &[]).await.unwrap().get(0)
    };
    for meddle in [
        // The first time nothing is there yet.
        "SELECT",
        "UPDATE employee_daily_metrics SET sessions = 7, expenses_amount = 0; DELETE FROM org_daily_metrics;
         UPDATE employee_last_state SET is_checked_in = true; UPDATE employee_metrics_snapshot SET total_distance = 0;
         UPDATE org_dashboard_snapshot SET pending_expense_count = 9",
    ] {
        client.batch_execute(meddle).await.unwrap();
        assert_eq!(right().await, 0, "{meddle}");
        let begun = Utc::now();
        client.batch_execute("UPDATE schedule_turns SET due_at = now() WHERE task = 'reconcile'").await.unwrap();
        eventually(meddle, async || right().await == ORGANIZATIONS).await;
        let (taken, due) = turn().await.unwrap();
        assert!(taken >= begun && due - taken == TimeDelta::minutes(5), "{begun} {taken} {due}");
    }
    // Each organization was asked for once a turn.
    let done = || worker.redis.call(&["ZCARD", "bull:snapshot-engine:completed"]).unwrap().to_string();
    eventually("the jobs end", async || done() == (ORGANIZATIONS * 2).to_string()).await;
    worker.stop().await;
}
