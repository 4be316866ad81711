//! A database of a test's own, cloned from a migrated template.

use std::path::Path;
use std::sync::OnceLock;
use std::{env, fs};

use domain::Tenant;
use domain::auth::Claims;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

/// The variable that names the test server: a superuser's address of its database `postgres`.
pub const SERVER: &str = "FIELDTRACK_TEST_POSTGRES_URL";

/// The roles of the product on the test server all have this password; the server listens to this machine only.
const PASSWORD: &str = "fieldtrack-test";

/// The right to an organization's rows, as a verified token of one of its administrators would give it.
#[must_use]
pub fn tenant(organization: Uuid) -> Tenant {
    let claims = Claims {
        sub: Some(Uuid::now_v7().to_string()),
        role: Some("ADMIN".to_owned()),
        org_id: Some(organization.to_string()),
        ..Claims::default()
    };
    Tenant::of(&claims.into_identity().expect("the claims are complete"))
}

/// A migrated database that nobody else uses. It is left behind on the test server, which is thrown away as a whole.
#[derive(Debug, Clone)]
pub struct TestDatabase {
    name: String,
}

impl TestDatabase {
    /// Clones the template, and makes that first when this is the first test that asks.
    ///
    /// Panics when the server is not there: a test without its database can prove nothing.
    pub async fn create() -> Self {
        static TEMPLATE: OnceLock<String> = OnceLock::new();
        let server = connect("postgres", None).await;
        let template = TEMPLATE.get_or_init(template_name).clone();
        // Every test process may be the first; the others wait here until the template is complete.
        server.batch_execute("SELECT pg_advisory_lock(4669656)").await.expect("the test server takes locks");
        let there = server
            .query_one("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", &[&template])
            .await
            .expect("the test server lists its databases");
        if !there.get::<_, bool>(0) {
            prepare(&server, &template).await;
        }
        let name = format!("test_{}", Uuid::now_v7().simple());
        server
            .batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {template} OWNER fieldtrack_owner"))
            .await
            .expect("the template can be cloned");
        Self { name }
    }

    /// An empty database, for tests of the migrations themselves.
    pub async fn empty() -> Self {
        let server = connect("postgres", None).await;
        server.batch_execute("SELECT pg_advisory_lock(4669656)").await.expect("the test server takes locks");
        create_roles(&server).await;
        let name = format!("test_{}", Uuid::now_v7().simple());
        server
            .batch_execute(&format!("CREATE DATABASE {name} OWNER fieldtrack_owner"))
            .await
            .expect("a database can be made");
        Self { name }
    }

    /// The database by both roles, as a service opens it.
    #[must_use]
    pub fn open(&self) -> db::Db {
        let config = |url: String| db::DatabaseConfig::new(url.into());
        db::Db::open(&config(self.app_url()), &config(self.system_url())).expect("the addresses are right")
    }

    /// Address for the application's role.
    #[must_use]
    pub fn app_url(&self) -> String {
        address(&self.name, Some("fieldtrack_app"))
    }

    /// Address for the system role.
    #[must_use]
    pub fn system_url(&self) -> String {
        address(&self.name, Some("fieldtrack_system"))
    }

    /// Address for the owner, who migrates.
    #[must_use]
    pub fn owner_url(&self) -> String {
        address(&self.name, Some("fieldtrack_owner"))
    }

    /// A connection as superuser, for what a test must see or break behind everybody's back.
    pub async fn superuser(&self) -> Client {
        connect(&self.name, None).await
    }

    /// A connection with the application's role: what a request could reach at the most.
    pub async fn as_app(&self) -> Client {
        connect(&self.name, Some("fieldtrack_app")).await
    }

    /// A connection with the system role.
    pub async fn as_system(&self) -> Client {
        connect(&self.name, Some("fieldtrack_system")).await
    }
}

/// Templates of other versions of the schema may be there from earlier runs; each version has its own name.
fn template_name() -> String {
    use std::hash::{DefaultHasher, Hasher};
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations");
    let mut steps: Vec<_> =
        folder.read_dir().expect("the migrations are there").flatten().map(|step| step.path()).collect();
    steps.sort();
    let mut hasher = DefaultHasher::new();
    for step in steps {
        hasher.write(step.as_os_str().as_encoded_bytes());
        hasher.write(&fs::read(step.join("up.sql")).unwrap_or_default());
    }
    format!("template_{:016x}", hasher.finish())
}

async fn prepare(server: &Client, template: &str) {
    create_roles(server).await;
    server
        .batch_execute(&format!("CREATE DATABASE {template} OWNER fieldtrack_owner"))
        .await
        .expect("the template can be made");
    let url = address(template, Some("fieldtrack_owner"));
    let migrated = tokio::task::spawn_blocking(move || db::migrate(&url.into())).await.expect("migrating ends");
    if let Err(error) = migrated {
        // A template that stayed half made would fail every later run.
        let _ = server.batch_execute(&format!("DROP DATABASE {template} WITH (FORCE)")).await;
        panic!("the template cannot be migrated: {error}");
    }
}

async fn create_roles(server: &Client) {
    for role in ["fieldtrack_owner", "fieldtrack_app", "fieldtrack_system"] {
        server
            .batch_execute(&format!(
                "DO $$ BEGIN
                    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN CREATE ROLE {role}; END IF;
                 END $$;
                 ALTER ROLE {role} LOGIN PASSWORD '{PASSWORD}'"
            ))
            .await
            .expect("roles can be made");
    }
}

async fn connect(database: &str, role: Option<&str>) -> Client {
    let (client, connection) =
        tokio_postgres::connect(&address(database, role), NoTls).await.expect("the test server answers");
    tokio::spawn(connection);
    client
}

/// The server's address with another database and, where given, another role.
fn address(database: &str, role: Option<&str>) -> String {
    let server =
        env::var(SERVER).unwrap_or_else(|_| panic!("{SERVER} is not set: run the tests with `cargo xtask test`"));
    let (scheme, rest) = server.split_once("://").expect("the server's address has a scheme");
    let (authority, _) = rest.rsplit_once('/').expect("the server's address names a database");
    let (user, host) = authority.rsplit_once('@').expect("the server's address names a user");
    let user = role.map_or_else(|| user.to_owned(), |role| format!("{role}:{PASSWORD}"));
    format!("{scheme}://{user}@{host}/{database}")
}
