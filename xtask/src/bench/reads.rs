//! `cargo xtask bench reads`: what administrators and employees look at, in an organization with years of history.

use std::fmt::Write as _;
use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{
    bench::write,
    failure::{Context, Failure, Outcome},
    stack::{Stack, machine},
    state::random_hex,
};

/// Options of `bench reads`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Employees of the organization
    #[arg(long, default_value_t = 1000)]
    employees: u32,
    /// Days each of them worked
    #[arg(long, default_value_t = 300)]
    days: u32,
    /// Millions of fixes, less and more
    #[arg(long, num_args = 2, default_values_t = [1, 20])]
    millions: Vec<u32>,
    /// Requests a read is measured by
    #[arg(long, default_value_t = 400)]
    requests: usize,
    /// Write table and plans to docs/benchmarks.md
    #[arg(long)]
    write: bool,
}

/// Aims: the slowest of a hundred, and how much slower twenty times the fixes may make the middle one.
const P99_MS: f64 = 50.0;
const RATIO: f64 = 1.5;

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Admin,
    Employee,
}

/// What is read. Those with an aim are the ones that are looked at all day.
const READS: [(&str, Who, &str); 17] = [
    ("dashboard", Who::Admin, "/admin/dashboard"),
    ("organization summary", Who::Admin, "/admin/org-summary"),
    ("leaderboard", Who::Admin, "/admin/leaderboard"),
    ("leaderboard by expenses", Who::Employee, "/leaderboard?metric=expenses&limit=50"),
    ("top performers", Who::Admin, "/admin/top-performers"),
    ("session trend", Who::Admin, "/admin/session-trend"),
    ("user summary", Who::Admin, "/admin/user-summary?userId={user}"),
    ("my week", Who::Employee, "/dashboard/my-summary"),
    ("latest sessions, first page", Who::Admin, "/admin/sessions"),
    ("latest sessions, page 10", Who::Admin, "/admin/sessions?page=10&limit=100"),
    ("recent sessions", Who::Admin, "/admin/sessions?status=recent"),
    ("sessions of an employee", Who::Admin, "/admin/sessions?employee_id={employee}&limit=100"),
    ("my sessions", Who::Employee, "/attendance/my-sessions"),
    ("employees, first page", Who::Admin, "/admin/employees?limit=100"),
    ("map", Who::Admin, "/admin/monitoring/map"),
    ("expense summary", Who::Admin, "/admin/expenses/summary"),
    ("expenses, first page", Who::Admin, "/admin/expenses"),
];

/// What was found of one read.
#[derive(Clone, Copy, Debug)]
struct Sample {
    p50_ms: f64,
    p99_ms: f64,
    bytes: usize,
}

/// Runs it.
pub async fn run(options: &Options) -> Outcome<ExitCode> {
    let settings = [("RATE_LIMIT_MULTIPLIER", "100000"), ("LOG_LEVEL", "warn")];
    let mut stack = Stack::start("reads", true, &settings).await?;
    let measured = measure_all(&mut stack, options).await;
    stack.end()?;
    let (text, met) = measured?;
    say!("\n{text}");
    if options.write {
        write("reads", &text)?;
    }
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn measure_all(stack: &mut Stack, options: &Options) -> Outcome<(String, bool)> {
    let mut interrupt = stack.interrupt.clone();
    let mut gateway = stack.gateway(&[]).await?;
    let admin = stack.organization(0).await?;
    let (email, password) = ("person@field.example", random_hex(10)?);
    admin.create_employee("Person 0", email, &password).await?;
    let employee = stack.api()?.sign_in(email, &password).await?;
    let tokens = [admin.token().to_owned(), employee.token().to_owned()];

    let begun = Instant::now();
    durable(stack, false)?;
    stack.cluster.sql("fieldtrack", &people(options))?;
    say!("people, sessions, claims and their figures: {:.0} s", begun.elapsed().as_secs_f64());
    let sizes: [u32; 2] = [options.millions[0], options.millions[1]];
    let ids = stack.cluster.sql(
        "fieldtrack",
        "SELECT employee_number || ' ' || user_id || ' ' || id FROM employees WHERE user_id IS NOT NULL LIMIT 1",
    )?;
    let ids: Vec<&str> = ids.split_whitespace().collect();
    let &[_, user, id] = &ids[..] else { return Err(Failure::new("there is no employee to ask for")) };

    let mut found: Vec<[Option<Sample>; 2]> = vec![[None; 2]; READS.len()];
    for (turn, millions) in sizes.into_iter().enumerate() {
        let begun = Instant::now();
        durable(stack, false)?;
        fixes(stack, if turn == 0 { 0 } else { sizes[0] }, millions, options)?;
        durable(stack, true)?;
        stack.cluster.sql("fieldtrack", "VACUUM ANALYZE; CHECKPOINT")?;
        let stored = stack.cluster.sql("fieldtrack", "SELECT count(*) FROM gps_locations")?;
        say!("{stored} fixes: {:.0} s", begun.elapsed().as_secs_f64());
        for (place, (name, who, path)) in READS.iter().enumerate() {
            let path = path.replace("{user}", user).replace("{employee}", id);
            let sample =
                ask(stack.port(), &tokens[usize::from(*who == Who::Employee)], &path, options.requests).await?;
            match sample {
                None => say!("  {name:<30} there is no such route"),
                Some(sample) => {
                    say!("  {name:<30} p50 {:>6.1} ms, p99 {:>6.1} ms", sample.p50_ms, sample.p99_ms);
                }
            }
            found[place][turn] = sample;
        }
    }
    gateway.stop(&mut interrupt).await;
    let plans = plans(stack, &tokens, user, id).await?;
    let machine = machine(Some(&stack.cluster), &stack.redis);
    Ok(report(&found, sizes, options, &machine, &plans))
}

/// Loading needs no durability: what is lost in a crash is generated again.
fn durable(stack: &Stack, on: bool) -> Outcome {
    let script = if on {
        "ALTER SYSTEM RESET ALL; SELECT pg_reload_conf(); CHECKPOINT;"
    } else {
        "ALTER SYSTEM SET fsync = off; ALTER SYSTEM SET synchronous_commit = off;
         ALTER SYSTEM SET full_page_writes = off; ALTER SYSTEM SET max_wal_size = '8GB';
         ALTER SYSTEM SET autovacuum = off; ALTER SYSTEM SET statement_timeout = 0; SELECT pg_reload_conf();"
    };
    stack.cluster.sql("postgres", script).map(|_| ())
}

/// A version 7 UUID of a moment: rows of one time stand together, as the product's own do.
const V7: &str = "CREATE FUNCTION pg_temp.v7(at timestamptz) RETURNS uuid LANGUAGE sql VOLATILE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(md5(random()::text), 1, 3)
        || '8' || substr(md5(random()::text), 1, 15))::uuid $$;";

/// Everybody worked every day for four to eight hours, and claims something every third day; a quarter is at work now.
fn people(options: &Options) -> String {
    let (employees, days) = (options.employees, options.days);
    format!(
        "{V7}
         SELECT setseed(0.5);
         SELECT app.ensure_partitions((now() - interval '{days} days')::date - 31, {months});
         CREATE TEMP TABLE our AS SELECT id AS organization FROM organizations;
         INSERT INTO employees (organization_id, id, name, employee_code, employee_number, last_activity_at)
         SELECT organization, pg_temp.v7(now() - interval '400 days' + n * interval '1 s'), 'Person ' || n,
                'EMP' || lpad(n::text, 4, '0'), n, now() - random() * interval '2 days'
         FROM our, generate_series(2, {employees}) AS n;
         INSERT INTO attendance_sessions (organization_id, id, employee_id, checkin_at, checkout_at,
             distance_recalculation_status, total_distance_km, total_duration_seconds, measured_to, measured_latitude,
             measured_longitude, measured_points, created_at, updated_at)
         SELECT organization_id, pg_temp.v7(at), id, at,
                CASE WHEN d = 0 AND employee_number % 4 = 0 THEN NULL ELSE least(at + took, now()) END, 'done',
                round((random() * 60)::numeric, 2), extract(epoch FROM took), least(at + took, now()),
                45 + random(), 13 + random(), 66, at, at + took
         FROM (SELECT organization_id, id, employee_number, d,
                      now() - d * interval '1 day' - interval '9 hours' + random() * interval '1 hour' AS at,
                      interval '4 hours' + random() * interval '4 hours' AS took
               FROM employees, generate_series({days} - 1, 0, -1) AS d) AS worked
         ORDER BY at;
         INSERT INTO expenses (organization_id, id, employee_id, amount, description, status, submitted_at, reviewed_at,
             rejection_comment)
         SELECT organization_id, pg_temp.v7(at), id, round((5 + random() * 200)::numeric, 2), 'Claim ' || n,
                status::expense_status, at, CASE status WHEN 'PENDING' THEN NULL ELSE at + interval '1 hour' END,
                CASE status WHEN 'REJECTED' THEN 'No receipt' END
         FROM (SELECT organization_id, id, n, now() - random() * interval '{days} days' - interval '2 hours' AS at,
                      CASE WHEN random() < 0.03 THEN 'PENDING' WHEN random() < 0.1 THEN 'REJECTED' ELSE 'APPROVED' END AS status
               FROM employees, generate_series(1, {days} / 3) AS n) AS claimed
         ORDER BY at;
         INSERT INTO employee_daily_metrics (organization_id, date, employee_id, sessions, distance_km, duration_seconds,
             expenses_count, expenses_amount, created_at, updated_at)
         SELECT organization, date, employee_id, sessions, distance_km, duration_seconds, expenses_count, expenses_amount,
                now(), now()
         FROM our, app.count_days(organization, NULL, (now() - interval '{days} days')::date - 2, now()::date + 1)
         ORDER BY date;
         SELECT count(app.set_org_day(organization, day::date, now())::text)
         FROM our, generate_series(now() - interval '{days} days' - interval '2 days', now(), interval '1 day') AS day;
         SELECT count(app.employee_counts(organization_id, id, now())) FROM employees;
         SELECT app.set_dashboard(organization, now()) FROM our;",
        months = days / 28 + 5,
    )
}

/// Spreads further fixes evenly over all sessions, a month at a time, on both cores.
fn fixes(stack: &Stack, from: u32, to: u32, options: &Options) -> Outcome {
    let sessions = f64::from(options.employees) * f64::from(options.days);
    let each = |millions: u32| (f64::from(millions) * 1e6 / sessions).round() as u32;
    let (first, last) = (each(from), each(to));
    let months = stack.cluster.sql(
        "fieldtrack",
        "SELECT DISTINCT to_char(checkin_at AT TIME ZONE 'UTC', 'YYYY-MM') FROM attendance_sessions ORDER BY 1",
    )?;
    let months: Vec<&str> = months.lines().collect();
    let load = |months: Vec<&str>| -> Outcome {
        for month in months {
            stack.cluster.sql(
                "fieldtrack",
                &format!(
                    "INSERT INTO gps_locations (organization_id, session_id, recorded_at, id, employee_id, latitude,
                         longitude, accuracy, sequence_number)
                     SELECT organization_id, s.id, checkin_at + n * interval '3 minutes', gen_random_uuid(), employee_id,
                            45 + n * 1e-4, 13 + n * 1e-4, 5, n
                     FROM (SELECT * FROM attendance_sessions
                           WHERE checkin_at >= '{month}-01 00:00Z' AND checkin_at < '{month}-01 00:00Z'::timestamptz + interval '1 month'
                           ORDER BY id) AS s, generate_series({first}, {last} - 1) AS n"
                ),
            )?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let halves = [0, 1].map(|half| months.iter().copied().skip(half).step_by(2).collect::<Vec<_>>());
        let loading: Vec<_> = halves.into_iter().map(|months| scope.spawn(|| load(months))).collect();
        loading.into_iter().try_for_each(|half| half.join().map_err(|_| Failure::new("loading ended badly"))?)
    })
}

/// Asks for the same again and again on one connection; `None` when there is no such route.
async fn ask(port: u16, token: &str, path: &str, requests: usize) -> Outcome<Option<Sample>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.context("cannot connect")?;
    stream.set_nodelay(true).context("cannot set up a connection")?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\r\n");
    let mut buffer = vec![0; 1 << 20];
    let mut latencies: Vec<Duration> = Vec::new();
    let mut bytes = 0;
    // The first tenth warms caches and plans, as the day before has done in practice.
    let warm = requests / 10 + 1;
    for number in 0..requests + warm {
        let begun = Instant::now();
        stream.write_all(request.as_bytes()).await.context("cannot send")?;
        let mut filled = 0;
        loop {
            let read = stream.read(&mut buffer[filled..]).await.context("cannot read")?;
            if read == 0 {
                return Err(Failure::new("the gateway closed a connection"));
            }
            filled += read;
            let text = str::from_utf8(&buffer[..filled]).unwrap_or_default();
            let Some((head, rest)) = text.split_once("\r\n\r\n") else { continue };
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
            if rest.len() < length.unwrap_or(0) {
                continue;
            }
            if head.starts_with("HTTP/1.1 404") && rest.contains("Route GET") {
                return Ok(None);
            }
            if !head.starts_with("HTTP/1.1 200") {
                return Err(Failure::new(format!("{path} answered {head}\n{rest}")));
            }
            bytes = rest.len();
            break;
        }
        if number >= warm {
            latencies.push(begun.elapsed());
        }
    }
    latencies.sort_unstable();
    let at = |share: f64| {
        let place = ((latencies.len() as f64 - 1.0) * share).max(0.0) as usize;
        latencies.get(place).map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
    };
    Ok(Some(Sample { p50_ms: at(0.5), p99_ms: at(0.99), bytes }))
}

/// The plans of statements that take longer than this are shown.
const PLANS_FROM_MS: f64 = 0.5;

/// Has PostgreSQL write down how it does each read, and reads that.
async fn plans(stack: &mut Stack, tokens: &[String; 2], user: &str, id: &str) -> Outcome<Vec<(&'static str, String)>> {
    stack.cluster.sql(
        "postgres",
        "ALTER DATABASE fieldtrack SET session_preload_libraries = 'auto_explain';
         ALTER DATABASE fieldtrack SET auto_explain.log_min_duration = 0;
         ALTER DATABASE fieldtrack SET auto_explain.log_analyze = on;
         ALTER DATABASE fieldtrack SET auto_explain.log_timing = off;
         ALTER DATABASE fieldtrack SET auto_explain.log_nested_statements = on;
         ALTER DATABASE fieldtrack SET auto_explain.log_parameter_max_length = 0;",
    )?;
    let mut gateway = stack.gateway(&[]).await?;
    let mut plans = Vec::new();
    for (name, who, path) in READS {
        let path = path.replace("{user}", user).replace("{employee}", id);
        let before = fs::read_to_string(stack.cluster.log()).context("cannot read the server's log")?.len();
        if ask(stack.port(), &tokens[usize::from(who == Who::Employee)], &path, 1).await?.is_none() {
            continue;
        }
        let log = fs::read_to_string(stack.cluster.log()).context("cannot read the server's log")?;
        plans.push((name, plans_in(&log[before..])));
    }
    gateway.stop(&mut stack.interrupt.clone()).await;
    Ok(plans)
}

/// The plans in a piece of the log: the last of each statement, those that took a while.
fn plans_in(log: &str) -> String {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut lines = log.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((_, took)) = line.split_once("duration: ") else { continue };
        let took: f64 = took.split(" ms").next().and_then(|number| number.parse().ok()).unwrap_or(0.0);
        let mut block = Vec::new();
        while let Some(more) = lines.next_if(|line| line.starts_with('\t')) {
            block.push(more.trim_start_matches('\t').trim_end());
        }
        if took < PLANS_FROM_MS {
            continue;
        }
        // The statement's own lines come first; the plan begins where it says how many rows there were.
        let begins = block.iter().position(|line| line.contains("(cost=")).unwrap_or(block.len());
        let statement = block[..begins].join(" ");
        let mut plan = format!("{took:.1} ms\n");
        for line in &block[begins..] {
            let line = line.split("  (cost=").next().unwrap_or_default().to_owned()
                + line
                    .split_once("(actual ")
                    .map_or("", |(_, actual)| actual)
                    .split(')')
                    .next()
                    .map_or(String::new(), |rows| if rows.is_empty() { String::new() } else { format!("  ({rows})") })
                    .as_str();
            let short: String = line.chars().take(140).collect();
            let _ = writeln!(plan, "{short}");
        }
        match found.iter_mut().find(|(known, _)| *known == statement) {
            Some((_, latest)) => *latest = plan,
            None => found.push((statement, plan)),
        }
    }
    found.into_iter().map(|(_, plan)| plan).collect::<Vec<_>>().join("\n")
}

fn report(
    found: &[[Option<Sample>; 2]],
    sizes: [u32; 2],
    options: &Options,
    machine: &str,
    plans: &[(&'static str, String)],
) -> (String, bool) {
    let [less, more] = sizes;
    let mut text = format!(
        "Machine: {machine}. {} employees, {} sessions, {} claims; {less} M and {more} M fixes in monthly partitions. Load \
         generator, gateway, PostgreSQL (stock settings) and Redis share the machine; {} requests each on one connection.\n\n\
         | read | p50 / p99 ms at {less} M | p50 / p99 ms at {more} M | p50 ratio | kB |\n| --- | ---: | ---: | ---: | ---: |\n",
        options.employees,
        options.employees * options.days,
        options.employees * (options.days / 3),
        options.requests,
    );
    let mut slow = Vec::new();
    for ((name, ..), samples) in READS.iter().zip(found) {
        let [Some(before), Some(after)] = samples else { continue };
        let ratio = after.p50_ms / before.p50_ms;
        let _ = writeln!(
            text,
            "| {name} | {:.1} / {:.1} | {:.1} / {:.1} | {ratio:.2} | {:.1} |",
            before.p50_ms,
            before.p99_ms,
            after.p50_ms,
            after.p99_ms,
            after.bytes as f64 / 1000.0
        );
        if after.p99_ms >= P99_MS || before.p99_ms >= P99_MS || ratio >= RATIO {
            slow.push(*name);
        }
    }
    let verdict = if slow.is_empty() { "met".to_owned() } else { format!("NOT met by {}", slow.join(", ")) };
    let _ = write!(
        text,
        "\n- p99 under {P99_MS:.0} ms, and p50 at {more} M under {RATIO} times that at {less} M: {verdict}"
    );
    let _ =
        write!(text, "\n\n<details><summary>Plans at {more} M (statements of {PLANS_FROM_MS} ms and more)</summary>\n");
    for (name, plan) in plans.iter().filter(|(_, plan)| !plan.is_empty()) {
        let _ = write!(text, "\n{name}\n\n```\n{plan}```\n");
    }
    text.push_str("\n</details>");
    (text, slow.is_empty())
}
