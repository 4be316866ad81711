//! Another identity provider is told who may sign in.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use chrono::{DateTime, TimeDelta, Utc};
use db::Db;
use distance_worker::schedule::{Schedule, Task};
use distance_worker::sign_in::Provider;
use domain::{Clock, ManualClock, Tenant, UserId};
use serde_json::{Value, json};
use testkit::database::{TestDatabase, tenant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::{NO_REDIS, TestWorker, eventually, schedule};

/// A status line and a body; without them the project hangs up.
type Answer = Option<(&'static str, &'static str)>;

/// The admin API of a Supabase project: answers what it was bidden to, then always 200, and keeps what it was told.
#[derive(Clone, Default)]
struct Project {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    requests: Arc<Mutex<Vec<String>>>,
    /// Whoever holds it keeps the project from answering.
    answering: Arc<tokio::sync::Mutex<()>>,
}

impl Project {
    async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let project = self.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = String::new();
                let mut buffer = vec![0; 8192];
                while !request.ends_with('}') {
                    let read = stream.read(&mut buffer).await.unwrap();
                    request.push_str(&String::from_utf8_lossy(&buffer[..read]));
                }
                project.requests.lock().unwrap().push(request);
                drop(project.answering.lock().await);
                let answer = project.answers.lock().unwrap().pop_front().unwrap_or(Some(("200 OK", "{}")));
                if let Some((status, body)) = answer {
                    let length = body.len();
                    let answer =
                        format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        });
        address
    }

    fn answers(&self, answers: &[Answer]) {
        self.answers.lock().unwrap().extend(answers);
    }

    /// What it was told since this was last asked: of whom, and what.
    fn told(&self) -> Vec<(String, Value)> {
        let told = |request: &String| {
            let path = request.split_whitespace().nth(1).unwrap();
            let body = request.split_once("\r\n\r\n").unwrap().1;
            (path.rsplit_once('/').unwrap().1.to_owned(), serde_json::from_str(body).unwrap())
        };
        self.requests.lock().unwrap().drain(..).collect::<Vec<_>>().iter().map(told).collect()
    }
}

struct World {
    db: Db,
    client: Client,
    clock: Arc<ManualClock>,
    schedule: Schedule,
    project: Project,
}

async fn world() -> World {
    let database = TestDatabase::create().await;
    let clock = Arc::new(ManualClock::at(DateTime::from_timestamp(1_790_000_000, 0).unwrap()));
    let project = Project::default();
    let provider = Provider::new(&project.serve().await, &"the service key".to_owned().into()).unwrap();
    let schedule = Schedule { provider: Some(Arc::new(provider)), ..schedule(&database, NO_REDIS, &clock) };
    World { db: database.open(), client: database.superuser().await, clock, schedule, project }
}

impl World {
    async fn employee(&self) -> (Tenant, UserId) {
        employee(&self.client).await
    }

    /// Decides whether they may work, as an administrator does.
    async fn decide(&self, whose: (Tenant, UserId), active: bool) {
        decide(&self.db, whose, active, self.clock.now()).await;
    }

    async fn turn(&self) {
        self.schedule.turn(Task::SignIn).await;
    }

    /// A turn in which something happens after the project was asked and before it answers.
    async fn turn_and_meanwhile(&self, happens: impl AsyncFnOnce()) {
        let held = self.project.answering.lock().await;
        let meanwhile = async {
            eventually("the project is asked", async || !self.project.requests.lock().unwrap().is_empty()).await;
            happens().await;
            drop(held);
        };
        tokio::join!(self.turn(), meanwhile);
    }

    /// What another worker leaves that told what holds.
    async fn told_by_another(&self) {
        self.client.execute("DELETE FROM sign_in_notices", &[]).await.unwrap();
    }

    /// How many turns failed.
    fn failed(&self) -> u32 {
        let text = self.schedule.metrics.encode();
        let is_it = |line: &&str| line.starts_with("schedule_turns_total{") && line.contains("outcome=\"failed\"");
        text.lines().find(is_it).map_or(0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
    }

    /// How many notices wait.
    async fn waiting(&self) -> i64 {
        self.client.query_one("SELECT count(*) FROM sign_in_notices", &[]).await.unwrap().get(0)
    }
}

/// An employee who signs in, of an organization of their own.
async fn employee(client: &Client) -> (Tenant, UserId) {
    let (organization, user) = (Uuid::now_v7(), Uuid::now_v7());
    client
        .batch_execute(&format!(
            "INSERT INTO organizations (id, name, slug) VALUES ('{organization}', 'Field Services', 'o{0}');
             INSERT INTO users (organization_id, id, email, role)
                 VALUES ('{organization}', '{user}', '{user}@people.example', 'EMPLOYEE');
             INSERT INTO employees (organization_id, id, user_id, name, employee_code)
                 VALUES ('{organization}', '{user}', '{user}', 'Asha', 'EMP0001')",
            organization.simple()
        ))
        .await
        .unwrap();
    (tenant(organization), user.into())
}

async fn decide(db: &Db, (tenant, user): (Tenant, UserId), active: bool, now: DateTime<Utc>) {
    let mut tx = db.tenant(tenant).await.unwrap();
    db::employees::set_active(&mut tx, user.uuid().into(), active, now).await.unwrap().unwrap();
    db::sign_in::note(&mut tx, user, now).await.unwrap();
    tx.commit().await.unwrap();
}

fn ban(user: UserId) -> (String, Value) {
    (user.to_string(), json!({ "ban_duration": "876000h" }))
}

fn no_ban(user: UserId) -> (String, Value) {
    (user.to_string(), json!({ "ban_duration": "none" }))
}

#[tokio::test]
async fn a_deactivation_is_told_once_and_so_is_what_undoes_it() {
    let world = world().await;
    let (asha, ben) = (world.employee().await, world.employee().await);
    world.turn().await;
    assert_eq!(world.project.told(), []);
    world.decide(asha, false).await;
    world.turn().await;
    let request = world.project.requests.lock().unwrap()[0].to_lowercase();
    assert!(request.starts_with(&format!("put /auth/v1/admin/users/{} http/1.1\r\n", asha.1)), "{request}");
    for header in ["apikey: the service key", "authorization: bearer the service key", "content-type: application/json"]
    {
        assert!(request.contains(&format!("\r\n{header}\r\n")), "{header}: {request}");
    }
    assert_eq!(world.project.told(), [ban(asha.1)]);
    world.turn().await;
    assert_eq!((world.project.told(), world.waiting().await), (Vec::new(), 0));
    world.decide(ben, false).await;
    world.decide(asha, true).await;
    world.turn().await;
    assert_eq!(world.project.told(), [ban(ben.1), no_ban(asha.1)]);
    // Of what was decided twice before anybody told it, the last counts.
    world.decide(asha, false).await;
    world.decide(asha, true).await;
    world.turn().await;
    assert_eq!((world.project.told(), world.waiting().await), (vec![no_ban(asha.1)], 0));
}

#[tokio::test]
async fn a_project_that_is_away_is_told_when_it_is_back() {
    let world = world().await;
    let (asha, ben) = (world.employee().await, world.employee().await);
    world.decide(asha, false).await;
    world.clock.advance(TimeDelta::seconds(1));
    world.decide(ben, false).await;
    let away = ["503 Service Unavailable", "429 Too Many Requests", "301 Moved Permanently"];
    for answer in away.map(|status| Some((status, "{}"))).into_iter().chain([None]) {
        world.project.answers(&[answer]);
        world.turn().await;
        // Nobody else is asked about while it is away, and nothing is lost.
        assert_eq!((world.project.told().len(), world.waiting().await), (1, 2), "{answer:?}");
    }
    world.turn().await;
    let mut told = world.project.told();
    told.sort_by_key(|(user, _)| *user != asha.1.to_string());
    assert_eq!((told, world.waiting().await), (vec![ban(asha.1), ban(ben.1)], 0));
    // The turn that failed is not waited for until the next one would be due.
    world.decide(asha, true).await;
    world.project.answers(&[None]);
    assert!(world.schedule.take_turns().await.unwrap().contains(&Task::SignIn));
    world.turn().await;
    world.clock.advance(TimeDelta::seconds(30));
    assert!(world.schedule.take_turns().await.unwrap().contains(&Task::SignIn));
}

#[tokio::test]
async fn what_the_project_refuses_does_not_keep_others_waiting() {
    let world = world().await;
    let mut people = Vec::new();
    for _ in 0..6 {
        people.push(world.employee().await);
        world.decide(people[people.len() - 1], false).await;
    }
    world.project.answers(&[
        Some(("401 Unauthorized", r#"{"message":"Invalid API key"}"#)),
        Some(("404 Not Found", r#"{"code":404,"error_code":"user_not_found","msg":"User not found"}"#)),
        Some(("404 Not Found", r#"{"code":404,"msg":"User not found"}"#)),
        // No answer of the project: the address is wrong.
        Some(("404 Not Found", "<html>no Route matched with those values</html>")),
        Some(("404 Not Found", r#"{"message":"no Route matched with those values"}"#)),
    ]);
    world.turn().await;
    assert_eq!(world.project.told().len(), people.len());
    // Whom the project does not know cannot sign in there; what it refused is told again, and somebody has to know.
    assert_eq!((world.waiting().await, world.failed()), (3, 1));
    world.clock.advance(TimeDelta::minutes(5) - TimeDelta::seconds(1));
    world.turn().await;
    assert_eq!(world.project.told(), []);
    world.clock.advance(TimeDelta::seconds(1));
    world.turn().await;
    assert_eq!((world.project.told().len(), world.waiting().await), (3, 0));
    // What is decided after a refusal does not wait for that long.
    let asha = people[0];
    world.decide(asha, true).await;
    world.project.answers(&[Some(("403 Forbidden", "{}"))]);
    world.turn().await;
    assert_eq!((world.project.told(), world.waiting().await, world.failed()), (vec![no_ban(asha.1)], 1, 2));
    world.clock.advance(TimeDelta::seconds(1));
    world.decide(asha, false).await;
    world.turn().await;
    assert_eq!((world.project.told(), world.waiting().await, world.failed()), (vec![ban(asha.1)], 0, 2));
    // Nor does what is decided while it refuses.
    world.decide(asha, true).await;
    world.project.answers(&[Some(("403 Forbidden", "{}"))]);
    world.turn_and_meanwhile(async || world.decide(asha, false).await).await;
    assert_eq!((world.project.told(), world.waiting().await), (vec![no_ban(asha.1), ban(asha.1)], 0));
}

#[tokio::test]
async fn the_last_word_is_what_holds_whoever_was_held_up() {
    let world = world().await;
    let asha = world.employee().await;
    // Somebody tells a ban, is held up, and meanwhile somebody else tells that it is over.
    world.decide(asha, false).await;
    world
        .turn_and_meanwhile(async || {
            world.decide(asha, true).await;
            world.told_by_another().await;
        })
        .await;
    assert_eq!((world.project.told(), world.waiting().await), (vec![ban(asha.1), no_ban(asha.1)], 0));
    // The same, held up for longer than the notice was theirs.
    world.decide(asha, false).await;
    world
        .turn_and_meanwhile(async || {
            world.clock.advance(TimeDelta::seconds(31));
            world.decide(asha, true).await;
            world.told_by_another().await;
        })
        .await;
    assert_eq!((world.project.told(), world.waiting().await), (vec![ban(asha.1), no_ban(asha.1)], 0));
    // The same, and the answer is lost: the project may have done it.
    world.decide(asha, false).await;
    world.project.answers(&[None]);
    world
        .turn_and_meanwhile(async || {
            world.decide(asha, true).await;
            world.told_by_another().await;
        })
        .await;
    assert_eq!((world.project.told(), world.waiting().await), (vec![ban(asha.1)], 1));
    world.turn().await;
    assert_eq!((world.project.told(), world.waiting().await), (vec![no_ban(asha.1)], 0));
    // A notice that somebody else took meanwhile stays theirs.
    world.decide(asha, false).await;
    world
        .turn_and_meanwhile(async || {
            world.clock.advance(TimeDelta::seconds(31));
            let now = world.clock.now();
            let mut tx = world.db.system().await.unwrap();
            db::sign_in::take(&mut tx, now, now + TimeDelta::seconds(30)).await.unwrap().unwrap();
            tx.commit().await.unwrap();
        })
        .await;
    assert_eq!((world.project.told(), world.waiting().await), (vec![ban(asha.1)], 1));
}

#[tokio::test]
async fn what_is_decided_while_somebody_tells_is_told_after_it() {
    let world = world().await;
    let asha = world.employee().await;
    world.decide(asha, false).await;
    let now = world.clock.now();
    let take = async || {
        let mut tx = world.db.system().await.unwrap();
        let now = world.clock.now();
        let taken = db::sign_in::take(&mut tx, now, now + TimeDelta::seconds(30)).await.unwrap();
        tx.commit().await.unwrap();
        taken
    };
    let first = take().await.unwrap();
    assert_eq!(first.user(), asha.1);
    // The other worker is on its way to the project: its answer must not come after ours.
    world.decide(asha, true).await;
    world.turn().await;
    assert_eq!(world.project.told(), []);
    let mut tx = world.db.system().await.unwrap();
    db::sign_in::told(&mut tx, &first, now).await.unwrap();
    tx.commit().await.unwrap();
    world.turn().await;
    assert_eq!((world.project.told(), world.waiting().await), (vec![no_ban(asha.1)], 0));
    // One that dies on its way is followed by another.
    world.decide(asha, false).await;
    take().await.unwrap();
    world.clock.advance(TimeDelta::seconds(29));
    world.turn().await;
    assert_eq!(world.project.told(), []);
    world.clock.advance(TimeDelta::seconds(1));
    world.turn().await;
    assert_eq!(world.project.told(), [ban(asha.1)]);
}

#[tokio::test]
async fn a_worker_tells_with_the_key_and_keeps_what_it_cannot_tell_without() {
    let project = Project::default();
    let url = project.serve().await;
    let mut settings = vec![("IDENTITY", "supabase"), ("SUPABASE_URL", &*url)];
    let without = TestWorker::start(&settings).await;
    let client = without.database.superuser().await;
    let whose = employee(&client).await;
    decide(&without.db, whose, false, Utc::now()).await;
    let turns = "SELECT count(*) FROM schedule_turns WHERE task = 'sign-in'";
    let count = async |sql: &str| -> i64 { client.query_one(sql, &[]).await.unwrap().get(0) };
    eventually("the turn is taken", async || count(turns).await == 1).await;
    without.stop().await;
    assert_eq!((project.told(), count("SELECT count(*) FROM sign_in_notices").await), (Vec::new(), 1));

    settings.push(("SUPABASE_SERVICE_ROLE_KEY", "the service key"));
    let with = TestWorker::start(&settings).await;
    let whose = employee(&with.database.superuser().await).await;
    decide(&with.db, whose, false, Utc::now()).await;
    let mut told = Vec::new();
    eventually("the project is told", async || {
        told.extend(project.told());
        !told.is_empty()
    })
    .await;
    assert_eq!(told, [ban(whose.1)]);
    with.stop().await;
}
