//! The gateway's command line.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use api_gateway::config::Config;
use api_gateway::features::audit::Verification;
use api_gateway::identity::passwords::Passwords;
use api_gateway::identity::provision::{NewOrganization, create_organization};
use api_gateway::startup::Application;
use clap::{Parser, Subcommand};
use db::DatabaseConfig;
use domain::SystemClock;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use secrecy::SecretString;
use settings::{InvalidSettings, Settings};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit status for a wrong configuration (EX_CONFIG of sysexits).
const WRONG_CONFIGURATION: u8 = 78;

#[derive(Parser)]
#[command(name = "api-gateway", version, about = "FieldTrack's API")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the API (the default)
    Serve,
    /// Ask the gateway on this machine whether it is alive; exit 0 if so
    Healthcheck,
    /// Bring the database up to this version (reads MIGRATION_DATABASE_URL)
    Migrate,
    /// Say what is wrong with the settings, if anything
    CheckConfig,
    /// Print the API's description, as it is served at /openapi.json
    Openapi,
    /// List every variable this program reads, a JSON object a line
    Settings,
    /// Tell the newest step built into this program and, with MIGRATION_DATABASE_URL, how far the database is
    Schema,
    /// The audit log
    #[command(subcommand)]
    Audit(Audit),
    /// Organizations
    #[command(subcommand)]
    Organization(Organization),
}

#[derive(Subcommand)]
enum Audit {
    /// Compute every organization's chain anew; one JSON line each, exit 1 when one is broken
    Verify,
}

#[derive(Subcommand)]
enum Organization {
    /// Make an organization and its first administrator; the password comes from ADMIN_PASSWORD or standard input
    Create {
        /// Its name
        #[arg(long)]
        name: String,
        /// Its short name: lower-case letters, digits and single hyphens
        #[arg(long)]
        slug: String,
        /// The administrator's e-mail address
        #[arg(long)]
        admin_email: String,
        /// The time zone of its days and weeks, an IANA name such as Europe/Rome
        #[arg(long, default_value = "UTC")]
        time_zone: String,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().command.unwrap_or(Command::Serve) {
        Command::Serve => with_config(serve),
        Command::CheckConfig => with_config(|_| say("the settings are fine")),
        Command::Settings => list_settings(),
        Command::Schema => schema(),
        Command::Healthcheck => healthcheck(),
        Command::Openapi => match api_gateway::http::openapi::document() {
            Ok(document) => say(document.json.trim_end()),
            Err(error) => complain(error, 1),
        },
        Command::Migrate => migrate(),
        Command::Audit(Audit::Verify) => audit_verify(),
        Command::Organization(Organization::Create { name, slug, admin_email, time_zone }) => {
            with_config(|config| organization_create(config, name, slug, admin_email, time_zone))
        }
    }
}

#[expect(clippy::print_stdout, reason = "a command answers on standard output")]
fn say(text: &str) -> ExitCode {
    println!("{text}");
    ExitCode::SUCCESS
}

#[expect(clippy::print_stderr, reason = "a command complains on standard error")]
fn complain(text: impl std::fmt::Display, status: u8) -> ExitCode {
    eprintln!("{text}");
    ExitCode::from(status)
}

fn with_config(command: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    match Config::read(Settings::from_environment()) {
        Ok(config) => command(config),
        Err(problems) => complain(problems, WRONG_CONFIGURATION),
    }
}

/// Every stream and socket is an open file, and the usual limit is for programs that could not bear more than 1,024: as
/// many as whoever runs us allows.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).is_err() {
        tracing::warn!(most = limit.current, "the number of open files stays as it is");
    }
}

fn serve(config: Config) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(format_args!("no runtime: {error}"), 1),
    };
    runtime.block_on(async {
        let telemetry = match telemetry::init(&config.telemetry) {
            Ok(telemetry) => telemetry,
            Err(error) => return complain(error, 1),
        };
        raise_open_files();
        let shutdown_timeout = config.shutdown_timeout;
        let listener = match TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], config.port))) {
            Ok(listener) => listener,
            Err(error) => return complain(format_args!("port {} cannot be used: {error}", config.port), 1),
        };
        let application = match Application::build(config, telemetry.registry(), Arc::new(SystemClock), listener) {
            Ok(application) => application,
            Err(error) => return complain(error, WRONG_CONFIGURATION),
        };
        tracing::info!(port = application.address().port(), "serving");
        tokio::spawn(drain_when_told(application.stopper(), shutdown_timeout));
        let ended = application.serve().await;
        telemetry.shutdown();
        match ended {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(error, 1),
        }
    })
}

/// Waits for SIGTERM or SIGINT, then drains; a second signal ends the process at once.
async fn drain_when_told(stopper: api_gateway::startup::Stopper, within: Duration) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be heard; the process will have to be killed");
        return;
    };
    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    tracing::info!(within_s = within.as_secs(), "draining");
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        std::process::exit(1);
    });
    stopper.drain().await;
}

fn healthcheck() -> ExitCode {
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(3000);
    match ask_health(port) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => complain("not healthy", 1),
        Err(error) => complain(format_args!("no answer: {error}"), 1),
    }
}

fn ask_health(port: u16) -> std::io::Result<bool> {
    use std::io::Write;
    let patience = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    Ok(answer.ends_with(b" 200"))
}

fn migrate() -> ExitCode {
    let mut settings = Settings::from_environment();
    let url = settings.required_secret("MIGRATION_DATABASE_URL");
    if let Err(InvalidSettings(problems)) = settings.finish() {
        return complain(problems.join("\n"), WRONG_CONFIGURATION);
    }
    match db::migrate(&url) {
        Ok(done) if done.is_empty() => say("nothing to migrate"),
        Ok(done) => say(&format!("migrated: {}", done.join(", "))),
        Err(error) => complain(error, 1),
    }
}

/// What `migrate` and `schema` read beside the configuration, which a running gateway never sees.
fn owner_url(settings: &mut Settings) -> Option<SecretString> {
    settings.secret("MIGRATION_DATABASE_URL")
}

fn list_settings() -> ExitCode {
    let read = |mut settings: Settings| {
        owner_url(&mut settings);
        Config::read(settings)
    };
    let situations: [&[(&str, &str)]; 4] =
        [&[], &[("APP_ENV", "production")], &[("IDENTITY", "supabase")], &[("RECEIPTS_STORE", "s3")]];
    let lines: Vec<String> = settings::describe(read, &situations)
        .into_iter()
        .map(|variable| {
            serde_json::json!({
                "name": variable.name,
                "rule": variable.rule,
                "default": variable.default,
                "secret": variable.secret,
                "required": variable.required.as_str(),
            })
            .to_string()
        })
        .collect();
    say(&lines.join("\n"))
}

fn schema() -> ExitCode {
    let mut settings = Settings::from_environment();
    let url = owner_url(&mut settings);
    if let Err(InvalidSettings(problems)) = settings.finish() {
        return complain(problems.join("\n"), WRONG_CONFIGURATION);
    }
    let told = db::built_in_head().and_then(|head| {
        let Some(url) = url else { return Ok(serde_json::json!({ "head": head })) };
        let schema = db::schema(&url)?;
        Ok(serde_json::json!({
            "head": head,
            "applied": schema.applied,
            "floor": schema.floor,
            "database_time": schema.now,
        }))
    });
    match told {
        Ok(told) => say(&told.to_string()),
        Err(error) => complain(error, 1),
    }
}

/// Needs nothing but the database: an operator may run it from anywhere.
fn audit_verify() -> ExitCode {
    let mut settings = Settings::from_environment();
    let database = DatabaseConfig::read(&mut settings, "SYSTEM_DATABASE_URL");
    if let Err(InvalidSettings(problems)) = settings.finish() {
        return complain(problems.join("\n"), WRONG_CONFIGURATION);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(format_args!("no runtime: {error}"), 1),
    };
    let verdicts = runtime.block_on(async {
        let db = db::Db::open(&database, &database).map_err(|error| error.to_string())?;
        let mut tx = db.system().await.map_err(|error| error.to_string())?;
        let verdicts = db::audit::verify_all(&mut tx).await.map_err(|error| error.to_string())?;
        tx.commit().await.map_err(|error| error.to_string())?;
        Ok::<_, String>(verdicts)
    });
    let verdicts = match verdicts {
        Ok(verdicts) => verdicts,
        Err(error) => return complain(error, 1),
    };
    let mut broken = false;
    for (organization, verdict) in verdicts {
        broken |= matches!(verdict, db::audit::Verdict::Broken { .. });
        let mut line = serde_json::json!({ "organization_id": organization });
        if let (Some(line), Ok(serde_json::Value::Object(found))) =
            (line.as_object_mut(), serde_json::to_value(Verification::from(verdict)))
        {
            line.extend(found);
        }
        say(&line.to_string());
    }
    if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn organization_create(config: Config, name: String, slug: String, admin_email: String, time_zone: String) -> ExitCode {
    let password = match admin_password() {
        Ok(password) => password,
        Err(error) => return complain(format_args!("no password: {error}"), 1),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(format_args!("no runtime: {error}"), 1),
    };
    let made = runtime.block_on(async {
        let db = db::Db::open(&config.database, &config.system_database).map_err(|error| error.to_string())?;
        let new = NewOrganization { name, slug, admin_email, password, time_zone: Some(time_zone) };
        create_organization(&db, &Passwords::new(), new).await.map_err(|error| error.to_string())
    });
    match made {
        Ok(made) => say(&serde_json::json!({
            "organization_id": made.organization,
            "user_id": made.user,
        })
        .to_string()),
        Err(error) => complain(error, 1),
    }
}

fn admin_password() -> std::io::Result<SecretString> {
    if let Ok(password) = std::env::var("ADMIN_PASSWORD")
        && !password.is_empty()
    {
        return Ok(password.into());
    }
    let mut password = String::new();
    std::io::stdin().read_to_string(&mut password)?;
    Ok(password.trim_end_matches(['\n', '\r']).to_owned().into())
}
