//! `cargo xtask chaos --jobs N`: that many sessions wait for their kilometres while workers are killed and Redis dies,
//! with its data and without; in the end each has the kilometres of its points, and nothing is left in the queue.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use testkit::track::SplitMix;

use super::Options;
use crate::{
    failure::{Context, Failure, Outcome},
    services::Running,
    stack::Stack,
};

/// Points of a session.
const POINTS: u32 = 6;

/// Workers at once, half of them of the other release when there is one.
const WORKERS: usize = 4;

/// What can go wrong, workers more often than Redis.
const TROUBLES: [&str; 5] = ["worker killed", "worker killed", "worker killed", "Redis killed", "Redis lost"];

/// How long it may take until everything is right, beside what the work itself takes.
const HEALING: Duration = Duration::from_secs(300);

/// What a session may take, troubles included: there is one about every other second.
const A_SESSION: Duration = Duration::from_millis(20);

/// Makes closed sessions with points around the people of the stack's organizations, marked as never measured.
fn make_sessions(stack: &Stack, sessions: usize) -> Outcome {
    let script = format!(
        "INSERT INTO attendance_sessions (organization_id, id, employee_id, checkin_at, checkout_at, dirty_from, dirty_since)
         SELECT organization_id, gen_random_uuid(), id, at, at + interval '1 hour', at, now() - interval '1 minute'
         FROM (SELECT *, date_trunc('second', now()) - interval '2 hours' - number * interval '2 seconds' AS at
               FROM generate_series(1, {sessions}) AS number
               JOIN (SELECT organization_id, id, row_number() OVER () - 1 AS place, count(*) OVER () AS people
                     FROM employees) AS person ON place = number % people) AS work;
         INSERT INTO gps_locations (organization_id, session_id, recorded_at, id, employee_id, latitude, longitude)
         SELECT organization_id, id, checkin_at + step * interval '1 minute', gen_random_uuid(), employee_id,
                45 + random() / 10, 13 + random() / 10
         FROM attendance_sessions, generate_series(1, {POINTS}) AS step WHERE checkout_at IS NOT NULL;
         ANALYZE attendance_sessions; ANALYZE gps_locations;"
    );
    stack.cluster.sql("fieldtrack", &script).map(|_| ())
}

/// Sessions by how they stand: not measured, and measured to something else than PostgreSQL's own sum over their points
/// (haversine, mean Earth radius 6 371 km, metres to hundredths, then kilometres to hundredths).
fn standing(stack: &Stack) -> Outcome<(u64, u64)> {
    let rows = stack.cluster.sql(
        "fieldtrack",
        "WITH steps AS (
             SELECT session_id, radians(latitude) AS latitude, radians(longitude) AS longitude,
                    radians(lag(latitude) OVER route) AS before, radians(lag(longitude) OVER route) AS before_longitude
             FROM gps_locations WINDOW route AS (PARTITION BY session_id ORDER BY recorded_at)
         ), sums AS (
             SELECT session_id, sum(2 * 6371000 * asin(sqrt(least(1, power(sin((latitude - before) / 2), 2)
                 + cos(latitude) * cos(before) * power(sin((longitude - before_longitude) / 2), 2))))) AS metres
             FROM steps WHERE before IS NOT NULL GROUP BY session_id
         )
         SELECT count(*) FILTER (WHERE distance_recalculation_status <> 'done' OR dirty_from IS NOT NULL),
                count(*) FILTER (WHERE distance_recalculation_status = 'done'
                    AND total_distance_km IS DISTINCT FROM floor(floor(coalesce(metres, 0) * 100 + 0.5) / 1000 + 0.5) / 100)
         FROM attendance_sessions LEFT JOIN sums ON session_id = id WHERE checkout_at IS NOT NULL",
    )?;
    let (open, wrong) = rows.trim().split_once('|').ok_or_else(|| Failure::new(format!("a strange row: {rows}")))?;
    Ok((open.parse().context("no number")?, wrong.parse().context("no number")?))
}

fn unmeasured(stack: &Stack) -> Outcome<u64> {
    let query = "SELECT count(*) FROM attendance_sessions WHERE dirty_from IS NOT NULL";
    stack.cluster.sql("fieldtrack", query)?.trim().parse().context("no number")
}

/// Jobs waiting, delayed or running, and leases held.
fn left_in_queue(stack: &Stack) -> u64 {
    let key = |name: &str| format!("bull:distance-engine:{name}");
    let number = |words: &[&str]| {
        let answer = stack.redis.ask(words);
        answer.lines().next().and_then(|line| line.trim().parse::<u64>().ok()).unwrap_or(u64::MAX)
    };
    ["wait", "active"]
        .iter()
        .map(|list| number(&["LLEN", &key(list)]))
        .chain(["prioritized", "delayed"].iter().map(|set| number(&["ZCARD", &key(set)])))
        .chain([number(&["XPENDING", &key("x:stream"), "workers"])])
        .fold(0, u64::saturating_add)
}

fn hire(stack: &Stack, place: usize, other: Option<&PathBuf>) -> Outcome<Running> {
    match other {
        Some(program) if place % 2 == 1 => stack.worker_of(program),
        _ => stack.worker(),
    }
}

/// Brings the trouble; answers whether all was well in the end.
pub async fn trouble(stack: &mut Stack, sessions: usize, options: &Options) -> Outcome<bool> {
    let mut gateway = stack.gateway(&[]).await?;
    stack.people(4, options.people).await?;
    let mut interrupt = stack.interrupt.clone();
    // Its only part was to make the people.
    gateway.stop(&mut interrupt).await;
    say!("making {sessions} sessions");
    tokio::task::block_in_place(|| make_sessions(stack, sessions))?;

    let other = options.other_worker.as_ref();
    let mut workers = (0..WORKERS).map(|place| hire(stack, place, other)).collect::<Outcome<Vec<_>>>()?;
    let mut random = SplitMix(options.seed);
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    let begun = Instant::now();
    let most = u32::try_from(sessions).map_or(Duration::MAX, |sessions| HEALING + A_SESSION * sessions);
    loop {
        tokio::time::sleep(Duration::from_millis(500 + random.next_u64() % 2000)).await;
        let left = tokio::task::block_in_place(|| unmeasured(stack))?;
        if left == 0 || begun.elapsed() > most {
            break;
        }
        let what = TROUBLES[(random.next_u64() % TROUBLES.len() as u64) as usize];
        say!("{:>6.1} s  {left:>6} left  {what}", begun.elapsed().as_secs_f64());
        *counts.entry(what).or_default() += 1;
        if what == "worker killed" {
            let which = (random.next_u64() % WORKERS as u64) as usize;
            workers[which].kill().await?;
            workers[which] = hire(stack, which, other)?;
        } else {
            tokio::task::block_in_place(|| stack.redis.kill(what == "Redis lost"))?;
            tokio::time::sleep(Duration::from_millis(random.next_u64() % 1500)).await;
            tokio::task::block_in_place(|| stack.redis.start())?;
        }
    }
    let took = begun.elapsed().as_secs_f64();
    // Leases of the dead end after half a minute; their jobs run once more and change nothing.
    let healing = Instant::now();
    while tokio::task::block_in_place(|| left_in_queue(stack)) > 0 && healing.elapsed() < HEALING {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let left = tokio::task::block_in_place(|| left_in_queue(stack));
    let (open, wrong) = tokio::task::block_in_place(|| standing(stack))?;
    for mut worker in workers {
        worker.stop(&mut interrupt).await;
    }
    let troubles: Vec<_> = counts.iter().map(|(what, times)| format!("{times} × {what}")).collect();
    say!("\ntroubles: {}", troubles.join(", "));
    say!(
        "sessions {sessions}, measured in {took:.1} s; not measured {open}, with other kilometres than their points {wrong}"
    );
    say!("left in the queue {left}, {:.1} s after the last measurement", healing.elapsed().as_secs_f64());
    Ok(open == 0 && wrong == 0 && left == 0)
}
